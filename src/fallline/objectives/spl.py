r"""CVaR by the stochastic prox-linear method (SPL+): each step solves a model of the loss with its cut-off exactly."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import grad, vmap
from torch.utils._pytree import tree_map

from fallline.core.claims import claim
from fallline.core.oracle import Batch, Gradients, Oracle
from fallline.core.types import Params
from fallline.objectives.base import Objective, at_least, flat, reduced
from fallline.objectives.problems import quadratic
from fallline.objectives.robust import cvar

__all__ = ["spl_plus"]


def spl_plus(oracle: Oracle, beta: float, lr: float, lr_alpha: float, alpha: float = 0.0) -> Objective:
    r"""The gradient by which a step of plain SGD with rate ``lr`` takes the prox-linear step for CVaR; the cut-off is kept.

    .. math:: \min_{\theta, \alpha}\ \alpha + \frac{(\ell_i + \langle g_i, \theta - \theta_k \rangle - \alpha)_+}{1 - \beta}
        + \frac{\lVert \theta - \theta_k \rVert^2}{2 \lambda} + \frac{(\alpha - \alpha_k)^2}{2 \lambda_\alpha}

    Its solution is :math:`\theta_k - \lambda w_i g_i` and :math:`\alpha_k - \lambda_\alpha (1 - w_i)` with
    :math:`w_i = \mathrm{clip}\big((\ell_i - \alpha_k + \lambda_\alpha) / (\lambda \lVert g_i \rVert^2 + \lambda_\alpha), 0, 1 / (1 - \beta)\big)`.
    On a batch the steps of its examples are averaged. ``alpha``, where the cut-off starts and then in ``state``, tends to the
    beta-quantile of the losses. Takes the gradient of every example: no batch normalisation in training mode, no dropout. After
    Meng and Gower 2023, arXiv:2305.17498.
    """
    return _ProxLinear(oracle, at_least("beta", beta, 0.0, high=1 - 1e-9), lr, lr_alpha, alpha)


class _ProxLinear(Objective):
    changes = "gradient"

    def __init__(self, inner: Oracle, beta: float, lr: float, lr_alpha: float, alpha: float) -> None:
        super().__init__(inner)
        self.beta, self.lr = beta, at_least("lr", lr, 0.0, above=True)
        self.lr_alpha = at_least("lr_alpha", lr_alpha, 0.0, above=True)
        self.state = {"alpha": torch.tensor(float(alpha), dtype=torch.float64)}

    def value_and_grad(self, params: Params, batch: Batch, *, statistics: bool = False) -> tuple[Tensor, Gradients]:
        losses, gradients = self.examples(params, batch)
        alpha = self.state["alpha"].to(losses)
        squared = sum(g.flatten(1).square().sum(1) for g in gradients.values())
        weights = (losses - alpha + self.lr_alpha) / (self.lr * squared + self.lr_alpha)
        weights = weights.clamp(0, 1 / (1 - self.beta))
        if statistics:
            share = self.mean_over_ranks({"share": weights.mean()})["share"].to(self.state["alpha"])
            self.state["alpha"] = self.state["alpha"] - self.lr_alpha * (1 - share)
        value = alpha + (losses - alpha).clamp_min(0).mean() / (1 - self.beta)
        mean = {n: torch.tensordot(weights, g, dims=1) / len(losses) for n, g in gradients.items()}
        return value, mean

    def examples(self, params: Params, batch: Batch) -> tuple[Tensor, Gradients]:
        """The losses of the examples and their gradients, one more dimension in front."""
        own = {n: p.detach() for n, p in params.items()}

        def one(p: Params, example: Batch) -> Tensor:
            alone = tree_map(lambda x: x.unsqueeze(0) if isinstance(x, Tensor) else x, example)
            return self.inner.loss(p, alone)

        dims = tree_map(lambda x: 0 if isinstance(x, Tensor) else None, batch)
        gradients = vmap(grad(one), in_dims=(None, dims))(own, batch)
        with torch.no_grad():
            return self.inner.losses(own, batch), gradients


@claim("spl_plus", "the step is the exact minimum of the truncated model", where="arXiv:2305.17498")
def step_is_the_minimum(lab):
    oracle, batch, _, _ = quadratic()
    one = (batch[0][:1],)
    value, g = oracle.value_and_grad(oracle.params, one)
    beta, lr, lr_alpha = 0.8, 0.1, 0.3
    for alpha in (-2.0, float(value) - 0.1, float(value) + 5):  # in full, in part, and not at all
        objective = spl_plus(oracle, beta, lr, lr_alpha, alpha)
        step = -lr * flat(objective.value_and_grad(oracle.params, one, statistics=True)[1])
        at = torch.cat([step, objective.state["alpha"].view(1) - alpha])

        def model(move: Tensor, alpha: float = alpha) -> Tensor:
            d, a = move[..., :-1], move[..., -1]
            above = (value + d @ flat(g) - alpha - a).clamp_min(0) / (1 - beta)
            return alpha + a + above + d.square().sum(-1) / (2 * lr) + a.square() / (2 * lr_alpha)

        near = at + 1e-3 * torch.randn(500, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        yield lab.less(float(model(at)), float(model(near).min()))


@claim(
    "spl_plus",
    "where the cut-off is right, the mean of the steps of all examples is that of CVaR's gradient in the limit of small steps",
    where="arXiv:2305.17498",
)
def small_steps_follow_the_risk(lab):
    oracle, batch, _, _ = quadratic(examples=8)
    losses = oracle.losses(oracle.params, batch).detach().sort(descending=True).values
    risk = reduced(oracle, lambda x: cvar(x, 0.75)).value_and_grad(oracle.params, batch)
    between = float(losses[1] + losses[2]) / 2  # any cut-off between the second and the third of eight losses is right
    errors = []
    for lr in (1e-4, 5e-5):
        value, g = spl_plus(oracle, 0.75, lr, lr, between).value_and_grad(oracle.params, batch)
        yield lab.equal(value, risk[0])
        errors.append(float((flat(g) - flat(risk[1])).norm()))
    yield lab.less(errors[0], 1e-12 + 1e-3 * float(flat(risk[1]).norm()))
    yield lab.less(errors[1], errors[0] + 1e-12)


@claim("spl_plus", "on a fixed model the cut-off tends to the beta-quantile of the losses", where="arXiv:2305.17498")
def cut_off_is_the_quantile(lab):
    oracle, batch, _, _ = quadratic(examples=8)
    objective = spl_plus(oracle, 0.75, 1e-6, 0.1)
    for _ in range(100):
        objective.value_and_grad(oracle.params, batch, statistics=True)
    losses = oracle.losses(oracle.params, batch).detach().sort(descending=True).values
    alpha = float(objective.state["alpha"])
    yield lab.less(float(losses[2]) - 0.1, alpha)
    yield lab.less(alpha, float(losses[1]) + 0.1)
