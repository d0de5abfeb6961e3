"""Claims of papers, checked: fixed small problems in float64, and outcomes that carry their numbers."""

from __future__ import annotations

import importlib
import math
import pkgutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fallline.core.averaging import averaged
from fallline.core.claims import CLAIMS, FAMILIES, Claim
from fallline.core.errors import unknown
from fallline.core.method import METHODS, Method
from fallline.core.optimizer import Optimizer
from fallline.lab.entries import entry_of
from fallline.tasks import Tensors, load

__all__ = ["ClaimLab", "ClaimResult", "Outcome", "all_claims", "claims_of", "run_claim", "run_claims"]

_SHAPE = (6, 4)
_NUM_BATCHES = 8


@dataclass(frozen=True)
class Outcome:
    """Whether one check held, with the numbers it compared."""

    ok: bool
    text: str


@dataclass(frozen=True)
class ClaimResult:
    """A claim, the method or feature that makes it, and what became of it."""

    subject: str
    text: str
    where: str
    ok: bool
    detail: str
    seconds: float  # of the processor, so that other work on the machine does not count


class ClaimLab:
    """What a claim's check works with. Everything is float64, eager and deterministic."""

    # -- problems -------------------------------------------------------------------------------------------------------

    def method(self, name: str) -> Method:
        """A registered method, to compare with."""
        return METHODS[name]

    def start(self) -> Tensor:
        """The fixed starting point of all runs, shape (6, 4)."""
        return torch.randn(_SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def gradient(self, seed: int = 1, scale: float = 1.0) -> Tensor:
        """A fixed normal gradient of the same shape, bounded away from zero."""
        g = torch.randn(_SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        return scale * (g + 0.1 * g.sign())

    def curvature(self) -> Tensor:
        """Curvatures from 0.1 to 1, one for each coordinate."""
        return torch.logspace(-1, 0, 24, dtype=torch.float64).reshape(_SHAPE)

    def data(self, task: str) -> tuple[Tensor, ...]:
        """The training tensors of a built-in task, as (inputs, targets); inputs in float64."""
        train = load(task).train
        assert isinstance(train, Tensors)
        return tuple(x.double() if x.is_floating_point() else x for x in train.tensors)

    def matrix_quadratic(self, condition: float) -> Callable[[Tensor], Tensor]:
        """The loss tr(x^T A x B) / 2 with A and B of this condition number each, in directions of no coordinate."""

        def curved(n: int, seed: int) -> Tensor:
            made = torch.Generator().manual_seed(seed)
            q = torch.linalg.qr(torch.randn(n, n, generator=made, dtype=torch.float64)).Q
            return q * torch.logspace(0, -math.log10(condition), n, dtype=torch.float64) @ q.mT

        a, b = curved(_SHAPE[0], 1), curved(_SHAPE[1], 2)
        return lambda x: (x * (a @ x @ b)).sum() / 2

    # -- runs -----------------------------------------------------------------------------------------------------------

    def one_step(self, method: Method, scale: float = 1.0, **hypers: Any) -> Tensor:
        """The displacement by one step on ``scale * gradient()``."""
        path = self.follow(method, [self.gradient(scale=scale)], **hypers)
        return path[1] - path[0]

    def follow(self, method: Method, gradients: Sequence[Tensor], **hypers: Any) -> list[Tensor]:
        """Positions along a run that is fed the given gradients; the first one is the start."""
        return self._run(method, gradients, hypers)[1]

    def average(self, method: Method, gradients: Sequence[Tensor], **hypers: Any) -> Tensor:
        """Where an averaging method would be evaluated after a run that is fed the given gradients."""
        optimizer, _ = self._run(method, gradients, hypers)
        with averaged(optimizer):
            found: Tensor = optimizer.param_groups[0]["params"][0].detach().clone()
        return found

    def _run(
        self, method: Method, gradients: Sequence[Tensor], hypers: dict[str, Any]
    ) -> tuple[Optimizer, list[Tensor]]:
        p = torch.nn.Parameter(self.start())
        optimizer = Optimizer([p], method(**hypers), fuse="eager")
        path = [p.detach().clone()]
        for t, g in enumerate(gradients):

            def closure(g: Tensor = g) -> Tensor:  # a linear loss: the gradient is the same everywhere
                p.grad = g.clone()
                return (p.detach() * g).sum()

            self._step(optimizer, closure, closure, t % _NUM_BATCHES)
            path.append(p.detach().clone())
        return optimizer, path

    def minimise(self, method: Method, loss: Callable[[Tensor], Tensor], steps: int, **hypers: Any) -> Tensor:
        """The end of a run on a loss, from ``start()``."""
        p = torch.nn.Parameter(self.start())
        optimizer = Optimizer([p], method(**hypers), fuse="eager")
        for t in range(steps):
            closure = self._closure(optimizer, lambda: loss(p))
            self._step(optimizer, closure, closure, t % _NUM_BATCHES)
        return p.detach()

    def on_batches(self, method: Method, steps: int, whole: bool = False, scale: float = 1.0, **hypers: Any) -> Tensor:
        """How far from the solution a run on a finite sum ends: ``scale`` times eight quadratics whose curvatures and minima
        differ, drawn at random, or all of them at every step."""
        made = torch.Generator().manual_seed(3)
        h = scale * (0.2 + torch.rand(_NUM_BATCHES, *_SHAPE, generator=made, dtype=torch.float64))
        centre = torch.randn(_NUM_BATCHES, *_SHAPE, generator=made, dtype=torch.float64)
        p = torch.nn.Parameter(self.start())
        optimizer = Optimizer([p], method(**hypers), fuse="eager")

        def loss(i: slice) -> Tensor:
            return (h[i] * (p - centre[i]).square()).mean(0).sum() / 2

        full = self._closure(optimizer, partial(loss, slice(None)))
        for i in torch.randint(_NUM_BATCHES, (steps,), generator=made).tolist():
            one = self._closure(optimizer, partial(loss, slice(i, i + 1)))
            self._step(optimizer, full if whole else one, full, i)
        return (p.detach() - (h * centre).sum(0) / h.sum(0)).norm()

    @staticmethod
    def _step(optimizer: Optimizer, closure: Callable[[], Tensor], full: Callable[[], Tensor], i: int) -> None:
        """A step that is given whatever the method may need; the batch is its own only part."""
        if "parts" in optimizer.chains[0].needs:
            optimizer.step(parts=[closure])
        else:
            optimizer.step(closure, full=full, batch=i)

    @staticmethod
    def _closure(optimizer: Optimizer, loss: Callable[[], Tensor]) -> Callable[[], Tensor]:
        def closure() -> Tensor:
            optimizer.zero_grad()
            value = loss()
            value.backward()
            return value

        return closure

    def move_by_parts(self, method: Method, noise: Sequence[float], **hypers: Any) -> Tensor:
        """How far coordinates that have the gradient 1 move at the first step, if it is 1 + noise in one half of the batch and
        1 - noise in the other."""
        p = torch.nn.Parameter(torch.zeros(len(noise), dtype=torch.float64))
        optimizer = Optimizer([p], method(**hypers), fuse="eager")

        def half(sign: float) -> Tensor:
            p.grad = 1 + sign * torch.tensor(noise, dtype=torch.float64)
            return p.detach().sum()

        optimizer.step(parts=[partial(half, 1.0), partial(half, -1.0)])
        return p.detach().abs()

    def online(self, method: Method, gradient: Callable[[int], float], steps: int, lr: float, **hypers: Any) -> float:
        """Where a scalar ends in [-1, 1] under linear losses ``gradient(t) x`` and the rate lr / sqrt(t), projected."""
        p = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
        optimizer = Optimizer([p], method(lr=lr, **hypers), fuse="eager")
        for t in range(1, steps + 1):
            optimizer.param_groups[0]["lr"] = lr / t**0.5
            p.grad = torch.full_like(p, gradient(t))
            optimizer.step()
            with torch.no_grad():
                p.clamp_(-1, 1)
        return float(p.detach())

    # -- checks ---------------------------------------------------------------------------------------------------------

    def equal(self, a: Tensor | float, b: Tensor | float) -> Outcome:
        """Equal to rounding: 1e-12 relative."""
        return self.close(a, b, rtol=1e-12)

    def close(self, a: Tensor | float, b: Tensor | float, rtol: float = 1e-9) -> Outcome:
        """Every entry of a within ``rtol`` of b, relative to the largest entry of b."""
        a, b = torch.as_tensor(a, dtype=torch.float64), torch.as_tensor(b, dtype=torch.float64)
        worst, size = float((a - b).abs().max()), float(b.abs().max())
        return Outcome(worst <= rtol * size, f"largest difference {worst:.3g}, allowed {rtol * size:.3g}")

    def ratio(self, a: float, b: float, equals: float, rtol: float = 1e-9) -> Outcome:
        """a / b equals the given number."""
        return Outcome(
            abs(a / b - equals) <= rtol * abs(equals), f"ratio {a:.6g} / {b:.6g} = {a / b:.6g}, claimed {equals:.6g}"
        )

    def less(self, a: float, b: float) -> Outcome:
        """a < b."""
        return Outcome(bool(a < b), f"{a:.6g} < {b:.6g}")


def run_claim(subject: str, claim: Claim) -> ClaimResult:
    """Check one claim. A check that raises, or yields nothing, fails and says so."""
    began = time.process_time()
    try:
        outcomes = list(claim.check(ClaimLab()))
    except Exception as error:
        outcomes = [Outcome(False, f"{type(error).__name__}: {error}")]
    failed = [o.text for o in outcomes if not o.ok] if outcomes else ["the check yielded no outcome"]
    return ClaimResult(subject, claim.text, claim.where, not failed, "; ".join(failed), time.process_time() - began)


def claims_of(family: str) -> list[Claim]:
    """All claims of a family, its modules imported."""
    if family not in CLAIMS:
        raise unknown("family of claims", family, FAMILIES)
    package = importlib.import_module(f"fallline.{family}")
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)
    return CLAIMS[family]


def all_claims(names: Sequence[str] = (), families: Sequence[str] = ()) -> list[tuple[str, Claim]]:
    """Claims with who makes them: of the named methods, and of all in the families (``methods`` is one); of everything if neither."""
    chosen = list(families) or ([] if names else ["methods", *FAMILIES])
    methods = [*names, *(METHODS if "methods" in chosen else [])]
    found = [(name, claim) for name in dict.fromkeys(methods) for claim in entry_of(name).claims]
    for family in chosen:
        found += [(claim.subject, claim) for claim in claims_of(family)] if family != "methods" else []
    return found


def run_claims(names: Sequence[str] = (), families: Sequence[str] = ()) -> list[ClaimResult]:
    """Check claims, chosen as ``all_claims`` does."""
    return [run_claim(subject, claim) for subject, claim in all_claims(names, families)]
