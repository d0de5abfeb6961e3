r"""Normalised gradient descent: the gradient divided by a power of its norm over all tensors.

.. math:: p \leftarrow p - \mathrm{lr}\, \frac{g_t}{\|g_t\|^\beta}

``exponent`` is :math:`\beta`: 0 is SGD, 1 steps by lr whatever the gradient.
"""

from __future__ import annotations

from fallline.core.method import method
from fallline.core.space import linear, log
from fallline.core.transform import chain
from fallline.core.types import Hyper
from fallline.transforms import add_l2, descend, normalise


@method(
    label="NormalisedGD",
    title="Generalized-Smooth Nonconvex Optimization is As Efficient As Smooth Nonconvex Optimization",
    arxiv="2303.02854",
    year=2023,
    section="algorithm 1",
    notes="With exponent 1 it goes back to Nesterov (1984) and, stochastic, to Hazan et al. (arXiv:1507.02030). The paper asks for "
    "an exponent of at least the alpha of its smoothness class.",
    space={"lr": log(1e-2, 10.0), "exponent": linear(0.0, 1.0), "weight_decay": log(1e-6, 1e-2)},
)
def normalised_gd(lr: Hyper = 1e-1, exponent: Hyper = 1.0, weight_decay: Hyper = 0.0):
    return chain(add_l2(weight_decay), normalise(exponent), descend(lr))


@normalised_gd.claim("with exponent 1 the step has length lr, with 0 it is SGD's", where="algorithm 1")
def between_unit_steps_and_sgd(lab):
    for scale in (1e-3, 1e3):
        yield lab.close(lab.one_step(normalised_gd, scale=scale, lr=0.1).norm(), 0.1)
    yield lab.equal(lab.one_step(normalised_gd, lr=0.1, exponent=0.0), -0.1 * lab.gradient())


@normalised_gd.claim(
    "on x^4 from afar it converges where gradient descent of the same rate diverges", where="section 1"
)
def quartic(lab):
    def ends(method, **values):
        return float(lab.minimise(method, lambda x: (10 * x).pow(4).sum(), steps=60, **values).abs().max())

    yield lab.less(ends(normalised_gd, lr=0.05, exponent=1.0), 1.0)
    sgd = ends(lab.method("sgd"), lr=0.05)
    yield lab.less(1e6, sgd if sgd == sgd else float("inf"))
