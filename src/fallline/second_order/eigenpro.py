r"""EigenPro: a kernel model trained by stochastic gradients whose largest eigendirections are made as small as the next one.

.. math::
    f = \sum_i \alpha_i k(x_i, \cdot), \qquad f \leftarrow f - \tfrac{\eta}{m} P \sum_{j \in B} (f(x_j) - y_j)\, k(x_j, \cdot), \qquad
    P = I - \sum_{i \le q} \Big(1 - \frac{\lambda_{q+1}}{\lambda_i}\Big) e_i \otimes e_i
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fallline.core.claims import claim
from fallline.core.errors import InvalidValueError

__all__ = ["KernelModel", "eigenpro"]

Kernel = Callable[[Tensor, Tensor], Tensor]
"""(n, d), (m, d) -> (n, m), symmetric and positive definite."""


@dataclass(frozen=True)
class KernelModel:
    """A trained kernel model: ``model(points)`` are its values, (n, outputs). ``lr`` is the rate it was trained at, ``gain`` by how much
    the preconditioner raised it, ``losses`` half the mean squared error on the training data before each epoch and at the end."""

    kernel: Kernel
    centres: Tensor
    weights: Tensor
    lr: float
    gain: float
    losses: tuple[float, ...]

    def __call__(self, points: Tensor) -> Tensor:
        return self.kernel(points, self.centres) @ self.weights


def eigenpro(
    kernel: Kernel,
    inputs: Tensor,
    targets: Tensor,
    *,
    rank: int = 40,
    subsample: int | None = None,
    batch_size: int = 64,
    epochs: int = 5,
    seed: int = 0,
) -> KernelModel:
    r"""Train a kernel model on all data, preconditioned by the top ``rank`` eigenvectors of a subsample's kernel matrix.

    With :math:`K_s v_i = \sigma_i v_i` on s points, :math:`e_i = \sigma_i^{-1/2} \sum_l v_{il} k(x_l, \cdot)` and
    :math:`\lambda_i = \sigma_i / s` (Nystrom), the correction goes to the weights of those s points alone. The rate is the one that is best for
    interpolation, :math:`\eta = m / (\beta + (m - 1) \lambda_{q+1})` with :math:`\beta = \max_x k_P(x, x)`, the preconditioned kernel's
    diagonal; ``rank=0`` is plain stochastic gradient descent at its own best rate. Ma and Belkin 2017, arXiv:1703.10622, and 2018,
    arXiv:1806.06144; the rate: Ma, Bassily and Belkin 2018, arXiv:1712.06559.

    Args:
        kernel: a positive definite kernel.
        inputs: (n, d), which are the model's centres, too.
        targets: (n,) or (n, outputs).
        rank: q, eigendirections that are flattened.
        subsample: s, by default ten for each of them, all data at most.
        batch_size: m.
        epochs: passes over the data.
        seed: of the subsample and of the order.

    Raises ValueError for shapes or numbers that do not fit.
    """
    n = len(inputs)
    y = targets.reshape(n, -1) if len(targets) == n else targets
    size = min(n, 10 * max(rank, 1)) if subsample is None else subsample
    if len(y) != n or not 0 <= rank < size <= n or not 1 <= batch_size <= n or epochs < 1:
        raise InvalidValueError(
            f"eigenpro() got {n} inputs, {len(targets)} targets, rank={rank}, subsample={size}, batch_size={batch_size}, epochs={epochs}. "
            f"Expected as many targets as inputs, 0 <= rank < subsample <= inputs, and batches within the data. Correct them."
        )
    random = torch.Generator().manual_seed(seed)
    some = torch.randperm(n, generator=random)[:size]
    flat = _Flattened(kernel, inputs[some], rank)
    beta = float(flat.diagonal(inputs).max())
    lr = batch_size / (beta + (batch_size - 1) * flat.next)
    weights = torch.zeros(n, y.shape[1], dtype=y.dtype)
    model = KernelModel(kernel, inputs, weights, lr, 0.0, ())
    losses = [_loss(model, inputs, y)]
    for _ in range(epochs):
        for batch in torch.randperm(n, generator=random).split(batch_size):
            residual = (model(inputs[batch]) - y[batch]) * (lr / len(batch))
            weights[batch] -= residual
            weights[some] += flat.correction(inputs[batch], residual)
        losses.append(_loss(model, inputs, y))
    plain = batch_size / (float(_diagonal(kernel, inputs).max()) + (batch_size - 1) * flat.first)
    return KernelModel(kernel, inputs, weights, lr, lr / plain, tuple(losses))


class _Flattened:
    """The preconditioner, from s points."""

    def __init__(self, kernel: Kernel, points: Tensor, rank: int) -> None:
        self.kernel, self.points = kernel, points
        values, vectors = torch.linalg.eigh(kernel(points, points))
        values, vectors = values.flip(0)[: rank + 1], vectors.flip(1)[:, :rank]
        self.first, self.next = float(values[0]) / len(points), float(values[rank]) / len(points)
        self.vectors, self.scale = vectors, (1 - values[rank] / values[:rank]) / values[:rank]

    def correction(self, x: Tensor, residual: Tensor) -> Tensor:
        """What P adds to the weights of its points, (s, outputs)."""
        return self.vectors @ (self.scale[:, None] * (self.vectors.T @ (self.kernel(self.points, x) @ residual)))

    def diagonal(self, x: Tensor) -> Tensor:
        """k_P(x, x) = k(x, x) - sum_i (1 - lambda_{q+1} / lambda_i) e_i(x)^2, (n,)."""
        along = self.vectors.T @ self.kernel(self.points, x)
        return _diagonal(self.kernel, x) - (self.scale[:, None] * along.square()).sum(0)


def _diagonal(kernel: Kernel, x: Tensor) -> Tensor:
    return torch.stack([kernel(row[None], row[None])[0, 0] for row in x])


def _loss(model: KernelModel, x: Tensor, y: Tensor) -> float:
    return float((model(x) - y).square().mean()) / 2


# -- claims -----------------------------------------------------------------------------------------------------------------


def _laplace(a: Tensor, b: Tensor) -> Tensor:
    return torch.exp(-torch.cdist(a, b) / 4)


def _problem() -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    x = torch.randn(300, 4, generator=random, dtype=torch.float64)
    return x, torch.stack([x[:, 0].sin() + x[:, 1] * x[:, 2], x.square().sum(1).cos()], 1)


@claim(
    "eigenpro",
    "it converges to the exact interpolant of the data, the solution of K alpha = y",
    where="arXiv:1806.06144, section 2",
)
def interpolates(lab):
    x, y = _problem()
    exact = torch.linalg.solve(_laplace(x, x), y)
    found = eigenpro(_laplace, x, y, rank=60, subsample=300, batch_size=100, epochs=100)
    yield lab.less(found.losses[-1], 1e-6 * found.losses[0])
    elsewhere = _problem()[0][:50] + 0.3
    yield lab.less(float((found(elsewhere) - _laplace(elsewhere, x) @ exact).abs().max()), 1e-3)


@claim(
    "eigenpro",
    "its rate is many times that of plain SGD, and as many fewer epochs reach the same loss",
    where="arXiv:1703.10622, section 4",
)
def quicker(lab):
    x, y = _problem()
    found = eigenpro(_laplace, x, y, rank=60, subsample=300, batch_size=100, epochs=5)
    plain = eigenpro(_laplace, x, y, rank=0, batch_size=100, epochs=25)
    yield lab.less(5.0, found.gain)
    yield lab.less(found.losses[-1], plain.losses[-1])
