r"""Lion's flow, and the function that falls along it: Lion solves a problem with a bound on the weights.

.. math:: \dot m = -\alpha \nabla f(x) - \gamma m, \qquad \dot x = \nabla K(m - \varepsilon (\alpha \nabla f(x) + \gamma m)) - \lambda x

For convex K this minimises :math:`\alpha f(x) + \frac\gamma\lambda K^*(\lambda x)`; Lion's K is the one-norm, whose conjugate bounds entries by
:math:`1/\lambda` (Chen, Liu, Liang & Liu, arXiv:2310.05898).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fallline.core.claims import claim
from fallline.flows.descent import START, small_network
from fallline.flows.fields import Field, Loss, gradient
from fallline.flows.solvers import solve

__all__ = ["LionFlow"]


@dataclass(frozen=True)
class LionFlow:
    r"""Lion-K with :math:`K(x) = \sum_i (\sqrt{x_i^2 + s^2} - s)`, the one-norm smoothed by s, on the state (x, m), shape (2 d,)."""

    alpha: float = 1.0
    gamma: float = 1.0
    epsilon: float = 0.5
    weight_decay: float = 0.1
    smoothing: float = 0.1

    def field(self, loss: Loss) -> Field:
        """The velocity of (x, m)."""
        slope = gradient(loss)

        def field(state: Tensor) -> Tensor:
            x, m = state.chunk(2)
            pull = self.alpha * slope(x) + self.gamma * m
            return torch.cat([self._smooth_sign(m - self.epsilon * pull) - self.weight_decay * x, -pull])

        return field

    def lyapunov(self, loss: Loss, state: Tensor) -> Tensor:
        r""":math:`\alpha f(x) + \frac\gamma\lambda K^*(\lambda x) + \frac{1 - \varepsilon\gamma}{1 + \varepsilon\lambda}
        (K^*(\lambda x) + K(m) - \langle m, \lambda x \rangle)`, 0-d; infinite where an entry of x exceeds :math:`1 / \lambda` in size."""
        x, m = state.chunk(2)
        decayed = self.weight_decay * x
        conjugate = self._conjugate(decayed)
        gap = conjugate + self._norm(m) - (m * decayed).sum()
        share = (1 - self.epsilon * self.gamma) / (1 + self.epsilon * self.weight_decay)
        return self.alpha * loss(x) + self.gamma / self.weight_decay * conjugate + share * gap

    def _norm(self, x: Tensor) -> Tensor:
        return ((x.square() + self.smoothing**2).sqrt() - self.smoothing).sum()

    def _smooth_sign(self, x: Tensor) -> Tensor:
        return x / (x.square() + self.smoothing**2).sqrt()

    def _conjugate(self, y: Tensor) -> Tensor:
        if bool((y.abs() > 1).any()):
            return y.new_tensor(torch.inf)
        return (self.smoothing - self.smoothing * (1 - y.square()).sqrt()).sum()


@claim(
    "Lion's flow",
    "its Lyapunov function falls all along the path, although the loss does not",
    where="arXiv:2310.05898",
)
def lyapunov_falls(lab):
    flow = LionFlow(epsilon=0.3, weight_decay=0.2)
    state = torch.cat([START, torch.full_like(START, 0.5)])
    path = solve(flow.field(small_network), state, 12.0, 240).points
    heights = [float(flow.lyapunov(small_network, s)) for s in path]
    losses = [float(small_network(s[: len(START)])) for s in path]
    yield lab.less(max(b - a for a, b in zip(heights, heights[1:], strict=False)), 1e-9)
    yield lab.less(1e-4, max(b - a for a, b in zip(losses, losses[1:], strict=False)))
