r"""Stochastic L-BFGS: an inverse Hessian of few pairs (s, y), y from products with the Hessian and not from differences of noisy gradients.

.. math:: y = \nabla^2 L(\bar\theta)\, s, \qquad s = \bar\theta_t - \bar\theta_{t-1}
"""

from __future__ import annotations

import torch
from torch import Tensor

from fallline.core.claims import claim
from fallline.core.errors import InvalidValueError
from fallline.core.oracle import Batch, Gradients, Oracle
from fallline.core.space import log, one_minus_log
from fallline.core.types import Hyper, Params
from fallline.curvature import Space, hessian
from fallline.objectives.base import differentiable, flat
from fallline.objectives.problems import quadratic
from fallline.second_order.base import PRODUCT, Direction, finite
from fallline.second_order.entries import step_method, steps

__all__ = ["stochastic_lbfgs", "two_loop"]


def stochastic_lbfgs(oracle: Oracle, num_pairs: int = 10, every: int = 10) -> Direction:
    r"""Stochastic quasi-Newton: the L-BFGS direction of the batch's gradient; a pair every so many steps, between means of iterates.

    Byrd, Hansen, Nocedal and Singer 2016, arXiv:1401.7020, algorithm 1. y is a product with the Hessian of the batch of the step at which the
    pair is made; a pair without positive curvature is left out. Until the first pair, after ``2 * every`` steps, the step is the gradient.

    Args:
        num_pairs: kept, each twice the parameters.
        every: steps between pairs.
    """
    if num_pairs < 1 or every < 1:
        raise InvalidValueError(
            f"stochastic_lbfgs() got num_pairs={num_pairs}, every={every}. Expected both at least 1. Leave them out for 10 and 10."
        )
    return _StochasticLBFGS(differentiable(oracle, "stochastic_lbfgs"), num_pairs, every)


@step_method(
    stochastic_lbfgs,
    label="StochasticLBFGS",
    title="A Stochastic Quasi-Newton Method for Large-Scale Optimization",
    arxiv="1401.7020",
    year=2014,
    section="algorithm 1",
    notes="Stepped with heavy-ball momentum and a rate. The product with the Hessian is that of the step's batch.",
    space={"lr": log(1e-3, 1.0), "momentum": one_minus_log(0.5, 0.99)},
    small={"every": 1, "num_pairs": 1},
)
def _stochastic_lbfgs(lr: Hyper = 0.1, momentum: Hyper = 0.0, num_pairs: int = 10, every: int = 10):
    return steps(lr, momentum), lambda oracle, seed: stochastic_lbfgs(oracle, num_pairs, every)


class _StochasticLBFGS(Direction):
    def __init__(self, inner: Oracle, num_pairs: int, every: int) -> None:
        super().__init__(inner)
        self.num_pairs, self.every = num_pairs, every
        self.state["count"] = torch.zeros((), dtype=torch.int64)

    def value_and_grad(self, params: Params, batch: Batch, *, statistics: bool = False) -> tuple[Tensor, Gradients]:
        value, g = self.inner.value_and_grad(params, batch, statistics=statistics)
        self.gradients = 1
        if not finite(g):
            return value, g
        space = Space.of(params)
        state = self._moved(params, space, batch)
        if statistics:
            self.state = state
        b = space.flatten(g)
        return value, space.unflatten(two_loop(b, state["s"].to(b), state["y"].to(b)) if "s" in state else b)

    def _moved(self, params: Params, space: Space, batch: Batch) -> dict[str, Tensor]:
        """The state after this step's point."""
        state = dict(self.state)
        here = space.flatten({n: p.detach() for n, p in params.items()})
        state["sum"] = state["sum"].to(here) + here if "sum" in state else here
        state["count"] = state["count"] + 1
        if int(state["count"]) % self.every:
            return state
        mean = state.pop("sum") / self.every
        if "mean" in state:
            s = mean - state["mean"].to(mean)
            self.gradients += PRODUCT
            y = hessian(self.inner, batch, space.unflatten(mean)) @ s
            if float(s @ y) > 1e-8 * float(s @ s):
                for key, new in (("s", s), ("y", y)):
                    state[key] = torch.cat([*([state[key].to(new)] if key in state else []), new[None]])[
                        -self.num_pairs :
                    ]
        state["mean"] = mean
        return state


def two_loop(g: Tensor, s: Tensor, y: Tensor) -> Tensor:
    r"""The L-BFGS inverse Hessian times g, of pairs as rows (oldest first), begun from :math:`(s^T y / y^T y) I` of the last one.

    Nocedal and Wright 2006, algorithm 7.4.
    """
    q, shares = g, []
    for i in reversed(range(len(s))):
        share = (s[i] @ q) / (s[i] @ y[i])
        q = q - share * y[i]
        shares.append(share)
    r = (s[-1] @ y[-1]) / (y[-1] @ y[-1]) * q
    for i, share in enumerate(reversed(shares)):
        r = r + (share - (y[i] @ r) / (s[i] @ y[i])) * s[i]
    return r


# -- claims -----------------------------------------------------------------------------------------------------------------


@claim("stochastic_lbfgs", "on a quadratic y = H s whatever the batch, the last pair satisfies the secant equation, and with conjugate pairs of all "
       "directions the step is Newton's", where="arXiv:1401.7020; Nocedal and Wright 2006, section 6.1")  # fmt: skip
def secant_equation(lab):
    oracle, batch, h, centre = quadratic()
    solver = stochastic_lbfgs(oracle, num_pairs=5, every=1)
    for i in range(6):
        d = solver.value_and_grad(oracle.params, (batch[0][i : i + 1],), statistics=True)[1]
        with torch.no_grad():
            for n, p in oracle.params.items():
                p.sub_(0.3 * d[n])
    s, y = solver.state["s"], solver.state["y"]
    yield lab.close(y, s @ h)
    yield lab.close(two_loop(y[-1], s, y), s[-1])
    conjugate = torch.linalg.eigh(h)[1].T
    g = h @ (flat(oracle.params).detach() - centre)
    yield lab.close(two_loop(g, conjugate, conjugate @ h), torch.linalg.solve(h, g))
