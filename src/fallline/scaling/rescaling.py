"""rescale: a chain for another batch size, by one of the rules of the literature, or an error that says what the rule leaves open."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from fallline.core.claims import claim
from fallline.core.errors import InvalidTypeError, InvalidValueError, unknown
from fallline.core.method import MethodChain
from fallline.core.optimizer import Optimizer
from fallline.core.schedule import Schedule
from fallline.core.transform import Chain
from fallline.methods import adamw, heavy_ball, lion, sgd
from fallline.scaling.rules import RULES, Rule, surge
from fallline.transforms.descend import Descend
from fallline.transforms.momentum import Momentum

__all__ = ["RuleName", "batch_sharpness", "correct_momentum", "rescale"]

RuleName = Literal["linear", "sqrt", "rmt", "surge"]


def rescale(chain: Chain, batch: int, to: int, rule: RuleName, noise_scale: float | None = None) -> MethodChain:
    """The method's chain with its hyperparameters moved from one batch size to another: ``rescale(adamw(1e-3), batch=256, to=1024, rule="sqrt")``.

    ``fallline.scaling.rules`` has the rules' formulae. The decay of adamw moves such that lr times decay, per example, stays; that
    is not part of the theorem. ``noise_scale`` is for ``"surge"`` alone (``Parts.noise_scale`` measures it). Schedules are scaled in value;
    their length is the user's: with k times the batch, an epoch has 1/k of the steps. With the rate inside the momentum buffer
    (``heavy_ball``, ``lars``) a change in the middle of a run also needs ``correct_momentum``.

    Raises ValueError for methods, hyperparameters and options that the rule does not cover.
    """
    if rule not in RULES:
        raise unknown("rule", str(rule), RULES)
    for name, value in (("batch", batch), ("to", to)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InvalidValueError(
                f"rescale got {name}={value!r}. Expected a batch size, a whole number of at least 1. Write for example {name}=256."
            )
    if not isinstance(chain, MethodChain):
        raise InvalidTypeError(
            f"rescale got {chain.name if isinstance(chain, Chain) else repr(chain)}. Expected a chain made by one method, such as adamw(1e-3): no rule says how "
            f"other steps scale. Rescale the method alone, and put the other steps around the result."
        )
    covered = next((r for r in RULES[rule] if chain.name in r.methods), None)
    if covered is None:
        methods = ", ".join(sorted(m for r in RULES[rule] for m in r.methods))
        raise InvalidValueError(
            f"The rule {rule!r} does not cover {chain.name}. Expected one of {methods}. Choose another rule, or tune {chain.name} at the new batch size."
        )
    _refuse_uncovered(chain, rule, covered)
    k = to / batch if rule != "surge" else _surge_factor(batch, to, noise_scale)
    if rule != "surge" and noise_scale is not None:
        raise InvalidValueError(
            f"rescale got noise_scale={noise_scale!r} with rule={rule!r}, which does not use it. Expected it with 'surge' alone. Drop it."
        )
    moved = {name: move(chain.values[name], k) for name, move in covered.moves.items() if name in chain.values}
    for name, value in moved.items():
        if not isinstance(value, Schedule) and value not in chain.domain(name):
            _refuse_horizon(chain, name, value, k)
    return chain.rebuild(moved)


def _refuse_uncovered(chain: MethodChain, rule: str, covered: Rule) -> None:
    for name, value in chain.values.items():
        if name in covered.moves or name in covered.keeps:
            continue
        reason = covered.zero.get(name, "the rule does not say how it scales")
        if isinstance(value, Schedule | Tensor) or value:
            raise InvalidValueError(
                f"The rule {rule!r} does not cover {chain.name} with {name}={value!r}: {reason}. Expected {name}={type(value)(0) if isinstance(value, bool | int | float) else 0}. "
                f"Leave it out, or choose another rule."
            )


def _refuse_horizon(chain: MethodChain, name: str, value: float, k: float) -> None:
    old = float(chain.values[name])
    raise InvalidValueError(
        f"A batch {k:g} times as large would need {name}={float(value):g} in {chain.name}, because 1 - {name} grows from {1 - old:g} to {k * (1 - old):g}. "
        f"Expected a value in {chain.domain(name)}: the rule ends below a factor of {1 / (1 - old):g}. Scale by less, or start from a larger {name}."
    )


def _surge_factor(batch: int, to: int, noise_scale: float | None) -> float:
    if noise_scale is None or not noise_scale > 0:
        raise InvalidValueError(
            f"The rule 'surge' got noise_scale={noise_scale!r}. Expected the batch size at which noise and gradient are equal, above 0. "
            f"Measure it with scaling.Parts.noise_scale."
        )
    return surge(to, noise_scale) / surge(batch, noise_scale)


@torch.no_grad()
def correct_momentum(optimizer: Optimizer, factor: float) -> int:
    """Multiply the momentum buffers that hold the rate by ``factor``, the new rate over the old; returns how many tensors that were.

    Call it when the rate of ``heavy_ball`` or ``lars`` jumps in the middle of a run (Goyal et al., arXiv:1706.02677, section 3). Methods whose
    rate stands outside of the buffer, such as ``sgd`` and ``nesterov``, need nothing and are left as they are.
    """
    if not factor >= 0:
        raise InvalidValueError(
            f"correct_momentum got factor={factor!r}. Expected the new rate over the old, at least 0. Pass new / old."
        )
    corrected = 0
    for chain, group in zip(optimizer.chains, optimizer.param_groups, strict=True):
        kinds = [type(step) for step in chain.steps]
        inside = Descend in kinds and Momentum in kinds and kinds.index(Descend) < kinds.index(Momentum)
        for p in group["params"] if inside else ():
            state = optimizer.state.get(p, {})
            if "momentum.m" in state:
                state["momentum.m"].mul_(factor)
                corrected += 1
    return corrected


def batch_sharpness(sharpness: float, noise: float, num_params: int, batch: int) -> float:
    r"""The largest eigenvalue of a batch's Hessian, of which the full one's is ``sharpness``: the rate must stay below 2 over it.

    .. math:: \lambda_B = \lambda + \frac{P \sigma^2}{B \lambda} \text{ if } \lambda > \sigma \sqrt{P / B}, \text{ else } 2 \sigma \sqrt{P / B}

    for P parameters and one example's Hessian off by independent entries of standard deviation :math:`\sigma`: a spiked Wigner
    matrix (Granziol et al., arXiv:2006.09092). It falls with the batch until the full Hessian's own sharpness is left.
    """
    edge = noise * (num_params / batch) ** 0.5
    return sharpness + edge**2 / sharpness if sharpness > edge else 2 * edge


@claim(
    "rescale",
    "k steps of SGD equal one with k times the batch and rate while gradients barely change: here, do not",
    "lecture, slide 'Learning rate warm-up', linear scaling rule; arXiv:1706.02677, section 2.1",
)
def linear_rule(lab):
    gradients = [lab.gradient(seed) for seed in range(8)]
    small = lab.follow(sgd, gradients, lr=0.1)[-1]
    moved = rescale(sgd(lr=0.1), batch=256, to=2048, rule="linear")
    large = lab.follow(sgd, [torch.stack(gradients).mean(0)], lr=moved.values["lr"])[-1]
    yield lab.close(small, large)


@claim(
    "correct_momentum",
    "with the rate inside the buffer, the buffer is multiplied by the ratio of rates when the rate changes",
    "arXiv:1706.02677, section 3, momentum correction",
)
def momentum_correction(lab):
    ends = []
    for method, corrects in ((sgd, True), (heavy_ball, True), (heavy_ball, False)):
        p = torch.nn.Parameter(lab.start())
        optimizer = Optimizer([p], method(lr=0.1, momentum=0.9), fuse="eager")
        for t in range(10):
            if t == 5:
                optimizer.param_groups[0]["lr"] = 0.8
                _ = corrects and correct_momentum(optimizer, 8.0)
            p.grad = lab.gradient(t)
            optimizer.step()
        ends.append(p.detach())
    yield lab.close(ends[1], ends[0])
    yield lab.less(0.1, float((ends[2] - ends[0]).abs().max()))


@claim(
    "rescale",
    "the square-root rule keeps the constants of Adam's SDE: (1 - b)/lr^2, lr eps, and examples times lr^2",
    "arXiv:2205.10287, Adam's SDE and its square root scaling rule",
)
def sde_constants(lab):
    old = adamw(lr=1e-3, b1=0.9, b2=0.999, eps=1e-6, weight_decay=0.1)
    new = rescale(old, batch=256, to=2048, rule="sqrt")
    for name in ("b1", "b2"):
        yield lab.close((1 - new.values[name]) / new.values["lr"] ** 2, (1 - old.values[name]) / old.values["lr"] ** 2)
    yield lab.close(new.values["lr"] * new.values["eps"], old.values["lr"] * old.values["eps"])
    yield lab.ratio(new.values["lr"] ** 2, old.values["lr"] ** 2, equals=8.0)  # and 8 times fewer steps
    yield lab.ratio(new.values["lr"] * new.values["weight_decay"], old.values["lr"] * 0.1, equals=8.0)


@claim(
    "rescale",
    "under pure noise the square-root rule spreads as far over the same examples as the small batch; the linear rule k times",
    "arXiv:2205.10287, square root scaling rule",
)
def spread(lab):
    def variance(batch, steps, **values):
        p = torch.nn.Parameter(torch.zeros(2000, dtype=torch.float64))
        optimizer = Optimizer([p], adamw(**values), fuse="eager")
        rng = torch.Generator().manual_seed(batch)
        for _ in range(steps):
            p.grad = torch.randn(2000, generator=rng, dtype=torch.float64) / batch**0.5
            optimizer.step()
        return float(p.detach().var())

    old = adamw(lr=1e-3, b1=0.9, b2=0.99, weight_decay=0.0)
    new = rescale(old, batch=1, to=4, rule="sqrt")
    small, large = variance(1, 800, **old.values), variance(4, 200, **new.values)
    yield lab.ratio(large, small, equals=1.0, rtol=0.12)
    yield lab.ratio(variance(4, 200, **{**new.values, "lr": 4e-3}), small, equals=4.0, rtol=0.12)


@claim(
    "rescale",
    "random-matrix theory scales the rate with B for SGD and with its root for Adam",
    "arXiv:2006.09092, abstract",
)
def random_matrices(lab):
    for chain, factor in ((sgd(0.1), 16.0), (adamw(1e-3), 4.0)):
        yield lab.ratio(rescale(chain, batch=64, to=1024, rule="rmt").values["lr"], chain.values["lr"], equals=factor)


@claim(
    "batch_sharpness",
    "a batch's largest Hessian eigenvalue exceeds the full one's, by the spiked Wigner formula",
    "arXiv:2006.09092, abstract",
)
def spiked(lab):
    rng, n, noise = torch.Generator().manual_seed(0), 800, 0.05
    drawn = noise * torch.randn(n, n, generator=rng, dtype=torch.float64)
    wigner = (drawn + drawn.T) / 2**0.5
    spike = torch.zeros(n, n, dtype=torch.float64)
    for sharpness, batch in ((3.0, 1), (3.0, 16), (0.5, 1)):
        spike[0, 0] = sharpness
        largest = float(torch.linalg.eigvalsh(spike + wigner / batch**0.5)[-1])
        yield lab.close(largest, batch_sharpness(sharpness, noise, n, batch), rtol=0.03)


@claim(
    "rescale",
    "the best rate of sign-like methods surges: up to the noise scale it rises as the root of the batch, then it falls",
    "arXiv:2405.14578, abstract and the law for B_noise",
)
def surges(lab):
    def rate(to, batch=1024):
        return rescale(lion(1e-3), batch=batch, to=to, rule="surge", noise_scale=1024).values["lr"]

    yield lab.equal(rate(1024), 1e-3)
    yield lab.less(max(rate(512), rate(2048)), rate(1024))
    yield lab.close(rate(64), rate(16384))  # as far above the peak as below
    yield lab.ratio(rate(4, batch=1), 1e-3, equals=2.0, rtol=0.01)


@claim(
    "surge",
    "the formula is the best rate of sign descent on a quadratic while the sign's mean is linear in the gradient",
    "arXiv:2405.14578, sign of gradient case; derived for constant gradient and noise",
)
def sign_descent(lab):
    dim, gradient, noise = 100, 1.0, 50.0  # Hessian of ones: every pair of coordinates is coupled

    def best(batch: float) -> float:  # g E[s] / E[s H s], with E[s] = erf(g sqrt(B/2) / noise) for Gaussian noise
        mean = math.erf(gradient * (batch / 2) ** 0.5 / noise)
        return dim * gradient * mean / (dim + dim * (dim - 1) * mean**2)

    linear = math.pi * noise**2 / (2 * gradient**2)  # the batch at which the linearised mean is 1
    peak = linear / (dim - 1)
    for batch in (peak / 30, peak / 3, 3 * peak, 10 * peak):
        yield lab.ratio(best(batch), best(peak), equals=surge(batch, peak), rtol=0.03)
    yield lab.less(3 * surge(1e4 * linear, peak), best(1e4 * linear) / best(peak))  # far beyond, it is not
