r"""AdaGrad-Norm: SGD whose rate falls with the root of the summed squared gradient norms, whatever lr was chosen.

.. math:: b_t^2 = b_0^2 + \sum_{i \le t} \|g_i\|^2, \qquad p \leftarrow p - \frac{\mathrm{lr}}{b_t}\, g_t
"""

from __future__ import annotations

from fallline.core.hyper import Domain
from fallline.core.method import method
from fallline.core.space import log
from fallline.core.transform import Transform, chain, scalars, transform
from fallline.core.types import Hyper, Reach
from fallline.transforms import descend


@transform
class ScaleByAdagradNorm(Transform):
    b0: Hyper = 1e-2
    reach = Reach.GROUP
    slots = scalars("s")
    nonnegative = frozenset({"s"})
    domains = {"b0": Domain("(0, inf)")}

    def measure(self, u, at, **slots):
        return u.square().sum()

    def update(self, u, at, *, s):
        s = s + at.total
        return u / (self.b0**2 + s).sqrt(), {"s": s}


@method(
    label="AdaGradNorm",
    title="AdaGrad stepsizes: Sharp convergence over nonconvex landscapes",
    arxiv="1806.01811",
    year=2018,
    section="algorithm 1",
    notes="The norm is that of all tensors together, as in the paper, where there is one vector. Studied under affine noise "
    "in arXiv:2302.08783. Neither paper has defaults; lr = 1 is a length in parameter space.",
    space={"lr": log(1e-2, 1e2), "b0": log(1e-4, 1e2)},
)
def adagrad_norm(lr: Hyper = 1.0, b0: Hyper = 1e-2):
    return chain(ScaleByAdagradNorm(b0), descend(lr))


@adagrad_norm.claim("converges whatever lr and b0, where gradient descent of the same lr diverges", where="theorem 2.2")
def any_rate_converges(lab):
    def end(method, **hypers):
        loss = lambda x: 50 * (lab.curvature() * x * x).sum()  # noqa: E731
        return float(loss(lab.minimise(method, loss, steps=200, **hypers)))

    yield lab.less(1e6, end(lab.method("sgd"), lr=0.1))
    for lr in (0.1, 1.0, 10.0):
        for b0 in (1e-2, 1.0):
            yield lab.less(
                end(adagrad_norm, lr=lr, b0=b0), 0.5 * float(50 * (lab.curvature() * lab.start() ** 2).sum())
            )
