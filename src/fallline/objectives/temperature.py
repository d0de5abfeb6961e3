r"""Domains of unequal size: draw examples of small ones more often, or weigh their losses more; and a temperature that cools.

.. math:: p_d \propto n_d^{1 / \tau}
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import Sampler

from fallline.core.claims import claim
from fallline.core.errors import InvalidValueError
from fallline.core.schedule import Schedule
from fallline.objectives.base import at_least

__all__ = ["TemperatureBatches", "domain_weights", "temperature"]


def temperature(sizes: Sequence[int] | Tensor, tau: float) -> Tensor:
    r"""The share of each domain in what is drawn, :math:`n_d^{1 / \tau} / \sum_e n_e^{1 / \tau}`, float64: tau = 1 draws examples evenly,
    a large tau domains evenly."""
    counts = torch.as_tensor(sizes, dtype=torch.float64)
    if counts.dim() != 1 or bool((counts <= 0).any()):
        raise InvalidValueError(
            f"The sizes of the domains are {counts.tolist()}. Expected one positive count for each. Leave out empty domains."
        )
    return torch.softmax(counts.log() / at_least("tau", tau, 0.0, above=True), 0)


def domain_weights(sizes: Sequence[int] | Tensor, tau: float) -> Tensor:
    r"""Weights of the domains' losses that do on average, when examples are drawn evenly, what drawing at ``tau`` does:
    :math:`p_d / (n_d / n)` (scalarisation)."""
    counts = torch.as_tensor(sizes, dtype=torch.float64)
    return temperature(counts, tau) / (counts / counts.sum())


class TemperatureBatches(Sampler[list[int]]):
    """A batch sampler that draws a domain by ``temperature`` and an example of it evenly, with replacement.

    ``domains`` are labels (examples,) from 0. ``tau`` is a number or a schedule of the batch number, counted from 1 over all
    passes: Cooldown starts high, which learns small domains fast, and falls before they are learnt by heart, as
    ``5 * constant(2_000) >> constant()``. Li et al. 2024, arXiv:2410.04579.

    loader = DataLoader(data, batch_sampler=TemperatureBatches(labels, batch_size=64, num_batches=500, tau=5.0))
    """

    def __init__(
        self, domains: Tensor, batch_size: int, num_batches: int, tau: float | Schedule, seed: int = 0
    ) -> None:
        self.domains, self.batch_size, self.num_batches = domains, batch_size, num_batches
        self.sizes = torch.bincount(domains)
        self.tau, self.seed, self.drawn = tau, seed, 0
        temperature(self.sizes, 1.0)  # no empty domain

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[list[int]]:
        for _ in range(self.num_batches):
            self.drawn += 1
            tau = self.tau(self.drawn) if isinstance(self.tau, Schedule) else self.tau
            each = (temperature(self.sizes, tau) / self.sizes)[self.domains]
            made = torch.Generator().manual_seed(self.seed + self.drawn)
            yield torch.multinomial(each, self.batch_size, replacement=True, generator=made).tolist()

    def state_dict(self) -> dict[str, int]:
        """How many batches were drawn: all that a resumed run needs."""
        return {"drawn": self.drawn}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on after that many batches."""
        self.drawn = state["drawn"]


# -- claims -----------------------------------------------------------------------------------------------------------------


@claim(
    "temperature",
    "drawing at tau and weighing at tau have the same mean gradient; drawing has the lower variance when the small domain's gradients are as noisy",
    where="arXiv:2410.04579, on the equivalence and on the variance",
)
def same_mean_less_variance(lab):
    made = torch.Generator().manual_seed(0)
    sizes = torch.tensor([900, 90, 10])
    gradients = torch.randn(1000, 4, generator=made, dtype=torch.float64) + 0.3
    domains = torch.repeat_interleave(torch.arange(3), sizes)
    for tau in (2.0, 5.0):
        drawn = (temperature(sizes, tau) / sizes)[domains]
        weights = domain_weights(sizes, tau)[domains]
        means = drawn @ gradients, (weights[:, None] * gradients).mean(0)
        yield lab.equal(*means)
        sampling = drawn @ (gradients - means[0]).square().sum(1)
        weighting = (weights[:, None] * gradients - means[1]).square().sum(1).mean()
        yield lab.less(1.5 * float(sampling), float(weighting))


@claim("temperature", "tau = 1 leaves the data as they are, tau -> inf makes domains equal", where="arXiv:2410.04579")
def limits_of_the_temperature(lab):
    sizes = torch.tensor([900, 90, 10], dtype=torch.float64)
    yield lab.equal(temperature(sizes, 1.0), sizes / 1000)
    yield lab.equal(domain_weights(sizes, 1.0), 1.0)
    yield lab.close(temperature(sizes, 1e12), 1 / 3)
