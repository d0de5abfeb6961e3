r"""Muon: momentum, orthogonalised: every matrix moves by a multiple of its momentum's polar factor, so that all directions move alike.

.. math::
    m_t = \mu m_{t-1} + (1 - \mu) g_t, \qquad (1 - \mu) g_t + \mu m_t = U \Sigma V^\top, \qquad
    u_t = s\, U V^\top + \lambda p, \qquad p \leftarrow p - \mathrm{lr}\, u_t

with :math:`U V^\top` by five Newton-Schulz iterations, and the scale :math:`s = 0.2 \sqrt{\max(m, n)}` ("moonlight", whose steps are as large
as AdamW's at the same lr) or :math:`\sqrt{\max(1, m / n)}` ("keller_jordan", for lr near 0.02). Dimensions after the first count as
columns: a convolution is the matrix of its filters. Vectors take AdamW's step, with :math:`b_1 = \mu`.
"""

from __future__ import annotations

from typing import Literal

import torch

from fallline.core.errors import InvalidValueError
from fallline.core.method import method
from fallline.core.space import log, one_minus_log
from fallline.core.transform import FromSite, Transform, chain, transform, zeros
from fallline.core.types import Hyper, Reach
from fallline.transforms import decay, descend
from fallline.transforms.average import whole
from fallline.transforms.orthogonalise import explain_sizes, polar, size_of_step
from fallline.transforms.subspace import is_matrix


def _second_moment(step, p, site):
    if is_matrix(p):
        return p.new_zeros(())
    if step.vectors == "refuse":
        raise InvalidValueError(
            f"muon() got the parameter {site.name!r} of shape {tuple(p.shape)}. It needs matrices. Put it in another rule of groups(), let "
            f"muon_groups(model) do that, or write vectors='adamw'."
        )
    return torch.zeros_like(p)


@transform
class ScaleByMuon(Transform):
    momentum: Hyper = 0.95
    b2: Hyper = 0.95
    scale: str = "moonlight"
    num_iterations: int = 5
    precision: str = "float32"
    vectors: str = "adamw"
    reach = Reach.MATRIX
    compiles = False
    slots = {**zeros("m"), "v": FromSite(_second_moment)}
    nonnegative = frozenset({"v"})

    def update(self, u, at, *, m, v):
        m = m.lerp(u, 1 - self.momentum)
        if not is_matrix(u):
            v = v.lerp(u * u, 1 - self.b2)
            step = m / (1 - self.momentum**at.t) / ((v / (1 - self.b2**at.t)).sqrt() + 1e-8)
            return step, {"m": m, "v": v}
        x = u.lerp(m, self.momentum).flatten(1)
        step = size_of_step(self.scale, *x.shape) * polar(x, self.num_iterations, self.precision)
        return step.reshape(u.shape), {"m": m, "v": v}

    def explain(self, shapes):
        return explain_sizes(self.scale, shapes)


@method(
    label="Muon",
    title="Muon: An optimizer for hidden layers in neural networks",
    reference="Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/",
    year=2024,
    section="definition and Newton-Schulz iteration; scale of Moonlight: arXiv:2502.16982, section 2.2",
    notes="Made for hidden matrices: muon_groups(model) leaves embeddings, the head, biases and norms to AdamW. scale='none' is the bare "
    "polar factor. precision='bfloat16' iterates in bfloat16, as the authors do on GPUs; here float32 is the default. vectors='refuse' "
    "raises for anything that is no matrix. torch.optim.Muon calls these scales 'match_rms_adamw' and 'original'.",
    space={"lr": log(1e-4, 1e-1), "momentum": one_minus_log(0.8, 0.99), "weight_decay": log(1e-4, 1.0)},
    xfail={"movement_dies_out": "of a vector it dies out at 2.5 % a step, momentum / sqrt(b2) being 0.975"},
)
def muon(
    lr: Hyper = 1e-3,
    momentum: Hyper = 0.95,
    b2: Hyper = 0.95,
    weight_decay: Hyper = 0.0,
    scale: Literal["moonlight", "keller_jordan", "none"] = "moonlight",
    num_iterations: int = 5,
    precision: Literal["float32", "bfloat16"] = "float32",
    vectors: Literal["adamw", "refuse"] = "adamw",
):
    whole("muon", "num_iterations", num_iterations)
    step = ScaleByMuon(momentum, b2, scale, num_iterations, precision, vectors)
    return chain(step, decay(weight_decay), descend(lr))


@muon.claim(
    "five iterations bring all singular values of an update between 0.68 and 1.14", where="the Newton-Schulz iteration"
)
def near_orthogonal(lab):
    for seed in range(5):
        step = lab.follow(muon, [lab.gradient(seed=seed)], lr=1.0, scale="none")
        sizes = torch.linalg.svdvals(step[1] - step[0])
        yield lab.less(float(sizes.max()), 1.2)
        yield lab.less(0.68, float(sizes.min()))


@muon.claim("the update does not change if the gradient is scaled", where="definition")
def scale_free(lab):
    yield lab.close(lab.one_step(muon, scale=1e3), lab.one_step(muon), rtol=1e-9)


@muon.claim("Moonlight's steps have the root mean square of Adam's, 0.2", where="arXiv:2502.16982, section 2.2")
def size_of_adam(lab):
    size = lab.one_step(muon, lr=1.0).square().mean().sqrt()
    yield lab.close(size, 0.2, rtol=0.25)  # 0.2 times the root mean square of the singular values
