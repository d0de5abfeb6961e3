r"""FRUGAL: Adam on some columns of a matrix, signs of the gradient on the others, and other columns every now and then.

.. math::
    u_{ij} = \begin{cases} \mathrm{Adam}(g)_{ij} & j \in C_t \\ \mathrm{sign}(g_{ij}) & \text{else} \end{cases} \; + \lambda p_{ij}

:math:`C_t` is drawn anew every ``gap`` steps, a share ``density`` of all columns; only it has state, which starts afresh with it.
Vectors take AdamW's step.
"""

from __future__ import annotations

import torch

from fallline.core.method import method
from fallline.core.random import permutation, stream
from fallline.core.space import log, one_minus_log
from fallline.core.transform import Transform, chain, transform
from fallline.core.types import Hyper, Reach
from fallline.transforms import decay, descend
from fallline.transforms.average import whole
from fallline.transforms.subspace import check_density, is_matrix, size_of


@transform
class ScaleByFrugal(Transform):
    b1: Hyper = 0.9
    b2: Hyper = 0.999
    eps: Hyper = 1e-8
    density: float = 0.25
    gap: int = 200
    reach = Reach.MATRIX
    slots = {"m": lambda step, p: step.held(p), "v": lambda step, p: step.held(p), "stream": stream}
    nonnegative = frozenset({"v"})

    def update(self, u, at, *, m, v, stream):
        if not is_matrix(u):
            m, v = m.lerp(u, 1 - self.b1), v.lerp(u * u, 1 - self.b2)
            return m / (1 - self.b1**at.t) / ((v / (1 - self.b2**at.t)).sqrt() + self.eps), {"m": m, "v": v}
        g, since = u.reshape(u.shape[0], -1), (at.t - 1) % self.gap  # steps since the draw
        columns = permutation(g.shape[1], stream, 1 + (at.t - 1) // self.gap)[: m.shape[1]].expand_as(m)
        r, keep, t = g.gather(1, columns), since > 0, since + 1
        m, v = (keep * m).lerp(r, 1 - self.b1), (keep * v).lerp(r * r, 1 - self.b2)
        step = m / (1 - self.b1**t) / ((v / (1 - self.b2**t)).sqrt() + self.eps)
        return g.sign().scatter(1, columns, step).reshape(u.shape), {"m": m, "v": v}

    def held(self, p):
        if not is_matrix(p):
            return torch.zeros_like(p)
        columns = p.numel() // p.shape[0]
        return p.new_zeros(p.shape[0], size_of(self.density, columns))


@method(
    label="FRUGAL",
    title="FRUGAL: Memory-Efficient Optimization by Reducing State Overhead for Scalable Training",
    arxiv="2411.07837",
    year=2024,
    section="AdamW for the subspace, signSGD for the rest",
    notes="The paper's subspace may be of columns, blocks, random or singular directions; here it is of columns. State starts anew "
    "with the subspace. Both parts have one rate. The paper gives Adam all of the embeddings, norms and the last layer: give them "
    "a rule of their own in groups. Columns are drawn from the optimizer's seed and the parameter's name.",
    space={"lr": log(1e-4, 1e-1), "b1": one_minus_log(0.5, 0.99), "weight_decay": log(1e-4, 1.0)},
)
def frugal(
    lr: Hyper = 1e-3,
    b1: Hyper = 0.9,
    b2: Hyper = 0.999,
    eps: Hyper = 1e-8,
    weight_decay: Hyper = 0.0,
    density: float = 0.25,
    gap: int = 200,
):
    check_density("frugal", density)
    whole("frugal", "gap", gap)
    return chain(ScaleByFrugal(b1, b2, eps, density, gap), decay(weight_decay), descend(lr))


@frugal.claim("the state of a matrix is the share density of Adam's", where="abstract")
def memory(lab):
    key = 8 / 256**2  # of the random stream
    for density in (0.125, 0.25):
        yield lab.close(frugal.state_bytes(density=density) - key, density * lab.method("adam").state_bytes())


@frugal.claim("the step has full rank, whatever the density: all coordinates move", where="abstract")
def full_rank(lab):
    step = lab.one_step(frugal, lr=0.1, density=0.25, eps=0.0)
    yield lab.equal(step, -0.1 * lab.gradient().sign())  # Adam's first step is one, too


@frugal.claim(
    "the second moment is one of a few columns at a time: on the others it is signSGD",
    where="the split of the gradient",
)
def parts(lab):
    grads = [lab.gradient(seed=t) * 2.0**t for t in range(5)]
    path = lab.follow(frugal, grads, lr=0.1, gap=100)
    adam, signs = (lab.follow(lab.method(m), grads, lr=0.1)[-1] for m in ("adam", "signsgd"))
    like_adam, like_signs = ((path[-1] - x).abs().amax(0) < 1e-12 for x in (adam, signs))
    yield lab.equal(float(like_adam.sum()), 1.0)
    yield lab.equal(float(like_signs.sum()), 3.0)
