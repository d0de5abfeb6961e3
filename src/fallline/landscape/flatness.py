r"""Measures of sharpness side by side, and which of them a rescaling of the weights changes.

A ReLU layer scaled by c with the next one by 1 / c is the same function, and generalises alike; the largest eigenvalue and the trace of
the Hessian, and the worst case in a ball, can be made as large as one likes that way (Dinh et al., arXiv:1703.04933). Adaptive sharpness
and the Fisher-Rao norm stay. Compare the former between networks only if their weights are on the same scale.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fallline.core.oracle import Oracle
from fallline.core.types import Params
from fallline.curvature import Estimate, fisher, hessian, sharpness, trace
from fallline.curvature.batches import Data
from fallline.landscape.drawing import axes_or_new
from fallline.landscape.points import MeanLoss, trainable
from fallline.landscape.worst_case import average_case, worst_case

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Flatness", "fisher_rao_norm", "flatness"]


@dataclass(frozen=True)
class Flatness:
    """Measures of sharpness at one point. Those of the second group stay when the weights are rescaled without changing the function."""

    loss: float
    top_eigenvalue: float  # of the Hessian
    trace: Estimate  # of the Hessian
    worst_case: float  # in a ball of radius 0.05
    adaptive_worst_case: float  # in a ball of radius 0.5, relative to the weights
    adaptive_average: Estimate  # under noise of 5 % of each weight
    fisher_rao: float

    def plot(self, ax: Axes | None = None) -> Axes:
        """A bar for each measure, on a logarithmic axis; measures that rescaling changes are hollow."""
        ax = axes_or_new(ax)
        changed = {"top eigenvalue": self.top_eigenvalue, "trace": self.trace.value, "worst case": self.worst_case}
        kept = {
            "adaptive worst case": self.adaptive_worst_case,
            "adaptive average": self.adaptive_average.value,
            "Fisher-Rao norm": self.fisher_rao,
        }
        ax.barh(list(changed), list(changed.values()), fill=False, label="changed by rescaling")
        ax.barh(list(kept), list(kept.values()), label="unchanged")
        ax.set(xscale="log")
        ax.invert_yaxis()
        ax.legend(frameon=False, loc="lower right")
        return ax


def flatness(oracle: Oracle, data: Data, *, params: Params | None = None) -> Flatness:
    """All measures at one point, with their usual radii; each is a function of its own, for others.

    print(flatness(oracle, data))
    """
    point = trainable(oracle, params, "flatness()")
    h = hessian(oracle, data, point)
    return Flatness(
        MeanLoss(oracle, data)(point),
        sharpness(h),
        trace(h),
        worst_case(oracle, data, 0.05, params=point).value,
        worst_case(oracle, data, 0.5, params=point, adaptive=True).value,
        average_case(oracle, data, 0.05, params=point, adaptive=True),
        fisher_rao_norm(oracle, data, params=point),
    )


def fisher_rao_norm(
    oracle: Oracle,
    data: Data,
    *,
    params: Params | None = None,
    kind: str = "empirical",
    likelihood: str = "categorical",
) -> float:
    r"""The Fisher-Rao norm :math:`\sqrt{\theta^T F \theta}` (Liang et al., arXiv:1711.01530).

    For a ReLU network of L hidden layers without biases it is :math:`(L + 1) \sqrt{\mathbb{E}\,\langle \nabla_f \ell, f \rangle^2}`
    (theorem 3.1), hence unchanged by every rescaling that keeps the function.

    Args:
        kind: of Fisher matrix, as of ``curvature.fisher``: the paper's is that of the data's labels, ``"empirical"``; ``"exact"`` is
            that of the model's own distribution.
        likelihood: of the ``"exact"`` and ``"mc"`` kinds.
    """
    point = trainable(oracle, params, "fisher_rao_norm()")
    f = fisher(oracle, data, point, kind=kind, likelihood=likelihood)
    return math.sqrt(max(float(f.quadratic(point)), 0.0))
