r"""Modular steepest descent: each tensor goes down as steeply as its norm allows, all of them by one common length.

.. math::
    u_l = \Big(\sum_k \|g_k\|_k^\dagger\Big)\, \arg\max_{\|t\|_l = 1} \langle g_l, t \rangle, \qquad p_l \leftarrow p_l - \mathrm{lr}\, u_l

over the tensors l, :math:`\|\cdot\|^\dagger` being the dual norm: with ``norm="max"`` u is the sign times the sum of all
:math:`\|g_k\|_1`, with ``"frobenius"`` the unit vector times the sum of all :math:`\|g_k\|_2`. With ``scaled=False`` the sum is
left to lr. Give tensors of other roles another norm with ``groups``.
"""

from __future__ import annotations

from fallline.core.method import method
from fallline.core.space import log
from fallline.core.transform import Transform, chain, transform
from fallline.core.types import Hyper, Reach
from fallline.transforms import decay, descend, steepest
from fallline.transforms.steepest import Norm


@transform
class ScaleByModularDescent(Transform):
    norm: Norm = "max"
    reach = Reach.GROUP

    def measure(self, u, at):
        return u.abs().sum() if self.norm == "max" else u.norm()

    def update(self, u, at):
        return at.total * steepest(self.norm).update(u, at)[0], {}


@method(
    label="SteepestDescent",
    title="Old Optimizer, New Norm: An Anthology",
    arxiv="2409.20325",
    year=2024,
    section="propositions 1 and 5",
    notes="The dual norms are those of the gradients; all layers have the same scale. The spectral norm is Muon's.",
    space={"lr": log(1e-4, 1.0), "weight_decay": log(1e-3, 3.0)},
)
def steepest_descent(lr: Hyper = 1e-2, weight_decay: Hyper = 0.0, norm: Norm = "max", scaled: bool = True):
    if not scaled:
        return chain(steepest(norm), decay(weight_decay), descend(lr))
    return chain(ScaleByModularDescent(norm), decay(weight_decay), descend(lr))


@steepest_descent.claim(
    "it minimises <g, d> + ||d||^2 / (2 lr) over steps d, where it is -lr ||g||_dual^2 / 2", where="prop. 1"
)
def minimises_the_model(lab):
    g, lr = lab.gradient(), 0.1
    for norm, size, dual in (
        ("max", lambda d: d.abs().max(), g.abs().sum()),
        ("frobenius", lambda d: d.norm(), g.norm()),
    ):
        d = lab.one_step(steepest_descent, lr=lr, norm=norm)
        yield lab.close((g * d).sum() + size(d) ** 2 / (2 * lr), -lr * dual**2 / 2)


@steepest_descent.claim("without moving averages Adam is steepest descent in the max norm", where="section 2")
def adam_without_averages(lab):
    ours = lab.one_step(steepest_descent, lr=0.01, scaled=False)
    yield lab.equal(ours, lab.one_step(lab.method("adam"), lr=0.01, b1=0.0, b2=0.0, eps=0.0))
