r"""The step that the last two iterates allow, from how far they lie apart and how much the gradient turned between them.

.. math::
    \eta_k = \min\Big(\sqrt{1 + \theta_{k-1}}\, \eta_{k-1}, \frac{\|x_k - x_{k-1}\|}{2 \|g_k - g_{k-1}\|_*}\Big), \qquad
    \theta_k = \frac{\eta_k}{\eta_{k-1}}
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["INFINITE", "next_step"]

INFINITE = 1e12
"""Stands for the infinite ratio of steps at the start, as in the code of AdGD's authors."""


def next_step(moved: Tensor, turned: Tensor, step: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    """(eta_k, theta_k) from the two squared norms, 0-d; as they were where nothing was learnt, in the first step and where nothing changed.

    (Malitsky and Mishchenko, arXiv:1910.09529, algorithm 1; in the norm of a diagonal, Jahani et al., arXiv:2109.05198.)
    """
    smooth = moved.sqrt() / (2 * turned.sqrt())
    told = (moved > 0) & (turned > 0)
    new = torch.where(told, torch.minimum((1 + theta).sqrt() * step, smooth), step)
    return new, torch.where(told, new / step, theta)
