r"""Rprop: each coordinate keeps its own step, longer while the gradient's sign stays, shorter when it flips.

.. math::
    \Delta_t = \mathrm{clip}(\Delta_{t-1} \cdot \{\eta_+, 1, \eta_-\}_{\mathrm{sign}(g_t g_{t-1})},
    \Delta_{\min}, \Delta_{\max}), \qquad u_t = \mathrm{sign}(g_t)\, \Delta_t

where the sign flipped, the coordinate rests and its gradient is forgotten (the variant without weight backtracking, iRprop-).
"""

from __future__ import annotations

import torch

from fallline.core.method import method
from fallline.core.space import log
from fallline.core.transform import Transform, chain, transform, zeros
from fallline.core.types import Hyper


@transform
class Rprop(Transform):
    lr: Hyper = 1e-2
    eta_minus: Hyper = 0.5
    eta_plus: Hyper = 1.2
    step_min: Hyper = 1e-6
    step_max: Hyper = 50.0
    slots = {**zeros("g"), "scale": lambda step, p: torch.ones_like(p)}

    def update(self, u, at, *, g, scale):
        agree = (u * g).sign()
        factor = agree.clamp(min=0) * self.eta_plus + (-agree).clamp(min=0) * self.eta_minus + (1 - agree.abs())
        step = (self.lr * scale * factor).clamp(self.step_min, self.step_max)
        on = self.lr > 0  # steps are kept relative to lr, so that it can move; at lr = 0 all rests
        scale = scale + on * (step / (self.lr + (self.lr == 0)) - scale)
        u = u * (agree >= 0)
        return on * u.sign() * step, {"g": u, "scale": scale}


@method(
    label="Rprop",
    title="A direct adaptive method for faster backpropagation learning: the RPROP algorithm",
    reference="Riedmiller & Braun, IEEE International Conference on Neural Networks, 1993",
    year=1993,
    section="section C",
    notes="lr is the first step of every coordinate. torch ignores later changes of lr; here they rescale the steps.",
    aliases={"etas": ("eta_minus", "eta_plus"), "step_sizes": ("step_min", "step_max")},
    space={"lr": log(1e-5, 1e-1)},
    torch_state={"step": "step", "prev": "rprop.g", "step_size": "lr * rprop.scale"},
)
def rprop(
    lr: Hyper = 1e-2,
    eta_minus: Hyper = 0.5,
    eta_plus: Hyper = 1.2,
    step_min: Hyper = 1e-6,
    step_max: Hyper = 50.0,
):
    return chain(Rprop(lr, eta_minus, eta_plus, step_min, step_max))


@rprop.claim(
    "while the sign stays the same, each step is eta_plus times the one before, whatever the gradient", where="eq. 4"
)
def geometric_growth(lab):
    path = lab.follow(rprop, [lab.gradient() * s for s in (1.0, 1e-3, 1e3, 5.0)], lr=0.01)
    for t in range(1, 5):
        yield lab.close((path[t] - path[t - 1]).abs(), 0.01 * 1.2 ** (t - 1), rtol=1e-9)
