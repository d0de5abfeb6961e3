r"""MARS-Shampoo: gradients corrected by their change since the last iterate, averaged, and orthogonalised.

.. math::
    c_t = g_t + \gamma \frac{b_1}{1 - b_1} (g_t - h_t), \qquad \tilde c_t = \frac{c_t}{\max(1, \|c_t\|)}, \qquad
    m_t = b_1 m_{t-1} + (1 - b_1)\, \tilde c_t = U \Sigma V^\top, \qquad u_t = s\, U V^\top + \lambda p

with :math:`h_t` as in MARS-AdamW and s as in Muon, of which this is the corrected form without Nesterov's step. A vector is a matrix of one
column, whose polar factor is its direction.
"""

from __future__ import annotations

from typing import Literal

from fallline.core.method import method
from fallline.core.space import log, one_minus_log
from fallline.core.transform import chain
from fallline.core.types import Hyper
from fallline.transforms import decay, descend, momentum
from fallline.transforms.correct import correct
from fallline.transforms.orthogonalise import orthogonalise


@method(
    label="MARSShampoo",
    title="MARS: Unleashing the Power of Variance Reduction for Training Large Models",
    arxiv="2411.10438",
    year=2024,
    section="algorithm 4",
    notes="Named after Shampoo without its memory, which is the polar factor; here by Newton-Schulz iterations, as in the authors' code. "
    "The paper leaves vectors to AdamW: give them their own rule, as muon_groups does.",
    space={"lr": log(1e-4, 1e-1), "gamma": log(1e-3, 1e-1), "b1": one_minus_log(0.5, 0.99)},
    xfail={
        "movement_dies_out": "a vector's direction does not depend on its length: it moves on, whatever is left of m"
    },
)
def mars_shampoo(
    lr: Hyper = 1e-3,
    b1: Hyper = 0.95,
    weight_decay: Hyper = 0.0,
    gamma: Hyper = 0.025,
    exact: bool = False,
    scale: Literal["moonlight", "keller_jordan", "none"] = "moonlight",
):
    average = momentum(b1, b1)
    return chain(correct(gamma * b1 / (1 - b1), exact), average, orthogonalise(scale), decay(weight_decay), descend(lr))


@mars_shampoo.claim(
    "without correction and momentum it is Muon without Nesterov's step and momentum", where="algorithm 4"
)
def uncorrected(lab):
    grads = [lab.gradient(seed=t) for t in range(3)]
    muon = lab.follow(lab.method("muon"), grads, momentum=0.0)
    yield lab.close(lab.follow(mars_shampoo, grads, gamma=0.0, b1=0.0)[-1], muon[-1], rtol=1e-9)
