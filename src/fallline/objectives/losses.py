r"""Losses of single examples: focal, and generalised cross-entropy; and spectral decoupling, a penalty on the outputs."""

from __future__ import annotations

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fallline.core.claims import claim
from fallline.core.errors import InvalidTypeError
from fallline.core.oracle import Batch, Oracle, of_loss, of_module
from fallline.core.types import Params
from fallline.objectives.base import Objective, at_least
from fallline.objectives.problems import classifier

__all__ = ["focal", "generalised_cross_entropy", "spectral_decoupling"]


def focal(logits: Tensor, targets: Tensor, gamma: float = 2.0) -> Tensor:
    r"""Cross-entropy that counts examples less the better they are classified, shape (examples,).

    .. math:: -(1 - p)^\gamma \log p, \qquad p = \mathrm{softmax}(\text{logits})_{\text{target}}

    Logits (examples, classes), targets (examples,). Lin et al. 2017, arXiv:1708.02002.
    """
    at_least("gamma", gamma, 0.0)
    log_p = -F.cross_entropy(logits, targets, reduction="none")
    return -((-torch.expm1(log_p)) ** gamma) * log_p if gamma else -log_p


def generalised_cross_entropy(logits: Tensor, targets: Tensor, q: float = 0.7) -> Tensor:
    r"""Between cross-entropy (q -> 0) and the mean absolute error (q = 1), which noisy labels harm less; shape (examples,).

    .. math:: (1 - p^q) / q, \qquad p = \mathrm{softmax}(\text{logits})_{\text{target}}

    Logits (examples, classes), targets (examples,). Zhang and Sabuncu 2018, arXiv:1805.07836.
    """
    at_least("q", q, 0.0, high=1.0)
    log_p = -F.cross_entropy(logits, targets, reduction="none")
    return -torch.expm1(q * log_p) / q if q else -log_p


def spectral_decoupling(oracle: Oracle, weight: float) -> Objective:
    r"""The loss plus a penalty on the model's outputs, in place of weight decay: features that are learnt late are not starved.

    .. math:: L + \frac{\lambda}{2} \frac{1}{n} \sum_i \lVert y_i \rVert^2

    Pezeshki et al. 2021, arXiv:2011.09468.
    """
    if isinstance(oracle, Objective):
        raise InvalidTypeError(
            f"spectral_decoupling() got the objective {type(oracle).__name__.strip('_')}. Expected the oracle of a model, whose outputs and "
            f"losses it takes. Put it innermost, as in sam(spectral_decoupling(oracle, weight))."
        )
    return _Decoupled(oracle, at_least("weight", weight, 0.0))


class _Decoupled(Objective):
    def __init__(self, inner: Oracle, weight: float) -> None:
        super().__init__(inner)
        self.weight = weight

    def losses(self, params: Params, batch: Batch, *, statistics: bool = False) -> Tensor:
        outputs = self.inner.outputs(params, batch, statistics=statistics)
        return self.inner.criterion(outputs, batch) + self.weight / 2 * outputs.flatten(1).square().sum(1)

    def loss(self, params: Params, batch: Batch, *, statistics: bool = False) -> Tensor:
        return self.losses(params, batch, statistics=statistics).mean()


# -- claims -----------------------------------------------------------------------------------------------------------------


def _scores() -> tuple[Tensor, Tensor]:
    oracle, (inputs, labels) = classifier()
    return oracle.module(inputs).detach(), labels


@claim(
    "focal",
    "gamma = 0 is cross-entropy; gamma = 2 divides the loss by 100 at p = 0.9",
    where="arXiv:1708.02002, on the focal loss",
)
def focal_values(lab):
    logits, labels = _scores()
    yield lab.equal(focal(logits, labels, 0.0), F.cross_entropy(logits, labels, reduction="none"))
    sure = torch.tensor([[math.log(9.0), 0.0]], dtype=torch.float64)  # p = 0.9
    first = torch.tensor([0])
    yield lab.ratio(float(F.cross_entropy(sure, first)), float(focal(sure, first)), equals=100.0)


@claim(
    "generalised_cross_entropy",
    "q -> 0 is cross-entropy, q = 1 is 1 - p, half the absolute error; an example's gradient is that of cross-entropy times p^q",
    where="arXiv:1805.07836, on the Lq loss",
)
def generalised_limits(lab):
    logits, labels = _scores()
    p = torch.softmax(logits, 1).gather(1, labels[:, None])[:, 0]
    yield lab.close(generalised_cross_entropy(logits, labels, 1e-12), -p.log(), rtol=1e-10)
    yield lab.equal(generalised_cross_entropy(logits, labels, 0.0), -p.log())
    one_hot = F.one_hot(labels, 3)
    yield lab.equal(
        generalised_cross_entropy(logits, labels, 1.0), (torch.softmax(logits, 1) - one_hot).abs().sum(1) / 2
    )
    x = logits.clone().requires_grad_()
    found = torch.autograd.grad(generalised_cross_entropy(x, labels, 0.7).sum(), x)[0]
    plain = torch.autograd.grad(F.cross_entropy(x, labels, reduction="sum"), x)[0]
    yield lab.equal(found, p[:, None] ** 0.7 * plain)


@claim(
    "spectral_decoupling",
    "at its minimum every example has the same margin, lambda y = sigmoid(-y), however weak its feature; under weight decay the margins differ",
    where="arXiv:2011.09468, on the dual of a linear model",
)
def margins_are_equal(lab):
    strengths = torch.tensor([3.0, 1.0, 0.5, 0.2], dtype=torch.float64)  # of four features, one for each example
    module = nn.Linear(4, 1, bias=False).double()
    batch = (strengths.diag(), torch.ones(4, 1, dtype=torch.float64))
    plain = of_module(module, partial(F.binary_cross_entropy_with_logits, reduction="none"))
    decayed = of_loss(module, lambda m, b: plain.loss_of(m, b).mean() + 0.05 * m.weight.square().sum())
    for oracle in (spectral_decoupling(plain, 0.1), decayed):
        nn.init.zeros_(module.weight)
        solver = torch.optim.LBFGS(
            module.parameters(), max_iter=50, tolerance_grad=1e-13, tolerance_change=0.0, line_search_fn="strong_wolfe"
        )
        solver.step(oracle.closure(batch))
        margins = module(batch[0])[:, 0].detach()
        if oracle is decayed:
            yield lab.less(2 * float(margins.min()), float(margins.max()))
        else:
            yield lab.close(0.1 * margins, torch.sigmoid(-margins), rtol=1e-6)
