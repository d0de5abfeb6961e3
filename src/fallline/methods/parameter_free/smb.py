r"""SMB: an SGD step, or, where the loss does not fall enough, a step of a model built from the gradients at both its ends.

With the trial step :math:`s = -\mathrm{lr}\, g`, its gradient :math:`g^+` and :math:`y = g^+ - g`, the step is s if
:math:`f(p + s) \le f(p) - c\, \mathrm{lr}\, \|g\|^2`, and else for each tensor :math:`c_g g + c_y y + c_s s`,

.. math::
    c_g = -\frac{\|s\|^2}{\delta}, \quad
    c_s = \frac{c_g}{\theta} \big(\|y\|^2 s^\top g - (y^\top s + \delta)\, y^\top g\big), \quad
    c_y = \frac{c_g}{\theta} \big(\|s\|^2 y^\top g - (y^\top s + \delta)\, s^\top g\big), \\
    \delta = \|s\| \Big(\|y\| + \frac{\|g\|}{\eta}\Big) - y^\top s, \qquad \theta = (y^\top s + \delta)^2 - \|s\|^2 \|y\|^2
"""

from __future__ import annotations

import torch

from fallline.core.gradients import GradientAt, Search
from fallline.core.hyper import Domain
from fallline.core.method import method
from fallline.core.space import linear, log
from fallline.core.transform import Transform, chain, transform
from fallline.core.types import Hyper, Reach


@transform
class ModelBuilding(Transform):
    lr: Hyper = 1.0
    eta: Hyper = 0.99
    c: Hyper = 0.1
    domains = {"eta": Domain("(0, 1)"), "c": Domain("(0, 1)")}
    reach = Reach.GROUP
    slots = {"accepted": lambda step, p: p.new_ones(()), "h": lambda step, p: torch.zeros_like(p)}
    gradients = {
        "accepted": Search(
            first=lambda step, before: 1.0,
            factor=lambda step: 0.0,  # one trial: 1 where it is accepted, else 0
            most=lambda step: 1,
            point=lambda step, at, x: at.p - step.lr * x * at.g,
            accepts=lambda step, loss, start, x, total: loss <= start - float(step.c) * float(step.lr) * total,
        ),
        "h": GradientAt(lambda step, at, **_: at.p - step.lr * at.g),
    }

    def measure(self, u, at, **_):
        return u.square().sum()

    def update(self, u, at, *, accepted, h):
        s, y = -self.lr * u, h - u
        ss, yy, gg, ys, yg, sg = ((a * b).sum() for a, b in ((s, s), (y, y), (u, u), (y, s), (y, u), (s, u)))
        delta = ss.sqrt() * (yy.sqrt() + gg.sqrt() / self.eta) - ys
        theta, c_g = (ys + delta) ** 2 - ss * yy, -ss / delta
        c_s = c_g / theta * (yy * sg - (ys + delta) * yg)
        c_y = c_g / theta * (ss * yg - (ys + delta) * sg)
        model = c_g * u + c_y * y + c_s * s
        return -torch.where((accepted > 0) | ~(ss > 0), s, model), {}


@method(
    label="SMB",
    title="Bolstering Stochastic Gradient Descent with Model Building",
    arxiv="2111.07058",
    year=2021,
    section="algorithm 1",
    notes="The model's coefficients and the defaults are those of the authors' code; layers are tensors. The gradient at the trial point "
    "is taken at every step here, and its loss by a call of its own; the paper takes it where the trial fails. Without the "
    "independent batches of SMBi and the rates that adapt themselves.",
    space={"lr": log(1e-2, 10.0), "eta": linear(0.5, 0.99)},
    xfail={
        "half_precision_computes_in_float32": "the model rounds the trial point to its own dtype",
        "nothing_is_read_back": "whether the trial is accepted is read from the loss",
        "maximize_is_descent_on_minus_g": "a trial needs the loss to change its sign with the gradient; the contract's does not",
    },
)
def smb(lr: Hyper = 1.0, eta: Hyper = 0.99, c: Hyper = 0.1):
    return chain(ModelBuilding(lr, eta, c))


@smb.claim("where the trial is accepted it is SGD", where="algorithm 1")
def accepted_trials(lab):
    def loss(x):
        return (lab.curvature() * x * x).sum() / 2

    ours, sgd = (lab.minimise(m, loss, steps=10, lr=0.5) for m in (smb, lab.method("sgd")))
    yield lab.equal(ours, sgd)


@smb.claim("on |p|^2 a / 2 any rate far too large ends in nearly the same step, about half the way", where="the model")
def large_rates(lab):
    for a in (3.0, 30.0):
        for lr in (1.0, 100.0):
            end = lab.minimise(smb, lambda x, a=a: a * x.square().sum() / 2, steps=1, lr=lr)
            yield lab.close(end, lab.start() * (1 - 1 / (2 + 1 / (0.99 * a * lr))), rtol=1e-7)


@smb.claim("it converges with the default rate of 1 where SGD diverges", where="abstract")
def default_rate(lab):
    def fall(method):
        a = 4 * lab.curvature()  # curvatures from 0.4 to 4
        end = lab.minimise(method, lambda x: (a * x * x).sum() / 2, steps=60, lr=1.0)
        return float((a * end * end).sum() / (a * lab.start() ** 2).sum())

    yield lab.less(fall(smb), 1e-6)
    yield lab.less(1e6, fall(lab.method("sgd")))
