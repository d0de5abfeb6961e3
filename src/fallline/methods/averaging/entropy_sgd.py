r"""Entropy-SGD: noisy steps around an anchor find where the loss is low nearby, and every so often the anchor moves there.

.. math::
    p \leftarrow p - \mathrm{lr} \big(g + \gamma (p - x)\big) + \sqrt{\mathrm{lr}}\, \epsilon\, n, \quad n \sim N(0, I), \qquad
    \mu \leftarrow b_1 \mu + (1 - b_1)\, p

and after every ``num_inner`` of these steps :math:`x \leftarrow x - \mathrm{outer}\, (x - \mu)`, :math:`p, \mu \leftarrow x`.
``fallline.averaged(optimizer)`` evaluates at the anchor x.
"""

from __future__ import annotations

from fallline.core.hyper import NONNEGATIVE, Domain
from fallline.core.method import method
from fallline.core.random import normal_like, stream
from fallline.core.space import linear, log
from fallline.core.transform import Transform, chain, transform
from fallline.core.types import Hyper, Reach
from fallline.transforms import add_l2
from fallline.transforms.average import clone, whole


@transform
class EntropySgd(Transform):
    lr: Hyper = 0.1
    gamma: Hyper = 1e-4
    outer: Hyper = 1.0
    b1: Hyper = 0.75
    eps: Hyper = 1e-4
    num_inner: int = 20
    domains = {"gamma": NONNEGATIVE, "outer": Domain("[0, 1]")}
    reach = Reach.MATRIX
    slots = {"x": clone, "mu": clone, "stream": stream}

    def update(self, u, at, *, x, mu, stream):
        noise = self.lr**0.5 * self.eps * normal_like(u, stream, at.t)
        p = at.p - self.lr * (u + self.gamma * (at.p - x)) + noise
        mu = mu.lerp(p, 1 - self.b1)
        due = at.t % self.num_inner == 0
        x = x + due * self.outer * (mu - x)
        return at.p - p + due * (p - x), {"x": x, "mu": mu + due * (x - mu)}

    def average(self, p, *, x, mu, stream):
        return x


@method(
    label="EntropySGD",
    title="Entropy-SGD: Biasing Gradient Descent Into Wide Valleys",
    arxiv="1611.01838",
    year=2016,
    section="algorithm 1",
    notes="lr is the rate of the inner steps, 0.1 in the paper. The paper's outer step eta gamma (x - mu) is outer (x - mu) here, as in "
    "the authors' code, whose outer is 1. The weight of the past in mu is 0.75, as in that code; the paper can be read as 0.25. Pass a "
    "schedule that grows as gamma for the paper's scoping. Without the momentum that the authors' code adds to both loops.",
    space={"lr": log(1e-3, 3.0), "gamma": log(1e-5, 1e-1), "outer": linear(0.2, 1.0)},
    xfail={
        "zero_gradients_move_nothing": "it samples: noise moves parameters without gradients",
    },
)
def entropy_sgd(
    lr: Hyper = 0.1,
    gamma: Hyper = 1e-4,
    outer: Hyper = 1.0,
    b1: Hyper = 0.75,
    eps: Hyper = 1e-4,
    weight_decay: Hyper = 0.0,
    num_inner: int = 20,
):
    whole("entropy_sgd", "num_inner", num_inner)
    return chain(add_l2(weight_decay), EntropySgd(lr, gamma, outer, b1, eps, num_inner))


@entropy_sgd.claim("with one inner step, no memory and no noise it is SGD", where="algorithm 1")
def one_inner_step(lab):
    grads = [lab.gradient(seed=t) for t in range(6)]
    ours = lab.follow(entropy_sgd, grads, lr=0.1, b1=0.0, eps=0.0, num_inner=1)[-1]
    yield lab.close(ours, lab.follow(lab.method("sgd"), grads, lr=0.1)[-1], rtol=1e-12)


@entropy_sgd.claim("it leaves a sharp valley in which SGD stays, for the wide one around it", where="abstract")
def wide_valleys(lab):
    def loss(x):  # wide around 0, with a sharp valley at 1
        return (x.square() / 2 - 0.2 * (-((x - 1) / 0.05).square()).exp()).sum()

    def left(method, **hypers):  # how many of 24 coordinates, all of which start at 1
        end = lab.minimise(method, lambda x: loss(x - lab.start() + 1), 250, lr=1e-2, **hypers) - lab.start() + 1
        return int(((end - 1).abs() > 0.1).sum())

    yield lab.equal(left(lab.method("sgd")), 0)
    yield lab.less(16, left(entropy_sgd, eps=0.7))
