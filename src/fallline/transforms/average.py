"""Averages of the iterates. The last link of a chain; ``fallline.averaged(optimizer)`` evaluates at the average."""

from __future__ import annotations

from torch import Tensor

from fallline.core.errors import InvalidValueError
from fallline.core.hyper import Domain
from fallline.core.transform import Transform, transform
from fallline.core.types import At, Hyper, State

__all__ = ["Average", "AverageEma", "average", "average_ema", "clone", "whole"]


def clone(step: Transform, p: Tensor) -> Tensor:
    """A slot that starts at the parameter."""
    return p.clone()


@transform
class Average(Transform):
    """x <- x + (gamma + 1) / (n + gamma) (p' - x) for the n-th iterate p' = p - u that is due; until the first, x = p'"""

    start: int = 1
    every: int = 1
    gamma: Hyper = 0.0
    domains = {"gamma": Domain("[0, inf)")}
    slots = {"x": clone}

    def update(self, u: Tensor, at: At, *, x: Tensor) -> tuple[Tensor, State]:
        since = at.t - self.start
        n = 1 + (since > 0) * (since // self.every)
        due = (since <= 0) | (since % self.every == 0)
        return u, {"x": x + due * (self.gamma + 1) / (n + self.gamma) * (at.p - u - x)}

    def average(self, p: Tensor, *, x: Tensor) -> Tensor:
        return x


@transform
class AverageEma(Transform):
    """x <- decay x + (1 - decay) p' for the new iterate p' = p - u; x = p' after the first step"""

    decay: Hyper = 0.999
    domains = {"decay": Domain("[0, 1]")}
    slots = {"x": clone}

    def update(self, u: Tensor, at: At, *, x: Tensor) -> tuple[Tensor, State]:
        return u, {"x": x + (1 - self.decay * (at.t > 1)) * (at.p - u - x)}

    def average(self, p: Tensor, *, x: Tensor) -> Tensor:
        return x


def average(start: int = 1, every: int = 1, gamma: Hyper = 0.0) -> Average:
    r"""Average the iterates, :math:`x_n = x_{n-1} + \frac{\gamma + 1}{n + \gamma} (p_n - x_{n-1})`.

    With ``gamma=0`` all count the same (Polyak & Juditsky 1992); a larger one forgets early ones (Shamir & Zhang,
    arXiv:1212.1824, section 4; DoG uses 8). From step ``start`` on, each ``every`` steps, it is stochastic weight averaging
    (Izmailov et al., arXiv:1803.05407, algorithm 1)."""
    whole("average", "start", start)
    whole("average", "every", every)
    return Average(start, every, gamma)


def average_ema(decay: Hyper = 0.999) -> AverageEma:
    r"""Exponential moving average of the iterates, :math:`x_t = d\, x_{t-1} + (1 - d)\, p_t`, :math:`x_1 = p_1`."""
    return AverageEma(decay)


def whole(owner: str, name: str, value: object) -> None:
    """Raise unless a count is a whole number from 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        what = "" if name.startswith("num_") else " of steps"
        raise InvalidValueError(
            f"{owner} got {name}={value!r}. Expected a whole number{what}, at least 1. Write for example {name}=5."
        )
