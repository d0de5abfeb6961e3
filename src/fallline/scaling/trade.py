r"""Do not decay the learning rate, increase the batch size: the same noise with fewer steps.

The noise of SGD is, up to constants, :math:`\eta N / B` for a rate :math:`\eta`, N examples and batches of B (Smith et al.,
arXiv:1711.00489). A decay of the rate may therefore be replaced by growth of the batch by the same factor.
"""

from __future__ import annotations

from dataclasses import dataclass

from fallline.core.claims import claim
from fallline.core.errors import InvalidValueError
from fallline.core.schedule import Schedule
from fallline.schedules import cosine, step_decay, tabulated, warmup

__all__ = ["Traded", "grow_batch"]


@dataclass(frozen=True)
class Traded:
    """A rate and a batch size for each of fewer steps, as schedules."""

    lr: Schedule
    batch: Schedule

    @property
    def num_steps(self) -> int:
        """Optimizer steps for the same number of examples."""
        return int(self.lr.length)


def grow_batch(schedule: Schedule, num_steps: int, batch: int, most: int) -> Traded:
    """Trade the decay of a rate for growth of the batch, over the examples that ``num_steps`` steps of ``batch`` see.

    Where the schedule has fallen to a share s of its highest value so far, the batch is batch/s, rounded, at most ``most``, and the
    rate is such that rate/batch is what it was at the same example. So a warm-up stays one, and beyond ``most`` the rate decays.
    """
    if num_steps < 1 or batch < 1 or most < batch:
        raise InvalidValueError(
            f"grow_batch got num_steps={num_steps}, batch={batch}, most={most}. Expected at least one step, a batch of at least 1, and most >= batch. "
            f"Write for example grow_batch(cosine(1000), 1000, batch=64, most=4096)."
        )
    total, seen, peak, at = num_steps * batch, 0, 0.0, 0
    rates, sizes = [], []
    while seen < total:
        while at < seen // batch + 1:
            at += 1
            peak = max(peak, schedule(at))
        rate = schedule(at)
        if rate < 0:
            raise InvalidValueError(
                f"grow_batch got a schedule that is {rate:g} at step {at}. Expected no negative rate. Correct the schedule."
            )
        wanted = most if rate * most <= peak * batch else max(1, round(batch * peak / rate))
        size = min(wanted, most, total - seen)
        rates.append(rate * size / batch)
        sizes.append(size)
        seen += size
    return Traded(tabulated(tuple(rates)), tabulated(tuple(sizes)))


@claim(
    "grow_batch",
    "decaying the learning rate = increasing the batch size: where the rate would fall by 5, the batch grows by 5",
    "lecture, slide 'Decay schemes'; arXiv:1711.00489",
)
def stairs(lab):
    traded = grow_batch(0.1 * step_decay(75, 0.2), 225, batch=64, most=64 * 25)
    yield lab.equal(traded.num_steps, 75 + 15 + 3)  # for the examples of 75 steps each
    yield lab.equal([traded.batch(t) for t in (75, 76, 90, 91)], [64, 320, 320, 1600])
    yield lab.equal([traded.lr(t) for t in range(1, 94)], 0.1)


@claim(
    "grow_batch",
    "the noise scale rate/batch is that of the decayed rate at every example seen",
    "arXiv:1711.00489, noise scale",
)
def same_noise(lab):
    schedule, steps, batch = warmup(50) >> cosine(950), 1000, 32
    traded = grow_batch(schedule, steps, batch, most=32 * 16)
    seen, mine, theirs = 0, [], []
    for t in range(1, traded.num_steps + 1):
        mine.append(traded.lr(t) / traded.batch(t))
        theirs.append(schedule(seen // batch + 1) / batch)
        seen += int(traded.batch(t))
    yield lab.close(mine, theirs)
    yield lab.equal(seen, steps * batch)
    yield lab.less(traded.num_steps, 0.7 * steps)


@claim(
    "grow_batch",
    "on a noisy quadratic the traded run ends with the decayed run's mean square, to first order in the rate",
    "arXiv:1711.00489, noise scale",
)
def same_end(lab):
    def end(rates, sizes, x=1.0):  # E x^2 under x <- x - lr (x + noise / sqrt(batch))
        for lr, size in zip(rates, sizes, strict=True):
            x = (1 - lr) ** 2 * x + lr**2 / size
        return x

    schedule, steps, batch = 0.02 * step_decay(400, 0.5), 1600, 4
    traded = grow_batch(schedule, steps, batch, most=64)
    ours = end(*([s(t) for t in range(1, traded.num_steps + 1)] for s in (traded.lr, traded.batch)))
    yield lab.ratio(ours, end([schedule(t) for t in range(1, steps + 1)], [batch] * steps), equals=1.0, rtol=0.02)
    yield lab.less(ours, 0.3 * end([0.02] * steps, [batch] * steps))
