"""Claims about the landscape, on quadratics and on small ReLU networks in float64."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fallline.core.claims import claim
from fallline.core.oracle import Oracle, of_loss, of_module
from fallline.curvature import fisher, hessian, sharpness
from fallline.landscape.bezier import connect
from fallline.landscape.directions import random_direction
from fallline.landscape.flatness import fisher_rao_norm
from fallline.landscape.layers import symmetry_of
from fallline.landscape.paths import interpolate
from fallline.landscape.points import MeanLoss, snapshot
from fallline.landscape.rebasin import activation_matching, weight_matching
from fallline.landscape.repair import repair
from fallline.landscape.slices import slice_1d
from fallline.landscape.trajectory import trajectory_pca
from fallline.landscape.units import UnitOutputs
from fallline.landscape.worst_case import average_case, epsilon_sharpness, worst_case

WIDTHS = (6, 32, 32, 4)
CURVATURES = (4.0, 2.0, 1.0, 0.5, 0.25)


def quadratic(at: float = 0.0) -> tuple[Oracle, Tensor]:
    """A loss with known curvatures and its minimum at 0, at a given distance from it in every coordinate, and a batch for it."""
    module = nn.Module()
    module.w = nn.Parameter(torch.full((5, 1), at, dtype=torch.float64))
    h = torch.tensor(CURVATURES, dtype=torch.float64)
    return of_loss(module, lambda model, batch: (h * model.w[:, 0].square()).sum() / 2), torch.zeros(1)


def classifier(*widths: int, seed: int = 0, bias: bool = True) -> tuple[nn.Sequential, Oracle, tuple[Tensor, Tensor]]:
    """A ReLU network, its loss, and a hundred examples whose classes another network decides."""
    made = torch.Generator().manual_seed(100)
    x = torch.randn(100, widths[0], generator=made, dtype=torch.float64)
    y = (x @ torch.randn(widths[0], widths[-1], generator=made, dtype=torch.float64)).sin().argmax(1)
    layers = [nn.Linear(a, b, bias, dtype=torch.float64) for a, b in pairwise(widths)]
    drawn = torch.Generator().manual_seed(seed)
    for p in [p for layer in layers for p in layer.parameters()]:
        with torch.no_grad():
            p.copy_(
                torch.randn(p.shape, generator=drawn, dtype=p.dtype)
                * math.sqrt(2 / p.shape[-1] if p.dim() > 1 else 0.01)
            )
    model = nn.Sequential(*[m for layer in layers[:-1] for m in (layer, nn.ReLU())], layers[-1])
    return model, of_module(model, F.cross_entropy), (x, y)


@cache
def minimum(seed: int) -> Mapping[str, Tensor]:
    """The network 6-32-32-4 trained from a seed with all examples at once, by heavy ball."""
    _, oracle, batch = classifier(*WIDTHS, seed=seed)
    point = snapshot(oracle)
    velocity = {name: torch.zeros_like(p) for name, p in point.items()}
    for _ in range(200):
        _, gradients = oracle.value_and_grad(point, batch)
        velocity = {name: 0.9 * v - 0.1 * gradients[name] for name, v in velocity.items()}
        point = {name: p + velocity[name] for name, p in point.items()}
    return point


@claim("slice", "a slice of a quadratic is a parabola with the curvature d^T H d", where="Taylor's theorem")
def parabola(lab):
    oracle, batch = quadratic(0.3)
    d = random_direction(oracle.params, normalisation="none")
    found = slice_1d(oracle, batch, d)
    h = torch.tensor(CURVATURES, dtype=torch.float64)
    v = d["w"][:, 0]
    slope, curvature = (h * 0.3 * v).sum(), (h * v * v).sum()
    yield lab.close(found.losses, found.losses[20] + slope * found.positions + curvature * found.positions**2 / 2)
    yield lab.close(found.curvature, curvature)


@claim(
    "slice",
    "with filter normalisation the slice does not change when one ReLU layer is scaled up and the next one down; without, it does",
    where="arXiv:1712.09913, section 4",
)
def filter_normalisation(lab):
    model, oracle, batch = classifier(6, 12, 12, 4)
    points = [snapshot(oracle), symmetry_of(model).rescale(snapshot(oracle), {"0": 10.0, "2": 3.0})]
    for normalisation in ("filter", "layer", "none"):
        one, two = (
            slice_1d(oracle, batch, random_direction(p, normalisation=normalisation), params=p, num=11).losses
            for p in points
        )
        yield lab.close(one, two) if normalisation != "none" else lab.less(0.5, float((one / two - 1).abs().max()))


@claim(
    "sharpness",
    "rescaling ReLU layers leaves the function as it is and makes the Hessian's largest eigenvalue and the worst case in a ball as "
    "large as one likes",
    where="arXiv:1703.04933, the alpha-scale transformation",
)
def reparametrisation(lab):
    model, oracle, batch = classifier(6, 12, 12, 4)
    one = snapshot(oracle)
    for c, factor in ((10.0, 20.0), (100.0, 2000.0)):
        two = symmetry_of(model).rescale(one, {"0": c})
        yield lab.close(oracle.outputs(two, batch), oracle.outputs(one, batch))
        eigenvalues = [sharpness(hessian(oracle, batch, p)) for p in (one, two)]
        yield lab.less(factor * eigenvalues[0], eigenvalues[1])
    rises = [worst_case(oracle, batch, 0.05, params=p).value for p in (one, two)]
    yield lab.less(20 * rises[0], rises[1])


@claim(
    "sharpness",
    "adaptive sharpness and the Fisher-Rao norm do not change when weights are rescaled without changing the function",
    where="arXiv:2102.11600, section 3; arXiv:1711.01530, section 3",
)
def adaptive_stays(lab):
    model, oracle, batch = classifier(6, 12, 12, 4)
    one = snapshot(oracle)
    each = 10 ** torch.linspace(-1, 1, 12, dtype=torch.float64)
    two = symmetry_of(model).rescale(one, {"0": each, "2": 30.0})
    for norm in ("l2", "linf"):
        yield lab.close(*(worst_case(oracle, batch, 0.2, params=p, norm=norm, adaptive=True).value for p in (one, two)))
    yield lab.close(*(average_case(oracle, batch, 0.1, params=p, adaptive=True).value for p in (one, two)))
    for kind in ("empirical", "exact"):
        yield lab.close(*(fisher_rao_norm(oracle, batch, params=p, kind=kind) for p in (one, two)))


@claim(
    "fisher_rao_norm",
    "of a ReLU network with L hidden layers and no biases its square is (L + 1)^2 E <grad_f loss, f>^2",
    where="arXiv:1711.01530, theorem 3.1",
)
def fisher_rao_closed_form(lab):
    for widths in ((6, 9, 4), (6, 9, 8, 7, 4)):
        _, oracle, (x, y) = classifier(*widths, bias=False)
        f = oracle.outputs(oracle.params, (x, y)).detach().requires_grad_()
        (slope,) = torch.autograd.grad(F.cross_entropy(f, y, reduction="sum"), f)
        expected = (len(widths) - 1) * (slope * f).sum(1).square().mean().sqrt()
        yield lab.close(fisher_rao_norm(oracle, (x, y)), expected.detach())
        yield lab.less(0.1, float(fisher(oracle, (x, y), kind="empirical").quadratic(snapshot(oracle))))


@claim(
    "worst_case",
    "at the minimum of a quadratic the worst case in a ball is rho^2 lambda_max / 2, the mean rise sigma^2 tr(H) / 2",
    where="arXiv:2010.01412, section 2; Taylor's theorem",
)
def closed_forms(lab):
    oracle, batch = quadratic()
    yield lab.close(worst_case(oracle, batch, 0.1, num_steps=40).value, 0.01 * CURVATURES[0] / 2)
    yield lab.close(worst_case(oracle, batch, 0.1, norm="linf").value, 0.01 * sum(CURVATURES) / 2)
    found = average_case(oracle, batch, 0.1, num_samples=200)
    yield lab.close(found.value, 0.01 * sum(CURVATURES) / 2, rtol=0.2)
    yield lab.less(abs(found.value - 0.01 * sum(CURVATURES) / 2), 3 * found.error)
    away, _ = quadratic(3.0)  # in Keskar's measure larger weights have a larger box
    top = sum(h * (3 + 1e-3 * 4) ** 2 / 2 for h in CURVATURES)
    here = sum(h * 9 / 2 for h in CURVATURES)
    yield lab.close(epsilon_sharpness(away, batch, 1e-3).value, 100 * (top - here) / (1 + here))


@claim(
    "trajectory_pca",
    "of a long random walk in high dimension the first component holds 60.8 % of the variance, the second 15.2 %, and all are cosines",
    where="arXiv:1806.08805, abstract; the shares are 6 / (pi k)^2",
)
def random_walk(lab):
    made = torch.Generator().manual_seed(0)
    walk = torch.randn(300, 3000, generator=made, dtype=torch.float64).cumsum(0)
    found = trajectory_pca([{"w": row} for row in walk], num_components=3)
    for k, share in enumerate(found.shares.tolist(), 1):
        yield lab.ratio(share, 6 / (math.pi * k) ** 2, equals=1.0, rtol=0.05)
    yield lab.less(0.95, float(found.cosine_fit.min()))
    line = trajectory_pca([{"w": row + 5 * t * walk[-1] / 300} for t, row in enumerate(walk)])
    yield lab.less(float(found.shares[0]) + 0.2, float(line.shares[0]))


@claim(
    "weight_matching",
    "a network whose units were shuffled is brought back exactly: a barrier before, none after; by weights and by outputs",
    where="arXiv:2209.04836, section 3",
)
def shuffled(lab):
    model, oracle, batch = classifier(*WIDTHS)
    one, symmetry = minimum(1), symmetry_of(model)
    other = symmetry.permute(one, symmetry.random(one, seed=3))
    yield lab.close(oracle.outputs(other, batch), oracle.outputs(one, batch))
    yield lab.less(0.5, interpolate(oracle, batch, one, other).barrier)
    for found in (weight_matching(symmetry, one, other), activation_matching(oracle, batch, symmetry, one, other)):
        yield lab.equal(max(float((found.params[n] - p).abs().max()) for n, p in one.items()), 0.0)
        yield lab.equal(interpolate(oracle, batch, one, found.params).barrier, 0.0)


@claim(
    "repair",
    "between two networks units vary less than in either; after the repair their means and deviations are exactly the interpolated ones",
    where="arXiv:2211.08403, abstract",
)
def statistics_restored(lab):
    model, oracle, batch = classifier(*WIDTHS)
    symmetry = symmetry_of(model)
    one = minimum(1)
    two = activation_matching(oracle, batch, symmetry, one, minimum(2)).params
    found = repair(oracle, batch, symmetry, one, two)
    yield lab.less(max(found.variance_before.values()), 0.9)
    outputs = UnitOutputs(MeanLoss(oracle, batch), ["0", "2"])
    a, b, merged = (outputs.statistics(p) for p in (one, two, found.params))
    for group in ("0", "2"):
        yield lab.close(merged[group].std, (a[group].std + b[group].std) / 2)
        yield lab.close(merged[group].mean, (a[group].mean + b[group].mean) / 2)


@claim(
    "connect",
    "two minima that a barrier divides on the straight line are joined by a curve of one bend along which the loss stays low",
    where="arXiv:1802.10026, section 3",
)
def low_curve(lab):
    _, oracle, batch = classifier(*WIDTHS)
    found = connect(oracle, batch, minimum(1), minimum(2), steps=150)
    yield lab.less(0.5, found.straight.barrier)
    yield lab.less(found.path.highest, found.straight.highest / 4)
