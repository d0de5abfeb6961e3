"""What papers say about curvature and gradient noise, checked on problems with known answers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fallline.core.claims import claim
from fallline.core.oracle import Oracle, of_module
from fallline.curvature.batch_size import critical_batch_size, noise_scale
from fallline.curvature.batches import gradient
from fallline.curvature.density import spectral_density
from fallline.curvature.eigen import eigsh
from fallline.curvature.gauss_newton import fisher, ggn
from fallline.curvature.gradients import example_gradients, ntk
from fallline.curvature.hessian import hessian
from fallline.curvature.noise import gradient_statistics, tail_index
from fallline.curvature.operator import Operator, diagonal, identity
from fallline.curvature.precondition import preconditioned
from fallline.curvature.space import Space
from fallline.curvature.trace import estimate_diagonal, trace

__all__: list[str] = []


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _linear(num_in: int, num_out: int, seed: int = 0, bias: bool = True) -> nn.Module:
    model = nn.Linear(num_in, num_out, bias=bias).double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(_normal(*p.shape, seed=seed))
    return model


def _network(*widths: int, seed: int = 0) -> nn.Module:
    layers: list[nn.Module] = []
    for i, (m, n) in enumerate(zip(widths, widths[1:], strict=False)):
        layer = nn.Linear(m, n).double()
        with torch.no_grad():
            layer.weight.copy_(_normal(n, m, seed=seed + i) / math.sqrt(m))
            layer.bias.zero_()
        layers += [layer, nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def _planted(noise: float, num_examples: int = 4096, dim: int = 40) -> tuple[Oracle, Any]:
    """A loss that is linear in the parameters: the gradient of an example is the example, 1 + noise in every coordinate."""
    oracle = of_module(_linear(dim, 1, bias=False), lambda z, y: z[:, 0])
    return oracle, (1 + noise * _normal(num_examples, dim), torch.zeros(num_examples))


def _matrix(a: Tensor) -> Operator:
    return Operator(Space({"x": (len(a),)}, a.dtype), lambda v: v @ a)


def _symmetric(values: Tensor, seed: int = 0) -> Tensor:
    q = torch.linalg.qr(_normal(len(values), len(values), seed=seed)).Q
    return q * values @ q.T


# -- matrices ---------------------------------------------------------------------------------------------------------------


@claim("ggn", "for a linear model and squares, Gauss-Newton is the Hessian", where="Martens, arXiv:1412.1193")
def gauss_newton_of_a_linear_model(lab: Any) -> Iterator[Any]:
    oracle = of_module(_linear(5, 3), lambda z, y: (z - y).square().sum(-1) / 2)
    data = _normal(20, 5, seed=1), _normal(20, 3, seed=2)
    yield lab.equal(ggn(oracle, data).dense(), hessian(oracle, data).dense())


@claim(
    "fisher",
    "for softmax and cross-entropy the Fisher information is the Gauss-Newton matrix; the empirical one is another matrix",
    where="Martens, arXiv:1412.1193; Kunstner et al., arXiv:1905.12558",
)
def fisher_is_gauss_newton(lab: Any) -> Iterator[Any]:
    oracle = of_module(_network(5, 6, 4), F.cross_entropy)
    data = _normal(20, 5, seed=1), torch.arange(20) % 4
    exact, empirical = fisher(oracle, data).dense(), fisher(oracle, data, kind="empirical").dense()
    yield lab.equal(exact, ggn(oracle, data).dense())
    yield lab.less(0.2, float((empirical - exact).norm() / exact.norm()))


@claim(
    "preconditioned",
    "the symmetric form P^-1/2 H P^-1/2 has the eigenvalues of P^-1 H, which decide the stability of P^-1 g",
    where="Cohen et al., arXiv:2207.14484",
)
def symmetric_form(lab: Any) -> Iterator[Any]:
    a, p = _symmetric(torch.linspace(-1, 5, 12).double()), 0.1 + _normal(12, seed=3).abs()
    form = preconditioned(_matrix(a), {"x": p})
    unsymmetric = torch.linalg.eigvals(a / p[:, None]).real.sort(descending=True).values
    yield lab.close(eigsh(form, 3, tol=1e-10).values, unsymmetric[:3])


@claim(
    "ntk",
    "a small step of gradient descent moves the outputs by -lr Theta dL/df",
    where="Jacot et al., arXiv:1806.07572",
)
def outputs_move_by_the_kernel(lab: Any) -> Iterator[Any]:
    oracle = of_module(_network(4, 8, 2), lambda z, y: (z - y).square().sum(-1) / 2)
    data = _normal(6, 4, seed=1), _normal(6, 2, seed=2)
    kernel, at = ntk(oracle, data), oracle.params
    before, slope = oracle.outputs(at, data).detach(), gradient(oracle, data)
    predicted = (kernel @ ((before - data[1]) / 6).flatten()).reshape(6, 2)
    misses = []
    for lr in (2e-3, 1e-3):
        after = oracle.outputs({n: p.detach() - lr * slope[n] for n, p in at.items()}, data).detach()
        misses.append(float((after - before + lr * predicted).norm()))
    yield lab.ratio(*misses, equals=4, rtol=0.02)


# -- eigenvalues, traces, densities -----------------------------------------------------------------------------------------


@claim("eigsh", "Lanczos is exact after as many products as there are different eigenvalues", where="Lanczos 1950")
def lanczos_ends(lab: Any) -> Iterator[Any]:
    values = torch.tensor([1.0, 2, 5, 9]).double().repeat(10)
    found = eigsh(_matrix(_symmetric(values)), tol=1e-12, max_products=4)
    yield lab.close(found.values, 9.0, rtol=1e-12)
    yield lab.less(float(found.bounds), 1e-11)


@claim(
    "eigsh",
    "an eigenvalue lies within the residual of every Ritz value",
    where="Weinstein's bound; Parlett 1980, section 4.5",
)
def residual_bounds(lab: Any) -> Iterator[Any]:
    values = torch.cat([torch.linspace(-1, 1, 80), torch.tensor([3.0, 4, 8])]).double()
    for tol in (0.3, 1e-2, 1e-4):
        found = eigsh(_matrix(_symmetric(values)), 3, tol=tol)
        away = (found.values[:, None] - values).abs().min(1).values
        yield lab.less(float((away - found.bounds).max()), 1e-13)


@claim("estimate_diagonal", "with random signs the diagonal of a diagonal matrix has no error", where="Hutchinson 1989")
def signs_are_exact_on_diagonals(lab: Any) -> Iterator[Any]:
    entries = {"x": _normal(50)}
    yield lab.equal(estimate_diagonal(diagonal(entries), num_products=6).values, entries["x"])
    yield lab.equal(trace(diagonal(entries), method="hutchinson").value, float(entries["x"].sum()))


@claim(
    "trace",
    "Hutch++ is exact for a matrix of rank at most a third of its products",
    where="arXiv:2010.09649, algorithm 1",
)
def hutchpp_of_low_rank(lab: Any) -> Iterator[Any]:
    values = torch.zeros(100).double()
    values[:10] = torch.linspace(1, 9, 10).double()
    yield lab.close(trace(_matrix(_symmetric(values)), max_products=36).value, float(values.sum()), rtol=1e-11)


@claim(
    "spectral_density",
    "m steps of Lanczos integrate polynomials up to degree 2 m - 1 exactly",
    where="Golub & Meurant 1994",
)
def quadrature_degree(lab: Any) -> Iterator[Any]:
    a = _symmetric(torch.linspace(-1, 2, 60).double())
    found = spectral_density(_matrix(a), num_probes=1, num_steps=4)
    v = torch.randint(0, 2, (60,), generator=torch.Generator().manual_seed(0), dtype=torch.int8).double() * 2 - 1
    for power in range(8):
        yield lab.close((found.weights * found.nodes**power).sum(), v @ torch.linalg.matrix_power(a, power) @ v / 60)
    off = float((found.weights * found.nodes**8).sum() - v @ torch.linalg.matrix_power(a, 8) @ v / 60)
    yield lab.less(1e-3, abs(off))


@claim(
    "eigsh",
    "sampling noise of deviation s lifts an eigenvalue to lambda + P s^2 / lambda if it is above s sqrt(P), else to the edge 2 s sqrt(P)",
    where="Granziol et al., arXiv:2006.09092",
)
def batches_look_sharper(lab: Any) -> Iterator[Any]:
    size, s = 1200, 1 / math.sqrt(1200)
    noise = _normal(size, size)
    noise = s * (noise + noise.T) / math.sqrt(2)
    for top, expected in ((0.5, 2.0), (2.0, 2.5), (5.0, 5.2)):
        spiked = noise.clone()
        spiked[0, 0] += top
        yield lab.close(eigsh(_matrix(spiked), tol=1e-2).values, expected, rtol=0.03)


@claim(
    "eigsh",
    "after a short training with SGD most of the gradient lies in the space of as many top eigenvectors as there are classes",
    where="Gur-Ari et al., arXiv:1812.04754",
)
def gradient_in_a_tiny_subspace(lab: Any) -> Iterator[Any]:
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 10
    x = 0.7 * _normal(10, 10)[labels] + _normal(200, 10, seed=1)
    model = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 10)).double()
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p.copy_(_normal(*p.shape, seed=2 + i) / math.sqrt(p.shape[-1]) if p.dim() > 1 else 0 * p)
    oracle = of_module(model, F.cross_entropy)
    shares = []
    for t in range(401):
        if t == 0 or (t >= 250 and t % 50 == 0):
            found = eigsh(hessian(oracle, (x, labels)), 10, tol=3e-2)
            shares.append(found.share(found.space.flatten(gradient(oracle, (x, labels)))))
        drawn = torch.randint(200, (10,), generator=draw)
        slope = oracle.value_and_grad(oracle.params, (x[drawn], labels[drawn]))[1]
        with torch.no_grad():
            for name, p in model.named_parameters():
                p.sub_(slope[name], alpha=0.2)
    late = sum(shares[1:]) / (len(shares) - 1)
    yield lab.less(0.6, late)  # chance: 10 of 430 directions, 0.02
    yield lab.less(2 * shares[0], late)


# -- noise ------------------------------------------------------------------------------------------------------------------


@claim(
    "noise_scale",
    "two batch sizes give tr(Sigma) / |G|^2 without bias in either part: what was planted is found within 5 %",
    where="McCandlish et al., arXiv:1812.06162, appendix A.1",
)
def planted_noise_scale(lab: Any) -> Iterator[Any]:
    oracle, data = _planted(2.0)
    yield lab.close(gradient_statistics(oracle, data, chunk=512).noise_scale, 4.0, rtol=0.05)
    yield lab.close(noise_scale(oracle, data, small_size=128, big_size=4096, num_rounds=4).value, 4.0, rtol=0.05)


@claim(
    "critical_batch_size",
    "where the Hessian is a multiple of the identity, the noise scale with curvature is the simple one",
    where="McCandlish et al., arXiv:1812.06162, section 2.2",
)
def equal_curvatures(lab: Any) -> Iterator[Any]:
    oracle, data = _planted(2.0, num_examples=1024, dim=200)
    rows = example_gradients(oracle, data)
    found = critical_batch_size(7 * identity(rows.domain), rows, num_probes=100)
    yield lab.close(found.value, gradient_statistics(oracle, data, chunk=512).noise_scale, rtol=0.05)


@claim(
    "gradient_statistics",
    "m-coherence is m for equal gradients and 1 for orthogonal ones",
    where="Chatterjee & Zielinski, arXiv:2008.01217",
)
def coherence(lab: Any) -> Iterator[Any]:
    oracle, same = _planted(0.0, num_examples=8)
    yield lab.close(gradient_statistics(oracle, same).m_coherence, 8.0)
    apart = 3 * torch.eye(40, dtype=torch.float64), torch.zeros(40)
    yield lab.close(gradient_statistics(oracle, apart).m_coherence, 1.0)


@claim(
    "tail_index",
    "sums of m stable variables grow as m^(1/alpha): 2 is found for normal, 1 for Cauchy",
    where="Simsekli et al., arXiv:1901.06053",
)
def tails(lab: Any) -> Iterator[Any]:
    normal, other = _normal(1600, 60), _normal(1600, 60, seed=1)
    yield lab.close(tail_index(normal), 2.0, rtol=0.05)
    yield lab.close(tail_index(normal / other), 1.0, rtol=0.05)
