r"""What convex theory says of a schedule: a bound on the last iterate's loss, the best rate and cooldown under it, and transfer.

For convex losses, a start at distance D from a solution and gradients of norm G, subgradient descent with rates
:math:`\eta_1, \dots, \eta_T` ends with

.. math:: f(x_T) - f_* \le \frac{D^2 + G^2 \sum_{t=1}^T \eta_t^2}{2 \sum_{t=1}^T \eta_t}
   + \frac{1}{2} \sum_{k=1}^{T-1} \frac{\eta_k}{\sum_{t=k+1}^T \eta_t} \frac{G^2 \sum_{t=k}^T \eta_t^2}{\sum_{t=k}^T \eta_t}

(Schaipp et al., arXiv:2501.18965, theorem 1; Defazio et al., arXiv:2310.07831, theorem 10).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fallline.core.claims import claim
from fallline.core.errors import InvalidValueError
from fallline.core.schedule import Schedule
from fallline.schedules.basic import constant, cosine
from fallline.schedules.checks import positive, whole
from fallline.schedules.decays import polynomial
from fallline.schedules.phases import wsd

__all__ = ["Bound", "best_cooldown", "last_iterate_bound", "transfer_lr"]


@dataclass(frozen=True)
class Bound:
    r"""The bound for the rates :math:`\gamma \eta_t`: ``distance / gamma + gamma * noise``, and what is best under it."""

    distance: float
    noise: float

    @property
    def value(self) -> float:
        """The bound for the schedule as it is, gamma = 1."""
        return self.at(1.0)

    def at(self, gamma: float) -> float:
        """The bound for ``gamma`` times the schedule."""
        return self.distance / gamma + gamma * self.noise

    @property
    def best_lr(self) -> float:
        """The factor gamma on the schedule that makes the bound smallest."""
        return math.sqrt(self.distance / self.noise)

    @property
    def best(self) -> float:
        """The bound at ``best_lr``."""
        return 2 * math.sqrt(self.distance * self.noise)


def last_iterate_bound(
    schedule: Schedule, num_steps: int, distance: float = 1.0, gradient: float | Sequence[float] = 1.0
) -> Bound:
    """The bound on the loss of the last iterate after ``num_steps`` steps; ``gradient`` is G, one number or one for each step."""
    whole("last_iterate_bound", "num_steps", num_steps)
    positive("last_iterate_bound", "distance", distance)
    rates = np.array([schedule(t) for t in range(1, num_steps + 1)])
    return _bound(rates, distance, np.broadcast_to(np.asarray(gradient, dtype=float), rates.shape))


def best_cooldown(num_steps: int, lr: float | None = None, distance: float = 1.0, gradient: float = 1.0) -> float:
    """The share of the steps to spend in a linear cooldown, in steps of a hundredth, that makes the bound smallest.

    With the best rate for every share (``lr=None``) it is 1, linear decay from the first step on; with a given rate, such as one
    tuned for a shorter run, it is less.
    """
    whole("best_cooldown", "num_steps", num_steps, least=2)
    shares = [i / 100 for i in range(101)]
    bounds = [last_iterate_bound(wsd(num_steps, share), num_steps, distance, gradient) for share in shares]
    sizes = [b.best if lr is None else b.at(lr) for b in bounds]
    return shares[int(np.argmin(sizes))]


def transfer_lr(lr: float, before: tuple[Schedule, int], after: tuple[Schedule, int]) -> float:
    """The peak rate for another schedule or horizon, from one that was tuned: ``lr`` times the ratio of the best rates under the bound.

    ``transfer_lr(3e-3, (cosine(4000), 4000), (wsd(8000), 8000))``. D and G drop out.
    """
    positive("transfer_lr", "lr", lr)
    found = [last_iterate_bound(schedule, steps).best_lr for schedule, steps in (before, after)]
    return lr * found[1] / found[0]


def _bound(rates: np.ndarray, distance: float, gradients: np.ndarray) -> Bound:
    if rates[-1] <= 0 or (rates < 0).any():
        raise InvalidValueError(
            f"last_iterate_bound got a schedule that is {rates[-1]:g} at step {len(rates)} and at least {rates.min():g}. Expected no negative "
            f"rate, and a last one above 0: where nothing moves, the bound says nothing. Use fewer steps."
        )
    noise = (rates * gradients) ** 2
    ahead = np.cumsum(rates[::-1])[::-1]  # from k to T, summed from the small end
    ahead_noise = np.cumsum(noise[::-1])[::-1]
    tail = (rates[:-1] / ahead[1:] * ahead_noise[:-1] / ahead[:-1]).sum()
    return Bound(distance**2 / (2 * ahead[0]), float(ahead_noise[0] / (2 * ahead[0]) + 0.5 * tail))


@claim(
    "last_iterate_bound",
    "tuned linear decay gives D G / sqrt(T) times 2, cosine 2.06, WSD with 20 % cooldown 2.16, a constant rate 3.14",
    "arXiv:2501.18965, theorem 1, evaluated at T = 4,000",
)
def constants(lab):
    steps = 4000
    shapes = {polynomial(steps): 2.0, cosine(steps): 2.06, wsd(steps): 2.16, constant(): 3.14}
    for schedule, size in shapes.items():
        yield lab.ratio(last_iterate_bound(schedule, steps).best * math.sqrt(steps), 1.0, equals=size, rtol=0.005)


@claim(
    "last_iterate_bound",
    "linear decay removes the logarithm: its constant does not grow with T, a constant rate's does",
    "arXiv:2501.18965, abstract",
)
def no_logarithm(lab):
    def size(make, steps):
        return last_iterate_bound(make(steps), steps).best * math.sqrt(steps)

    yield lab.close(size(polynomial, 8000), size(polynomial, 500), rtol=0.01)
    for steps in (500, 8000):
        harmonic = sum(1 / k for k in range(1, steps))
        yield lab.close(size(lambda steps: constant(), steps), math.sqrt(1 + harmonic))


@claim(
    "last_iterate_bound",
    "for a constant rate it is (D^2/(g T) + g G^2 (1 + H_{T-1})) / 2",
    "arXiv:2501.18965, constant schedule; harmonic number H",
)
def closed_form(lab):
    steps, gamma, distance, gradient = 300, 0.02, 3.0, 2.0
    harmonic = sum(1 / k for k in range(1, steps))
    bound = last_iterate_bound(gamma * constant(), steps, distance, gradient)
    yield lab.close(bound.value, (distance**2 / (gamma * steps) + gamma * gradient**2 * (1 + harmonic)) / 2)


@claim(
    "best_cooldown",
    "with a tuned rate a longer cooldown is better, up to all steps; with the short run's rate it is not",
    "arXiv:2501.18965, theorem 1, minimised over cooldowns",
)
def cooldown(lab):
    yield lab.equal(best_cooldown(400), 1.0)
    tuned = last_iterate_bound(wsd(400), 400).best_lr
    yield lab.less(best_cooldown(400, lr=0.5 * tuned), best_cooldown(400, lr=2 * tuned))


@claim(
    "transfer_lr",
    "for the same shape the best rate falls with the root of the horizon",
    "arXiv:2501.18965, abstract: extending the schedule with the optimal learning rate",
)
def horizons(lab):
    found = transfer_lr(0.1, (polynomial(500), 500), (polynomial(2000), 2000))
    yield lab.ratio(found, 0.1, equals=0.5, rtol=0.01)
