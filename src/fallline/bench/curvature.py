"""``fallline bench curvature``: what Hessian products, eigenvalues, traces and densities cost, beside other libraries.

The model is a 784-512-512-10 tanh network on Fashion-MNIST, at initialisation and after 300 steps of momentum. Others' entries are
timed where they can be imported. Errors are relative to a run of our own to a tenth of the residual that is asked for, which is a
hundredth or less of its error. Times are the processor's, so that other work on the machine counts for little.
"""

from __future__ import annotations

import importlib
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fallline.core.errors import InvalidValueError
from fallline.core.oracle import Oracle, of_module
from fallline.curvature import (
    Eigenpairs,
    Operator,
    eigsh,
    estimate_diagonal,
    ggn,
    gradient,
    gradient_statistics,
    hessian,
    spectral_density,
    trace,
)
from fallline.tasks import fetch, load

__all__ = ["CurvatureRow", "Problem", "measure_curvature", "missing_peers", "problem"]

TOL = 1e-3
PROBES, STEPS, DIAGONAL = 2, 30, 10
PEERS = {"curvlinops": "curvlinops-for-pytorch", "pyhessian": "PyHessian"}


@dataclass(frozen=True)
class CurvatureRow:
    """One measurement. ``error`` is that of the worst value, relative; products are counted in gradients of the same minute."""

    state: str
    what: str
    by: str
    seconds: float
    gradients: float  # the same time in gradients
    products: int = 0
    error: float | None = None
    failed: str = ""

    @property
    def per_product(self) -> float | None:
        """Gradients for each product."""
        return self.gradients / self.products if self.products else None


@dataclass(frozen=True)
class Problem:
    """A model, its data, and the loss."""

    state: str
    model: nn.Module
    batch: tuple[Tensor, Tensor]

    @property
    def oracle(self) -> Oracle:
        return of_module(self.model, F.cross_entropy)


def problem(num_examples: int = 2000, trained: bool = False, width: int = 512) -> Problem:
    """The network and its data; trained for 300 steps of batches of 128, momentum 0.9 and rate 0.02."""
    if num_examples < 128:
        raise InvalidValueError(
            f"bench curvature got {num_examples} examples. Expected at least 128, a batch of the training. Leave it at 2000."
        )
    task = load("fashion-cnn")
    images, labels = fetch(task.train, torch.arange(min(num_examples, len(task.train))))
    x = images.flatten(1)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(784, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 10))
    if trained:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
        for _ in range(300):
            chosen = torch.randint(len(x), (128,))
            optimizer.zero_grad()
            F.cross_entropy(model(x[chosen]), labels[chosen]).backward()
            optimizer.step()
    return Problem("trained" if trained else "initialisation", model, (x, labels))


def missing_peers() -> list[str]:
    """A line for each library that is not there to be timed."""
    return [f"{name}: pip install {package}" for name, package in PEERS.items() if _module(name) is None]


def measure_curvature(
    at: Problem, rounds: int = 7, quick: bool = False, say: Callable[[str], None] = lambda text: None
) -> Iterator[CurvatureRow]:
    """Rows as they are measured; every time is set against gradients timed just before and after."""
    oracle, batch = at.oracle, at.batch
    params = {name: p.detach() for name, p in oracle.params.items()}
    clock = _Clock(at.state, lambda: oracle.value_and_grad(params, batch))

    say("one product")
    yield from clock.products(_products(at), rounds)
    h = hessian(oracle, batch)
    say("reference")
    exact = eigsh(h, 2 if quick else 10, tol=TOL / 10, max_products=400)
    for what, k in (("top eigenvalue", 1), *([] if quick else [("top 10 eigenvalues", 10)])):
        for by, run in _solvers(at, h, k, quick):
            say(f"{what}, {by}")
            yield clock.row(what, by, run, exact.values[:k])
    moved = _after_a_step(at)
    after = hessian(moved.oracle, batch)
    start = Eigenpairs(exact.values[:1], exact.vectors[:, :1], exact.bounds[:1], 0, True, exact.space)
    say("warm start")
    known = eigsh(after, tol=TOL / 10)
    yield clock.row("top eigenvalue, a step later", "fallline, warm", _ours(after, 1, start=start), known.values)
    for what, by, do in _estimates(at, h, quick):
        say(f"{what}, {by}")
        yield clock.row(what, by, lambda do=do: (None, do()), None)  # type: ignore[misc]


def _estimates(at: Problem, h: Operator, quick: bool) -> Iterator[tuple[str, str, Callable[[], int]]]:
    """What is estimated from random vectors: ours, then others' with as many products (PyHessian has no Gauss-Newton)."""
    gauss_newton, used = ggn(at.oracle, at.batch), 0

    def our_trace() -> int:
        nonlocal used
        used = trace(gauss_newton, rtol=0.05).num_products
        return used

    density = f"density, {PROBES} probes of {STEPS}"
    if not quick:
        yield density, "fallline", lambda: spectral_density(h, num_probes=PROBES, num_steps=STEPS).num_products
        if _module("pyhessian"):
            yield density, "PyHessian", lambda: _density(at)
    yield "trace of GGN, Hutch++ to 5 %", "fallline", our_trace
    if _module("curvlinops") and not quick:
        yield "trace of GGN, Hutch++ to 5 %", "curvlinops", lambda: _hutchpp(at, used)
    if quick:
        return
    yield f"diagonal, {DIAGONAL} probes", "fallline", lambda: estimate_diagonal(h, num_products=DIAGONAL).num_products
    if _module("curvlinops"):
        yield f"diagonal, {DIAGONAL} probes", "curvlinops", lambda: _diagonal(at)
    yield "statistics of the gradients of 256 examples", "fallline", lambda: _statistics(at)


class _Clock:
    """Times things in seconds and in gradients."""

    def __init__(self, state: str, one_gradient: Callable[[], Any]) -> None:
        self.state, self.one_gradient = state, one_gradient
        one_gradient()

    def gradient(self, times: int = 3) -> float:
        return statistics.median(_seconds(self.one_gradient) for _ in range(times))

    def products(self, contenders: list[tuple[str, Callable[[], Any]]], rounds: int) -> Iterator[CurvatureRow]:
        """One product each, side by side in every round; the ratio is the median over rounds."""
        taken: dict[str, list[tuple[float, float]]] = {}
        for name, do in contenders:
            do()  # builds what is built once
            taken[name] = []
        for _ in range(rounds):
            base = self.gradient(1)
            for name, do in contenders:
                taken[name].append((_seconds(do), base))
        for name, times in taken.items():
            seconds = statistics.median(t for t, _ in times)
            yield CurvatureRow(self.state, "one product", name, seconds, statistics.median(t / g for t, g in times), 1)

    def row(
        self, what: str, by: str, do: Callable[[], tuple[Tensor | None, int]], exact: Tensor | None
    ) -> CurvatureRow:
        before = self.gradient()
        started = time.process_time()
        try:
            found, products = do()
        except Exception as error:  # whatever another library raises is its row, not our end
            return CurvatureRow(self.state, what, by, 0.0, 0.0, failed=f"{type(error).__name__}: {error}"[:200])
        seconds = time.process_time() - started
        base = (before + self.gradient()) / 2
        off = None
        if exact is not None and found is not None:
            off = float(((found.double() - exact) / exact).abs().max())
        return CurvatureRow(self.state, what, by, seconds, seconds / base, products, off)


def _products(at: Problem) -> list[tuple[str, Callable[[], Any]]]:
    oracle, batch = at.oracle, at.batch
    kept, anew = hessian(oracle, batch), hessian(oracle, batch, keep=False)
    forward, gauss_newton = hessian(oracle, batch, route="forward"), ggn(oracle, batch)
    v = torch.randn(kept.shape[1], generator=torch.Generator().manual_seed(1))
    found: list[tuple[str, Callable[[], Any]]] = [
        ("fallline, graph kept", lambda: kept @ v),
        ("fallline, graph made anew", lambda: anew @ v),
        ("fallline, forward over reverse", lambda: forward @ v),
        ("fallline, Gauss-Newton, graph kept", lambda: gauss_newton @ v),
    ]
    if _module("curvlinops"):
        operator = _curvlinops(at)
        found.append(("curvlinops", lambda: operator @ v))
    if _module("pyhessian"):
        theirs = _pyhessian(at)
        pieces = list(kept.domain.unflatten(v).values())
        product = importlib.import_module("pyhessian.utils").hessian_vector_product
        found.append(("PyHessian", lambda: product(theirs.gradsH, theirs.params, pieces)))
    return found


def _solvers(
    at: Problem, h: Operator, k: int, quick: bool
) -> Iterator[tuple[str, Callable[[], tuple[Tensor | None, int]]]]:
    yield "fallline", _ours(h, k)
    yield "scipy eigsh on fallline", lambda: _arpack(h.to_scipy(), k)
    if _module("curvlinops"):
        yield "scipy eigsh on curvlinops", lambda: _arpack(_curvlinops(at).to_scipy(), k)
    if _module("pyhessian") and k == 1:  # for ten it takes a thousand products
        for limit, tol in ((100, TOL),) if quick else ((100, TOL), (300, 1e-9)):
            name = "PyHessian" if tol == TOL else f"PyHessian, {limit} iterations"
            yield name, lambda limit=limit, tol=tol: _power(at, k, limit, tol)  # type: ignore[misc]


def _ours(h: Operator, k: int, start: Eigenpairs | None = None) -> Callable[[], tuple[Tensor, int]]:
    def run() -> tuple[Tensor, int]:
        found = eigsh(h, k, tol=TOL, start=start)
        return found.values, found.num_products

    return run


def _arpack(operator: Any, k: int) -> tuple[Tensor, int]:
    from scipy.sparse.linalg import LinearOperator
    from scipy.sparse.linalg import eigsh as arpack

    count = 0

    def counted(x: Any) -> Any:
        nonlocal count
        count += 1
        return operator @ x

    wrapped = LinearOperator(operator.shape, counted, dtype=operator.dtype)
    values = arpack(wrapped, k=k, which="LA", tol=TOL, return_eigenvectors=False)
    return torch.as_tensor(sorted(values.tolist(), reverse=True)), count


def _power(at: Problem, k: int, limit: int, tol: float) -> tuple[Tensor, int]:
    """PyHessian's power iteration, its products counted where it calls for them."""
    module: Any = importlib.import_module("pyhessian.hessian")
    count, product = 0, module.hessian_vector_product

    def counted(*given: Any) -> Any:
        nonlocal count
        count += 1
        return product(*given)

    torch.manual_seed(0)
    module.hessian_vector_product = counted
    try:
        values, _ = _pyhessian(at).eigenvalues(maxIter=limit, tol=tol, top_n=k)
    finally:
        module.hessian_vector_product = product
    return torch.tensor(values), count


def _pyhessian(at: Problem) -> Any:
    at.model.zero_grad()
    return importlib.import_module("pyhessian").hessian(at.model, nn.CrossEntropyLoss(), data=at.batch, cuda=False)


def _density(at: Problem) -> int:
    """PyHessian's density; its last line calls torch.eig, which torch no longer has and which is put back meanwhile."""

    def eig(matrix: Tensor, eigenvectors: bool) -> tuple[Tensor, Tensor]:
        values, vectors = torch.linalg.eigh(matrix)
        return torch.stack([values, torch.zeros_like(values)], 1), vectors

    held = torch.eig
    torch.eig = eig  # type: ignore[assignment]
    try:
        _pyhessian(at).density(iter=STEPS, n_v=PROBES)
    finally:
        torch.eig = held
    return PROBES * STEPS


def _hutchpp(at: Problem, products: int) -> int:
    count = products // 3 * 3  # it takes a third for each of its parts
    importlib.import_module("curvlinops").hutchpp_trace(_curvlinops(at, "GGNLinearOperator"), count)
    return count


def _diagonal(at: Problem) -> int:
    importlib.import_module("curvlinops").hutchinson_diag(_curvlinops(at), DIAGONAL)
    return DIAGONAL


def _curvlinops(at: Problem, kind: str = "HessianLinearOperator") -> Any:
    make = getattr(importlib.import_module("curvlinops"), kind)
    return make(at.model, nn.CrossEntropyLoss(), list(at.model.parameters()), [at.batch], check_deterministic=False)


def _after_a_step(at: Problem) -> Problem:
    """The problem one step of gradient descent at rate 0.05 later."""
    import copy

    model = copy.deepcopy(at.model)
    slope = gradient(at.oracle, at.batch)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.sub_(slope[name], alpha=0.05)
    return Problem(at.state, model, at.batch)


def _statistics(at: Problem) -> int:
    x, y = at.batch
    gradient_statistics(at.oracle, (x[:256], y[:256]))
    return 0


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except Exception:  # not there, or broken
        return None


def _seconds(action: Callable[[], Any]) -> float:
    start = time.process_time()
    action()
    return time.process_time() - start
