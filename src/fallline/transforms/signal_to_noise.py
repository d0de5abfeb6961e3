"""Scale each coordinate by the signal-to-noise ratio of its gradient, found from the parts of the batch."""

from __future__ import annotations

import torch
from torch import Tensor

from fallline.core.gradients import VarianceOfParts
from fallline.core.hyper import Domain
from fallline.core.transform import Transform, transform, zeros
from fallline.core.types import At, Hyper, Reach, State

__all__ = ["ScaleBySignalToNoise", "scale_by_signal_to_noise"]


@transform
class ScaleBySignalToNoise(Transform):
    """u <- clip(r / mean(r), floor, 1) u with r = g^2 / variance, per tensor; unscaled where the parts agree"""

    floor: Hyper = 0.1
    reach = Reach.TENSOR
    slots = zeros("variance")
    nonnegative = frozenset({"variance"})
    gradients = {"variance": VarianceOfParts()}
    domains = {"floor": Domain("[0, 1]")}

    def update(self, u: Tensor, at: At, *, variance: Tensor) -> tuple[Tensor, State]:
        noisy = variance > 0
        r = torch.where(noisy, at.g / torch.where(noisy, variance.sqrt(), 1.0), 0.0).square()
        mean = r.sum() / noisy.sum().clamp(min=1)
        r = (r / torch.where(mean > 0, mean, 1.0)).clamp(max=1.0)
        r = torch.where(r < self.floor, self.floor, r)
        return torch.where(noisy, r, 1.0) * u, {}


def scale_by_signal_to_noise(floor: Hyper = 0.1) -> ScaleBySignalToNoise:
    r"""Scale by the gradient's signal-to-noise ratio, :math:`r = g^2 / \sigma^2`, divided by its mean over the tensor and kept between
    ``floor`` and 1 (Jiang et al., arXiv:2309.13681). :math:`\sigma^2` is the variance between the gradients of the
    batch's parts: ``optimizer.step(parts=[...])``."""
    return ScaleBySignalToNoise(floor)
