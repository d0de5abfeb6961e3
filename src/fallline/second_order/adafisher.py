r"""AdaFisher: the diagonal of each layer's Fisher matrix as an outer product, of what comes in squared and what goes back squared.

.. math::
    H \leftarrow (1 - \gamma_1) H + \gamma_2\, \mathrm{minmax}(\mathbb{E}\, a^2), \qquad
    S \leftarrow (1 - \gamma_1) S + \gamma_2\, \mathrm{minmax}(\mathbb{E}\, \delta^2), \qquad
    D = \frac{\nabla_W L}{S H^T + \lambda}
"""

from __future__ import annotations

import torch
from torch import Tensor

from fallline.core.claims import claim
from fallline.core.oracle import Gradients, Oracle
from fallline.core.space import log, one_minus_log
from fallline.core.types import Hyper, Params
from fallline.objectives.base import at_least, flat
from fallline.second_order.base import Solver
from fallline.second_order.claims import network
from fallline.second_order.entries import number, step_method, steps
from fallline.second_order.kronecker import Kronecker, kronecker
from fallline.second_order.layers import Layer

__all__ = ["adafisher"]


def adafisher(
    oracle: Oracle, damping: float = 1e-3, *, forget: float = 0.92, weight: float = 8e-3, every: int = 100
) -> Solver:
    r"""AdaFisher: gradients over the diagonal of a Kronecker-factored Fisher matrix, without a square root; put momentum on it.

    Squares are those of the empirical Fisher matrix, each factor brought to [0, 1] by its smallest and largest entry. Layers are linear
    and convolutional ones; other parameters keep their gradient over :math:`1 + \lambda`. Martins Gomes, Zhang, Belilovsky, Wolf and
    Hosseini 2024, arXiv:2405.16397, algorithm 1, in the form of the authors' code.

    With the defaults of that code H and S settle below :math:`\gamma_2 / \gamma_1 = 0.0087`, their product below 8 % of :math:`\lambda`: steps
    are then nearly those of momentum at the rate :math:`\text{lr} / \lambda`. A smaller ``damping`` or a larger ``weight`` gives curvature a say.

    Args:
        damping: :math:`\lambda`.
        forget: :math:`\gamma_1`.
        weight: :math:`\gamma_2`; an average proper has ``weight=forget``.
        every: steps between looks at the factors.
    """
    at_least("forget", forget, 0.0, above=True, high=1.0)
    at_least("weight", weight, 0.0, above=True)
    solver = kronecker(_AdaFisher, oracle, damping, "empirical", 0.0, every, 0)
    solver.forget, solver.weight = forget, weight
    return solver


@step_method(
    adafisher,
    label="AdaFisher",
    title="AdaFisher: Adaptive Second Order Optimization via Fisher Information",
    arxiv="2405.16397",
    year=2024,
    section="algorithm 1; the running means: the authors' code",
    notes="The first moment of the paper is the chain's heavy-ball momentum, which is 1 / (1 - momentum) times as large.",
    space={"lr": log(1e-6, 1e-2), "damping": log(1e-5, 1e-1), "momentum": one_minus_log(0.5, 0.99)},
)
def _adafisher(
    lr: Hyper = 1e-4,
    momentum: Hyper = 0.9,
    damping: Hyper = 1e-3,
    forget: Hyper = 0.92,
    weight: Hyper = 8e-3,
    every: int = 100,
):
    return steps(lr, momentum), lambda oracle, seed: adafisher(
        oracle,
        number("damping", damping),
        forget=number("forget", forget),
        weight=number("weight", weight),
        every=every,
    )


class _AdaFisher(Kronecker):
    forget: float
    weight: float

    def _moved(self, layers: list[Layer], slopes: dict[str, Tensor], count: int) -> Gradients:
        state = dict(self.state)
        for layer in layers:
            name, delta = layer.name, slopes[layer.name]
            seen = {"h": layer.rows.to(delta.dtype).flatten(0, 1), "s": delta.flatten(0, 2)}
            squares = self.mean_over_ranks({f"{name}.{k}": x.square().mean(0) for k, x in seen.items()})
            for key, x in squares.items():
                old = state[key].to(x) if key in state else torch.ones_like(x)
                due = count % self.every == 0 or key not in state
                state[key] = (1 - self.forget) * old + self.weight * _minmax(x) if due else old
        return state

    def direction(self, name: str, g: Tensor, state: Params) -> Tensor:
        return g / (torch.outer(state[f"{name}.s"], state[f"{name}.h"]).to(g) + self.damping)

    def rest(self, g: Tensor) -> Tensor:
        return g / (1 + self.damping)


def _minmax(x: Tensor) -> Tensor:
    low, high = x.aminmax()
    return (x - low) / (high - low + 1e-12)


# -- claims -----------------------------------------------------------------------------------------------------------------


@claim("adafisher", "for one example its factors are those of the diagonal of each layer's empirical Fisher matrix, brought to [0, 1]",
       where="arXiv:2405.16397, section 3")  # fmt: skip
def one_example_is_the_diagonal(lab):
    oracle, batch = network(4, 5, 3, examples=1, tanh=True)
    g = oracle.value_and_grad(oracle.params, batch)[1]
    solver = adafisher(oracle, 1e-3, forget=1.0, weight=1.0)
    d = solver.value_and_grad(oracle.params, batch, statistics=True)[1]
    for name, x in g.items():
        square = x.square()  # one example's gradient, and so an outer product whose lines are proportional
        h, s = (square.sum(k) / square.sum(k).max() for k in (0, 1))
        h, s = ((v - v.min()) / (v.max() - v.min()) for v in (h, s))
        yield lab.close(d[name], x / (torch.outer(s, h) + 1e-3), rtol=1e-6)


@claim("adafisher", "with the constants of the authors' code its steps are within 8 % those of the gradient over damping",
       where="derived; gamma = (0.92, 0.008), lambda = 0.001")  # fmt: skip
def nearly_the_gradient(lab):
    oracle, batch = network(4, 5, 3, examples=20, tanh=True)
    solver = adafisher(oracle, every=1)
    for _ in range(12):
        d = solver.value_and_grad(oracle.params, batch, statistics=True)[1]
    ratio = 1e-3 * flat(d) / flat(oracle.value_and_grad(oracle.params, batch)[1])
    yield lab.less(float(ratio.max()), 1 + 1e-9)
    yield lab.less(1 / 1.08, float(ratio.min()))
