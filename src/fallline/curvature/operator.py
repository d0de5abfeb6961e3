"""One type for every matrix of curvature: a linear map between named tensors, known by its products alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, overload

import numpy as np
import torch
from torch import Tensor

from fallline.core.errors import InvalidTypeError, InvalidValueError
from fallline.curvature.space import Space

__all__ = ["Operator", "Rows", "diagonal", "identity", "outer"]

Rows: TypeAlias = Callable[[Tensor], Tensor]
"""Vectors as rows, shape (vectors, columns of the matrix), to their products, shape (vectors, rows of the matrix)."""

_CHUNK = 64


class Operator:
    r"""A matrix :math:`A` that is never formed: ``A @ v`` for named tensors, a flat vector (n,) or columns (n, k).

    Operators add, subtract, scale, transpose (``.T``) and compose (``A @ B``). ``block`` and ``blocks`` restrict them to some of
    the tensors, ``to_scipy`` gives scipy's interface, ``dense`` the matrix itself, for tests.

    Args:
        domain: the space of v.
        product: rows (k, n) to rows (k, m).
        codomain: the space of A v; by default the domain.
        transposed: the product with the transpose; None says that A is symmetric.
    """

    def __init__(
        self, domain: Space, product: Rows, codomain: Space | None = None, transposed: Rows | None = None
    ) -> None:
        if transposed is None and codomain is not None and codomain != domain:
            raise InvalidValueError(
                f"Operator got {domain.dim} columns, {codomain.dim} rows and no transposed product. A symmetric operator maps a space "
                f"to itself. Pass transposed=."
            )
        self.domain, self.codomain = domain, codomain or domain
        self.num_products = 0
        self._product, self._transposed = product, transposed

    def __repr__(self) -> str:
        kind = "symmetric " if self.is_symmetric else ""
        return f"<{kind}Operator {self.shape[0]} x {self.shape[1]}, {len(self.domain.shapes)} tensors>"

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.codomain.dim, self.domain.dim

    @property
    def is_symmetric(self) -> bool:
        """Whether the operator is its own transpose by construction."""
        return self._transposed is None

    # -- products -------------------------------------------------------------------------------------------------------

    def rows(self, vectors: Tensor) -> Tensor:
        """Products with the rows of a matrix, shape (k, n) to (k, m): ``(A @ vectors.T).T``; each counts in ``num_products``."""
        self.num_products += vectors.shape[0]
        return self._product(vectors)

    @overload
    def __matmul__(self, other: Operator) -> Operator: ...
    @overload
    def __matmul__(self, other: Tensor) -> Tensor: ...
    @overload
    def __matmul__(self, other: Mapping[str, Tensor]) -> dict[str, Tensor]: ...

    def __matmul__(self, other: Any) -> Any:
        if isinstance(other, Operator):
            return self._compose(other)
        if isinstance(other, Tensor):
            if other.dim() not in (1, 2) or other.shape[0] != self.shape[1]:
                raise InvalidValueError(
                    f"An operator of {self.shape[0]} x {self.shape[1]} got a tensor of shape {tuple(other.shape)}. Expected "
                    f"({self.shape[1]},) or ({self.shape[1]}, k). Flatten named tensors with operator.domain.flatten(tensors)."
                )
            other = other.to(self.domain.dtype)
            return self.rows(other[None])[0] if other.dim() == 1 else self.rows(other.T.contiguous()).T
        if isinstance(other, Mapping):
            return self.codomain.unflatten(self.rows(self.domain.flatten(other)[None])[0])
        raise InvalidTypeError(
            f"An operator was multiplied by {type(other).__name__}. Expected named tensors, a tensor or an operator. "
            f"Convert arrays with torch.as_tensor."
        )

    def quadratic(self, v: Tensor | Mapping[str, Tensor]) -> Tensor:
        r""":math:`v^T A v`, 0-d."""
        flat = v if isinstance(v, Tensor) else self.domain.flatten(v)
        return flat @ (self @ flat)

    # -- algebra --------------------------------------------------------------------------------------------------------

    @property
    def T(self) -> Operator:
        """The transpose."""
        if self._transposed is None:
            return self
        return Operator(self.codomain, self._transposed, self.domain, self.rows)

    def __add__(self, other: Operator) -> Operator:
        if not isinstance(other, Operator):
            return NotImplemented
        if self.domain != other.domain or self.codomain != other.codomain:
            raise InvalidValueError(
                f"Operators of {self.shape[0]} x {self.shape[1]} and {other.shape[0]} x {other.shape[1]} do not add: their tensors "
                f"differ. Expected the same names and shapes. For a shift write A + 0.1 * identity(A.domain)."
            )
        left, right = self.T, other.T
        symmetric = self.is_symmetric and other.is_symmetric
        transposed = None if symmetric else lambda v: left.rows(v) + right.rows(v)
        return Operator(self.domain, lambda v: self.rows(v) + other.rows(v), self.codomain, transposed)

    def __mul__(self, scale: float | Tensor) -> Operator:
        if isinstance(scale, Operator):
            return NotImplemented
        factor, turned = float(scale), self.T
        transposed = None if self.is_symmetric else lambda v: factor * turned.rows(v)
        return Operator(self.domain, lambda v: factor * self.rows(v), self.codomain, transposed)

    __rmul__ = __mul__

    def __truediv__(self, scale: float) -> Operator:
        return self * (1 / scale)

    def __neg__(self) -> Operator:
        return self * -1.0

    def __sub__(self, other: Operator) -> Operator:
        return self + -other

    def _compose(self, inner: Operator) -> Operator:
        if self.domain != inner.codomain:
            raise InvalidValueError(
                f"Operators of {self.shape[0]} x {self.shape[1]} and {inner.shape[0]} x {inner.shape[1]} do not compose: the right one "
                f"does not end where the left one starts. Expected the same tensors there. Transpose one (.T)."
            )
        turned, first = inner.T, self.T
        return Operator(
            inner.domain,
            lambda v: self.rows(inner.rows(v)),
            self.codomain,
            lambda v: turned.rows(first.rows(v)),
        )

    def symmetric(self) -> Operator:
        """The same operator, declared symmetric: for compositions such as ``J.T @ M @ J``, of which only the user knows it."""
        if self.domain != self.codomain:
            raise InvalidValueError(
                f"An operator of {self.shape[0]} x {self.shape[1]} cannot be symmetric. Expected one that maps a space to itself. "
                f"Compose it with its transpose first."
            )
        return Operator(self.domain, self.rows)

    # -- parts ----------------------------------------------------------------------------------------------------------

    def block(self, *patterns: str) -> Operator:
        """The diagonal block of the tensors whose names match: ``H.block("layer1.*")``. Each product is one of the whole."""
        self._require_square("block")
        names = self.domain.matching(patterns)
        inside, places = self.domain.part(names), self.domain.indices(names)

        def restricted(operator: Operator, v: Tensor) -> Tensor:
            whole = v.new_zeros(v.shape[0], self.domain.dim)
            whole[:, places] = v
            return operator.rows(whole)[:, places]

        turned = self.T
        transposed = None if self.is_symmetric else lambda v: restricted(turned, v)
        return Operator(inside, lambda v: restricted(self, v), inside, transposed)

    def blocks(self, by: str = "layer") -> dict[str, Operator]:
        """The diagonal blocks: of every layer (the name up to its last dot), or ``by="tensor"``, of every tensor."""
        self._require_square("blocks")
        if by not in ("layer", "tensor"):
            raise InvalidValueError(
                f"blocks() got by={by!r}. Expected 'layer' or 'tensor'. Use block(pattern) for others."
            )
        groups: dict[str, list[str]] = {}
        for name in self.domain.shapes:
            layer = name.rpartition(".")[0] or name
            groups.setdefault(layer if by == "layer" else name, []).append(name)
        return {key: self.block(*names) for key, names in groups.items()}

    # -- other forms ----------------------------------------------------------------------------------------------------

    def dense(self) -> Tensor:
        """The matrix, from one product for each column: for tests and small models."""
        n = self.shape[1]
        found = []
        for start in range(0, n, _CHUNK):
            unit = torch.zeros(min(_CHUNK, n - start), n, dtype=self.domain.dtype, device=self.domain.device)
            unit[torch.arange(len(unit)), torch.arange(start, start + len(unit))] = 1
            found.append(self.rows(unit))
        return torch.cat(found).T

    def diag(self) -> Tensor:
        """The diagonal, flat and exact, from one product for each column; ``estimate_diagonal`` takes fewer."""
        self._require_square("diag")
        return self.dense().diagonal().clone()

    def to_scipy(self) -> Any:
        """A ``scipy.sparse.linalg.LinearOperator`` with the same products, on numpy arrays."""
        from scipy.sparse.linalg import LinearOperator

        def on_arrays(operator: Operator) -> Callable[[np.ndarray], np.ndarray]:
            space = operator.domain

            def product(x: np.ndarray) -> np.ndarray:
                columns = torch.as_tensor(np.ascontiguousarray(x), dtype=space.dtype, device=space.device)
                shape = columns.shape
                columns = columns.reshape(shape[0], -1)
                return (operator @ columns).cpu().numpy().reshape(operator.shape[0], *shape[1:])

            return product

        dtype = torch.zeros((), dtype=self.domain.dtype).numpy().dtype
        return LinearOperator(self.shape, on_arrays(self), on_arrays(self.T), on_arrays(self), dtype, on_arrays(self.T))

    def _require_square(self, what: str) -> None:
        if self.domain != self.codomain:
            raise InvalidValueError(
                f"{what} needs an operator that maps a space to itself, this one is {self.shape[0]} x {self.shape[1]}. Compose it with "
                f"its transpose first, as A.T @ A."
            )


def identity(space: Space) -> Operator:
    """The identity: ``hessian + 0.1 * identity(hessian.domain)`` is damped."""
    return Operator(space, lambda v: v.clone())


def diagonal(tensors: Mapping[str, Tensor]) -> Operator:
    """The diagonal matrix with these entries."""
    space = Space.of(tensors)
    entries = space.flatten(tensors)
    return Operator(space, lambda v: v * entries)


def outer(tensors: Mapping[str, Tensor]) -> Operator:
    r"""The matrix :math:`g g^T` of rank one."""
    space = Space.of(tensors)
    g = space.flatten(tensors)
    return Operator(space, lambda v: (v @ g)[:, None] * g)
