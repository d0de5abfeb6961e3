r"""Extragradient: step with the gradient found one step ahead.

.. math:: \bar p_t = p_t - \gamma\, \mathrm{lr}\, \nabla f_t(p_t), \qquad p_{t+1} = p_t - \mathrm{lr}\, \nabla f_t(\bar p_t)

with :math:`\gamma` = ``ahead``. It converges in games, where gradient descent circles outwards. Two gradients a step:
``optimizer.step(closure)``.
"""

from __future__ import annotations

from fallline.core.gradients import GradientAt
from fallline.core.hyper import NONNEGATIVE
from fallline.core.method import method
from fallline.core.space import linear, log
from fallline.core.transform import Transform, chain, transform, zeros
from fallline.core.types import Hyper


@transform
class Extragradient(Transform):
    lr: Hyper = 0.1
    ahead: Hyper = 1.0
    domains = {"ahead": NONNEGATIVE}
    slots = zeros("h")
    gradients = {"h": GradientAt(lambda step, at, **_: at.p - step.ahead * step.lr * at.g)}

    def update(self, u, at, *, h):
        return self.lr * h, {}


@method(
    label="Extragradient",
    title="The extragradient method for finding saddle points and other problems",
    reference="Korpelevich, Matecon 12, 1976",
    year=1976,
    section="equation 2",
    notes="The same batch twice. ahead > 1 is the extrapolation with a smaller update of Diakonikolas et al. (arXiv:2011.00364).",
    space={"lr": log(1e-3, 1.0), "ahead": linear(0.5, 2.0)},
    xfail={"half_precision_computes_in_float32": "the model rounds the point ahead to its own dtype"},
)
def extragradient(lr: Hyper = 0.1, ahead: Hyper = 1.0):
    return chain(Extragradient(lr, ahead))


def bilinear(p):
    """The game min over x, max over y of <x, y>: a loss whose gradient is its vector field."""
    x, y = p[:3], p[3:]
    return (x * y.detach()).sum() - (x.detach() * y).sum()


@extragradient.claim(
    "on the game <x, y> it contracts by 1 - lr^2 + lr^4 (squared norm), where descent grows by 1 + lr^2",
    where="section 3",
)
def contracts(lab):
    lr, start = 0.3, float(lab.start().square().sum())
    ours = float(lab.minimise(extragradient, bilinear, steps=10, lr=lr).square().sum())
    yield lab.close(ours / start, (1 - lr**2 + lr**4) ** 10)
    theirs = float(lab.minimise(lab.method("sgd"), bilinear, steps=10, lr=lr).square().sum())
    yield lab.close(theirs / start, (1 + lr**2) ** 10)


@extragradient.claim("looking ahead by nothing it is gradient descent", where="equation 2")
def nothing_ahead(lab):
    ours, plain = (
        lab.on_batches(m, steps=10, lr=0.3, **v) for m, v in ((extragradient, {"ahead": 0.0}), (lab.method("sgd"), {}))
    )
    yield lab.equal(ours, plain)
