r"""O2NC: an online learner proposes each step, and the gradient it is judged by is taken at a random place along it.

.. math::
    w_t = x_{t-1} + s_t \Delta_t, \quad s_t \sim U(0, 1), \qquad x_t = x_{t-1} + \Delta_t \\
    \Delta_{t+1} = \Pi_{\|\Delta\| \le D}\big(\Delta_t - \mathrm{lr}\, \nabla f_t(w_t)\big)

The learner is online gradient descent in a ball of radius :math:`D` = ``radius``, begun anew each ``every`` steps. The parameter is
:math:`w`; ``fallline.averaged`` evaluates at the mean of :math:`w` since the last beginning.
"""

from __future__ import annotations

import torch

from fallline.core.hyper import Domain
from fallline.core.method import method
from fallline.core.space import log
from fallline.core.transform import Transform, chain, transform, zeros
from fallline.core.types import Hyper, Reach
from fallline.transforms.average import clone, whole
from fallline.transforms.random_scaling import uniform


@transform
class OnlineToNonconvex(Transform):
    lr: Hyper = 1e-3
    radius: Hyper = 1e-2
    every: int = 100
    seed: int = 0
    domains = {"radius": Domain("(0, inf)")}
    slots = {"x": clone, **zeros("delta"), "mean": clone}
    reach = Reach.GROUP

    def measure(self, u, at, *, delta, **_):
        return (delta - self.lr * u).square().sum()

    def update(self, u, at, *, x, delta, mean):
        done = (at.t - 1) % self.every  # steps since the beginning
        mean = mean + (at.p - mean) / (done + 1)
        x, delta = x + delta, delta - self.lr * u
        delta = delta * (self.radius / at.total.sqrt().clamp(min=1e-30)).clamp(max=1.0)
        delta = torch.where(torch.as_tensor(done == self.every - 1), torch.zeros_like(delta), delta)
        ahead = x + uniform(self.seed, at.t, u) * delta
        return at.p - ahead, {"x": x, "delta": delta, "mean": mean}

    def average(self, p, *, mean, **_):
        return mean


@method(
    label="O2NC",
    title="Optimal Stochastic Non-smooth Non-convex Optimization through Online-to-Non-convex Conversion",
    arxiv="2302.03775",
    year=2023,
    section="algorithm 1, with online gradient descent (section 3)",
    notes="The paper returns the mean of a random epoch; here it is that of the running one.",
    space={"lr": log(1e-5, 1e-1), "radius": log(1e-3, 1.0)},
)
def o2nc(lr: Hyper = 1e-3, radius: Hyper = 1e-2, every: int = 100, step_seed: int = 0):
    whole("o2nc", "every", every)
    return chain(OnlineToNonconvex(lr, radius, every, step_seed))


@o2nc.claim("no step of x is longer than the radius, whatever the gradients", where="section 3")
def bounded_steps(lab):
    path = lab.follow(o2nc, [lab.gradient(seed=t, scale=1e3) for t in range(12)], lr=1.0, radius=0.1)
    yield lab.less(max(float((b - a).norm()) for a, b in zip(path, path[1:], strict=False)), 2 * 0.1 * 1.001)


@o2nc.claim("within an epoch the mean stays within every x radius of each of its points", where="section 3")
def averages_nearby(lab):
    grads = [lab.gradient(seed=t, scale=1e3) for t in range(10)]
    path = lab.follow(o2nc, grads, lr=1.0, radius=0.1, every=10)
    yield lab.less(float((lab.average(o2nc, grads, lr=1.0, radius=0.1, every=10) - path[-1]).norm()), 10 * 0.1)
