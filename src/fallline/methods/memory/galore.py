r"""GaLore: Adam on gradients that are projected onto their leading singular vectors, which are found anew now and then.

.. math::
    R_t = G_t Q, \qquad u_t = s\, \mathrm{Adam}(R_t)\, Q^\top + \lambda p, \qquad
    Q = \text{the first } r \text{ right singular vectors of } G_k, \quad k = 1,\ 1 + \mathrm{gap},\ 1 + 2\, \mathrm{gap} \dots

for a matrix with at least as many rows as columns, and from the other side otherwise; r is ``density`` times the shorter side, s is
``scale``. Vectors take AdamW's step.
"""

from __future__ import annotations

import torch

from fallline.core.hyper import Domain
from fallline.core.method import method
from fallline.core.space import linear, log
from fallline.core.transform import Transform, chain, transform
from fallline.core.types import Hyper, Reach
from fallline.transforms import decay, descend
from fallline.transforms.average import whole
from fallline.transforms.subspace import basis, check_density, is_matrix, like_side, projected, renewed, shorter_side


@transform
class ScaleByGalore(Transform):
    scale: Hyper = 0.25
    b1: Hyper = 0.9
    b2: Hyper = 0.999
    eps: Hyper = 1e-6
    density: float = 0.25
    gap: int = 200
    reach = Reach.MATRIX
    compiles = False
    domains = {"scale": Domain("[0, inf)")}
    slots = {
        "m": lambda step, p: projected(p, step.density),
        "v": lambda step, p: projected(p, step.density),
        "q": lambda step, p: basis(p, step.density),
    }
    nonnegative = frozenset({"v"})

    def update(self, u, at, *, m, v, q):
        matrix = is_matrix(u)
        q = renewed(q, shorter_side(u), at.turn, self.gap) if matrix else q
        r = shorter_side(u) @ q if matrix else u
        m, v = m.lerp(r, 1 - self.b1), v.lerp(r * r, 1 - self.b2)
        step = m / (1 - self.b1**at.t) / ((v / (1 - self.b2**at.t)).sqrt() + self.eps)
        step = like_side(self.scale * step @ q.mT, u) if matrix else step
        return step, {"m": m, "v": v, "q": q}


@method(
    label="GaLore",
    title="GaLore: Memory-Efficient LLM Training by Gradient Low-Rank Projection",
    arxiv="2403.03507",
    year=2024,
    section="algorithm 2",
    notes="The paper gives a rank, a quarter of the width or more; density is its share of the shorter side. Moments stay as they are "
    "when the basis changes, as in the authors' code; so that this means something, new vectors point the way of those before "
    "them. Dimensions after the first count as columns. The paper leaves embeddings "
    "and norms to AdamW: give them a rule of their own in groups.",
    space={"lr": log(3e-3, 3.0), "scale": linear(0.1, 1.0)},
)
def galore(
    lr: Hyper = 1e-2,
    b1: Hyper = 0.9,
    b2: Hyper = 0.999,
    scale: Hyper = 0.25,
    weight_decay: Hyper = 0.0,
    density: float = 0.25,
    gap: int = 200,
):
    check_density("galore", density)
    whole("galore", "gap", gap)
    return chain(ScaleByGalore(scale, b1, b2, 1e-6, density, gap), decay(weight_decay), descend(lr))


@galore.claim(
    "its state is that of two moments of m by r and a basis of n by r numbers", where="the comparison of memory"
)
def memory(lab):
    for density in (0.25, 0.5):
        yield lab.close(galore.state_bytes(density=density), 4 * 3 * density)
    yield lab.equal(lab.method("adam").state_bytes(), 8.0)


@galore.claim(
    "a step has rank r at most and lies in the span of the gradient's first singular vectors", where="the projection"
)
def low_rank(lab):
    step = lab.one_step(galore, lr=0.1, density=0.5)
    _, _, vh = torch.linalg.svd(lab.gradient())
    yield lab.less(float((step @ vh[2:].mT).abs().max()), 1e-12)


@galore.claim("with the full rank and one basis for all steps it is Adam in a rotated frame", where="the projection")
def rotated_adam(lab):
    grads = [lab.gradient(seed=t) for t in range(6)]
    _, _, vh = torch.linalg.svd(grads[0])
    ours = lab.follow(galore, grads, lr=0.1, density=1.0, scale=1.0)
    adam = lab.follow(lab.method("adam"), [g @ vh.mT for g in grads], lr=0.1, eps=1e-6)
    yield lab.close(ours[-1] - ours[0], (adam[-1] - adam[0]) @ vh, rtol=1e-9)
