r"""Sophia-G: momentum over a running mean of the Gauss-Newton diagonal, cut to one; the diagonal from one more backward pass.

.. math::
    \hat h_t = B\, \hat g_t \odot \hat g_t, \qquad \hat g_t = \frac1B \sum_b J_b^T v_b, \qquad
    d_t = \mathrm{clip}\Big( \frac{m_t}{\max(\gamma h_t, \epsilon)}, 1 \Big)
"""

from __future__ import annotations

import torch
from torch import Tensor

from fallline.core.claims import claim
from fallline.core.errors import InvalidValueError
from fallline.core.oracle import Batch, Gradients, Oracle, gradient
from fallline.core.space import log, one_minus_log
from fallline.core.types import Hyper, Params
from fallline.curvature import ggn
from fallline.objectives.base import at_least, flat
from fallline.objectives.problems import classifier
from fallline.second_order.base import Direction, finite, plain
from fallline.second_order.entries import number, step_method, steps
from fallline.second_order.layers import draws, output_derivatives

__all__ = ["sophia_g"]


def sophia_g(
    oracle: Oracle,
    *,
    b1: float = 0.96,
    b2: float = 0.99,
    gamma: float = 0.05,
    eps: float = 1e-12,
    every: int = 10,
    seed: int = 0,
) -> Direction:
    r"""Sophia with the Gauss-Newton-Bartlett estimator; the method ``sophia_h`` is the same with Hutchinson's.

    .. math:: m \leftarrow b_1 m + (1 - b_1) g, \qquad h \leftarrow b_2 h + (1 - b_2) \hat h \text{ every } k \text{ steps}

    The paper draws a label for each example from the model: the loss' slope there, v, has mean zero and as its second moment the loss' second
    derivative Q by the outputs (Bartlett 1953). Here v is drawn with these two moments from Q itself, which asks for no labels and takes any
    loss. Liu, Li, Hall, Liang and Ma 2023, arXiv:2305.14342, algorithms 2 and 3.

    Args:
        b1: of the momentum.
        b2: of the diagonal's mean.
        gamma: how large the diagonal counts; the paper tunes it until a tenth to a half of the coordinates are not cut.
        eps: the least denominator.
        every: steps between looks at the diagonal.
        seed: of the draws.
    """
    for name, value in (("b1", b1), ("b2", b2)):
        at_least(name, value, 0.0, high=1.0)
    at_least("gamma", gamma, 0.0, above=True)
    at_least("eps", eps, 0.0, above=True)
    if every < 1:
        raise InvalidValueError(f"sophia_g() got every={every}. Expected at least 1. Pass for example every=10.")
    return _SophiaG(plain(oracle, "sophia_g"), b1, b2, gamma, eps, every, seed)


@step_method(
    sophia_g,
    label="SophiaG",
    title="Sophia: A Scalable Stochastic Second-order Optimizer for Language Model Pre-training",
    arxiv="2305.14342",
    year=2023,
    section="algorithms 2 and 3",
    notes="Draws have the first two moments of the slopes at labels drawn from the model.",
    space={"lr": log(1e-4, 1e-1), "gamma": log(1e-3, 1.0), "b1": one_minus_log(0.8, 0.99)},
)
def _sophia_g(
    lr: Hyper = 1e-3, b1: Hyper = 0.96, b2: Hyper = 0.99, gamma: Hyper = 0.05, eps: Hyper = 1e-12, every: int = 10
):
    return steps(lr, 0.0), lambda oracle, seed: sophia_g(
        oracle,
        b1=number("b1", b1),
        b2=number("b2", b2),
        gamma=number("gamma", gamma),
        eps=number("eps", eps),
        every=every,
        seed=seed,
    )


class _SophiaG(Direction):
    def __init__(self, inner: Oracle, b1: float, b2: float, gamma: float, eps: float, every: int, seed: int) -> None:
        super().__init__(inner)
        self.b1, self.b2, self.gamma, self.eps, self.every, self.seed = b1, b2, gamma, eps, every, seed
        self.state["count"] = torch.zeros((), dtype=torch.int64)

    def value_and_grad(self, params: Params, batch: Batch, *, statistics: bool = False) -> tuple[Tensor, Gradients]:
        count = int(self.state["count"])
        due = count % self.every == 0
        own = {n: p.detach().requires_grad_() for n, p in params.items()}
        with torch.enable_grad():
            outputs = self.inner.outputs(own, batch, statistics=statistics)
            value = self.inner.criterion(outputs, batch).mean()
            found = gradient(value, own, keep=due)
            g = self.mean_over_ranks(found)
            self.gradients = 1
            if not finite(g):  # the optimizer refuses it; the means stay as they are
                return value.detach(), g
            state = dict(self.state)
            if due:
                self.gradients += 1
                for n, x in self._diagonal(outputs, own, batch, count).items():
                    state[f"{n}.h"] = (1 - self.b2) * x + self.b2 * state.get(f"{n}.h", torch.zeros_like(x)).to(x)
        d = {}
        for n, x in g.items():
            m = (1 - self.b1) * x + self.b1 * state.get(f"{n}.m", torch.zeros_like(x)).to(x)
            d[n] = (m / (self.gamma * state[f"{n}.h"].to(x)).clamp(min=self.eps)).clamp(-1, 1)
            state[f"{n}.m"] = m
        if statistics:
            self.state = {**state, "count": self.state["count"] + 1}
        return value.detach(), d

    def _diagonal(self, outputs: Tensor, own: Params, batch: Batch, count: int) -> Gradients:
        n = len(outputs)
        second = output_derivatives(self.inner, outputs, batch)[2]
        v = draws(second, 1, self.seed * 1_000_003 + count)[0].reshape(outputs.shape)
        return self.mean_over_ranks({k: n * x.square() for k, x in gradient((outputs * v).sum() / n, own).items()})


# -- claims -----------------------------------------------------------------------------------------------------------------


@claim(
    "sophia_g",
    "the estimate has the diagonal of the Gauss-Newton matrix as its mean",
    where="arXiv:2305.14342, section 2.3",
)
def unbiased(lab):
    oracle, batch = classifier()
    exact = ggn(oracle, batch).dense().diagonal()
    seen = []
    for seed in range(150):
        solver = sophia_g(oracle, b2=0.0, seed=seed)
        solver.value_and_grad(oracle.params, batch, statistics=True)
        seen.append(flat({n: solver.state[f"{n}.h"] for n in oracle.params}))
    found = torch.stack(seen)
    off = (found.mean(0) - exact).abs() / (found.std(0) / 150**0.5)
    yield lab.less(float(off.max()), 5.0)  # standard errors, of 45 numbers


@claim("sophia_g", "no coordinate of a step is longer than one, and where nothing is cut it is the momentum over gamma h",
       where="arXiv:2305.14342, section 2.2")  # fmt: skip
def bounded(lab):
    oracle, batch = classifier()
    g = oracle.value_and_grad(oracle.params, batch)[1]
    cut = flat(sophia_g(oracle, gamma=1e-6).value_and_grad(oracle.params, batch)[1])
    yield lab.equal(cut, flat(g).sign())
    solver = sophia_g(oracle, b1=0.0, b2=0.0, gamma=1e6)
    d = solver.value_and_grad(oracle.params, batch, statistics=True)[1]
    yield lab.close(flat(d), flat(g) / (1e6 * flat({n: solver.state[f"{n}.h"] for n in g})))
