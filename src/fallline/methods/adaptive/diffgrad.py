r"""diffGrad: Adam with a friction that slows coordinates whose gradient has stopped changing.

.. math::
    \xi_t = \frac{1}{1 + e^{-|g_{t-1} - g_t|}}, \quad g_0 = 0, \qquad
    u_t = \xi_t \cdot \frac{\hat m_t}{\sqrt{\hat v_t} + \epsilon}

with :math:`\hat m_t, \hat v_t` as in Adam; the friction lies between one half and one.
"""

from __future__ import annotations

from typing import Literal

import torch

from fallline.core.method import method
from fallline.core.space import log, one_minus_log
from fallline.core.transform import Transform, chain, transform, zeros
from fallline.core.types import Hyper
from fallline.methods.adaptive.adam import scale_by_adam
from fallline.transforms import add_l2, descend


@transform
class Friction(Transform):
    slots = zeros("g")

    def update(self, u, at, *, g):
        return torch.sigmoid((g - at.g).abs()) * u, {"g": at.g}


@transform
class FrictionOfItself(Transform):
    def update(self, u, at):
        return torch.sigmoid(at.g.abs() * (at.t == 1)) * u, {}


@method(
    label="DiffGrad",
    title="diffGrad: An Optimization Method for Convolutional Neural Networks",
    arxiv="1909.11015",
    year=2019,
    section="algorithm 1",
    notes="variant='corrected' is the paper's equation and the authors' diffGrad_v2.py. variant='experiments' is their first code, "
    "with which the paper's numbers were made: it kept a reference to the gradient, not a copy, so that from the second step on "
    "the difference is zero and the method is Adam at half its rate. The friction looks at the gradient without the L2 penalty.",
    space={"lr": log(3e-4, 3e-1), "b1": one_minus_log(0.5, 0.99), "eps": log(1e-10, 1e-3)},
)
def diffgrad(
    lr: Hyper = 1e-3,
    b1: Hyper = 0.9,
    b2: Hyper = 0.999,
    eps: Hyper = 1e-8,
    weight_decay: Hyper = 0.0,
    variant: Literal["corrected", "experiments"] = "corrected",
):
    friction = Friction() if variant == "corrected" else FrictionOfItself()
    return chain(add_l2(weight_decay), scale_by_adam(b1, b2, eps), friction, descend(lr))


@diffgrad.claim(
    "a gradient that does not change gives half of Adam's step, one that changes much all of it", where="section 3"
)
def between_half_and_all(lab):
    g = lab.gradient()
    ours, adam = (lab.follow(m, [g, g, -1e3 * g], lr=0.1) for m in (diffgrad, lab.method("adam")))
    yield lab.equal(ours[2] - ours[1], 0.5 * (adam[2] - adam[1]))
    yield lab.close(ours[3] - ours[2], adam[3] - adam[2], rtol=1e-9)
