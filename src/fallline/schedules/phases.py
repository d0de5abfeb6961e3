"""Warm-ups of other shapes than linear, those that follow from Adam's b2, and warm-up, stable phase and cooldown in one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from fallline.core.claims import claim
from fallline.core.errors import InvalidValueError, unknown
from fallline.core.schedule import Schedule
from fallline.schedules.basic import constant, warmup
from fallline.schedules.checks import fraction, positive, whole
from fallline.schedules.decays import one_minus_sqrt, polynomial

__all__ = ["exponential_warmup", "untuned_warmup", "wsd"]


@dataclass(frozen=True)
class exponential_warmup(Schedule):
    """1 - exp(-t / scale), which never ends; multiply it with a decay: ``exponential_warmup(1000) * cosine(10_000)``."""

    scale: float

    def __post_init__(self) -> None:
        positive("exponential_warmup", "scale", self.scale)

    def value(self, t: int) -> float:
        return -math.expm1(-t / self.scale)


def untuned_warmup(b2: float = 0.999, shape: Literal["linear", "exponential"] = "linear") -> Schedule:
    """The warm-up that Adam's b2 asks for, without tuning (Ma & Yarats, arXiv:1910.04209).

    ``"linear"``: min(1, t (1 - b2)/2), that is ``warmup(2 / (1 - b2))``; ``"exponential"``: 1 - exp(-(1 - b2) t).
    """
    if not 0 < b2 < 1:
        raise InvalidValueError(f"untuned_warmup got b2={b2!r}. Expected a number in (0, 1). Pass Adam's b2, as 0.999.")
    if shape == "linear":
        return warmup(max(1, round(2 / (1 - b2))))
    if shape == "exponential":
        return exponential_warmup(1 / (1 - b2))
    raise unknown("shape of untuned_warmup", str(shape), ("linear", "exponential"))


def wsd(num_steps: int, cooldown: float = 0.2, warm: int = 0, shape: Literal["linear", "sqrt"] = "linear") -> Schedule:
    """Warm-up, stable, decay over ``num_steps`` in all: ``warm`` steps up, then 1, then a cooldown to 0 over the share ``cooldown``.

    The cooldown is linear or one minus a square root (Hägele et al., arXiv:2405.18392). It is
    ``warmup(w) >> constant(n) >> polynomial(c)``; phases without steps are left out.
    """
    whole("wsd", "num_steps", num_steps)
    whole("wsd", "warm", warm, least=0)
    fraction("wsd", "cooldown", cooldown)
    if shape not in ("linear", "sqrt"):
        raise unknown("shape of wsd", str(shape), ("linear", "sqrt"))
    last = round(cooldown * num_steps)
    stable = num_steps - warm - last
    if stable < 0:
        raise InvalidValueError(
            f"wsd({num_steps}, cooldown={cooldown:g}, warm={warm}) needs {warm + last} steps for warm-up and cooldown. Expected "
            f"at most {num_steps} of both. Shorten one, or train longer."
        )
    down = polynomial if shape == "linear" else one_minus_sqrt
    phases: list[Schedule] = [warmup(warm)] if warm else []
    phases += [constant(stable)] if stable else []
    phases += [down(last)] if last else []
    joined = phases[0]
    for phase in phases[1:]:
        joined = joined >> phase
    return joined


@claim(
    "wsd", "the rate is constant until the cooldown starts, which is linear to zero", "arXiv:2501.18965, WSD schedule"
)
def shape_of_wsd(lab):
    schedule = wsd(1000, cooldown=0.2, warm=50)
    yield lab.equal([schedule(t) for t in (50, 51, 800, 801)], [1.0, 1.0, 1.0, 1.0])
    yield lab.equal([schedule(901), schedule(1000)], [0.5, 1 / 200])


@claim("untuned_warmup", "linear warm-up over 2/(1 - b2) steps is a sensible default", "arXiv:1910.04209, abstract")
def from_b2(lab):
    rate = untuned_warmup(0.999)
    yield lab.equal([rate(t) for t in (1, 500, 2000, 9000)], [0.0005, 0.25, 1.0, 1.0])


@claim(
    "untuned_warmup",
    "linear and exponential untuned warm-up lose the same number of steps, about 1/(1 - b2)",
    "arXiv:1910.04209, effective warm-up period: sum of 1 - w_t",
)
def effective_period(lab):
    b2, steps = 0.99, range(1, 5001)
    for shape in ("linear", "exponential"):
        yield lab.ratio(sum(1 - untuned_warmup(b2, shape)(t) for t in steps), 1 / (1 - b2), equals=1.0, rtol=0.01)
    rate = exponential_warmup(100)
    yield lab.close([rate(t) for t in (1, 50, 300)], [1 - math.exp(-t / 100) for t in (1, 50, 300)])


@claim(
    "warmup",
    "the rate rises from near zero to its peak in equal steps",
    "lecture, slide 'Warm-up'; arXiv:1706.02677, section 2.2",
)
def gradual(lab):
    rate = 0.4 * warmup(5)
    yield lab.close([rate(t + 1) - rate(t) for t in range(1, 5)], 0.08)
    yield lab.equal(rate(5), 0.4)
