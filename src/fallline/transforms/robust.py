"""Means that a few outliers cannot move, of gradients stacked along their first dimension: one for each example or micro-batch.

With ``torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))`` the examples of a batch give such a stack; put the mean into
``.grad``, and any optimizer goes on from there.
"""

from __future__ import annotations

from torch import Tensor

from fallline.core.errors import InvalidValueError

__all__ = ["median_of_means", "winsorised_mean"]


def winsorised_mean(stack: Tensor, c: int) -> Tensor:
    r"""The mean after the ``c`` largest and the ``c`` smallest values of every coordinate have become the next ones: stack of
    shape (examples, ...) -> (...). ``c = 0`` is the mean, the largest c the median (Chatterjee & Zielinski, arXiv:2203.10036,
    winsorised gradient descent).

    Raises ValueError unless 0 <= 2 c < examples."""
    n = len(stack)
    if isinstance(c, bool) or not isinstance(c, int) or not 0 <= 2 * c < n:
        raise InvalidValueError(
            f"winsorised_mean() got c={c!r} for {n} gradients. Expected a whole number with 0 <= 2 c < {n}. Pass a smaller c or a "
            f"larger batch."
        )
    ordered = stack.sort(0).values
    inner = ordered[c : n - c]
    return (inner.sum(0) + c * (inner[0] + inner[-1])) / n


def median_of_means(stack: Tensor, k: int = 3) -> Tensor:
    r"""The median, coordinate by coordinate, of the means of ``k`` equal groups, taken in order: stack of shape (examples, ...) ->
    (...). ``k = 1`` is the mean, ``k`` = examples the median; of an even number the mean of the two in the middle (arXiv:2203.10036,
    where k = 3).

    Raises ValueError unless k divides the number of examples."""
    n = len(stack)
    if isinstance(k, bool) or not isinstance(k, int) or k < 1 or n % k:
        raise InvalidValueError(
            f"median_of_means() got k={k!r} for {n} gradients. Expected a number of groups that divides {n}. Pass another k, or "
            f"leave gradients out."
        )
    means = stack.view(k, n // k, *stack.shape[1:]).mean(1)
    return winsorised_mean(means, (k - 1) // 2)
