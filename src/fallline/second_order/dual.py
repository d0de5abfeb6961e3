r"""The Jacobian of a batch's outputs, by what its rows have in common: their Gram matrix and combinations of them.

For a linear layer the row of example i and output c is an outer product, :math:`\delta_{ic} a_i^T`, and so is never formed:

.. math:: (J J^T)_{ic, jd} = \sum_l (\delta^l_{ic} \cdot \delta^l_{jd}) (a^l_i \cdot a^l_j), \qquad
    J^T y = \sum_l \sum_i \Big( \sum_c y_{ic} \delta^l_{ic} \Big) (a^l_i)^T

All other parameters' rows are formed.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import jacrev, vmap
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_map

from fallline.core.errors import InvalidValueError
from fallline.core.oracle import Batch, Gradients, Oracle
from fallline.core.types import Params
from fallline.second_order.layers import layers_of, recording

__all__ = ["BatchJacobian"]

_PIECE = 256
"""Rows of the Gram matrix that are computed at a time: of a piece of rows, only the columns up to its end."""

_LARGEST = 2**14
"""Rows of the largest Gram matrix: in float64 it takes two gigabytes."""


class BatchJacobian:
    """J of one batch at a point, rows (examples * outputs): ``outputs`` (examples, ...), ``gram()`` and ``pull(y)``.

    With ``seeds``, a function of the outputs, rows are combinations of an example's rows, those of the function's (k, examples, outputs).
    ``num_passes`` counts backward passes.
    """

    def __init__(
        self,
        oracle: Oracle,
        params: Params,
        batch: Batch,
        statistics: bool,
        seeds: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        _check_batch_norm(oracle.module)
        self._params = {n: p.detach().requires_grad_() for n, p in params.items()}
        layers = layers_of(oracle.module, oracle.params, convolutions=False)
        layers = [layer for layer in layers if all(n in params for n in layer.names)]
        with torch.enable_grad(), recording(layers):
            outputs = oracle.outputs(self._params, batch, statistics=statistics)
        self.outputs = outputs.detach()
        n, k = len(outputs), outputs.numel() // max(len(outputs), 1)
        if seeds is None:
            if n * k > _LARGEST:
                raise InvalidValueError(
                    f"The exact Gauss-Newton system of {n} examples with {k} outputs each has {n * k} unknowns. Expected at most {_LARGEST}. "
                    f"Use fewer examples, or draws: egn(oracle, num_samples='fit')."
                )
            combined = torch.eye(k, dtype=outputs.dtype, device=outputs.device)[:, None].expand(k, n, k)
        else:
            combined = seeds(self.outputs)
        self.num_rows = n * len(combined)
        self._layers = [
            x for x in layers if len(x.inputs) == 1 and x.inputs[0].dim() == 2 and x.outputs[0].requires_grad
        ]
        fast = {n for layer in self._layers for n in layer.names}
        self._rows = [layer.rows[:, 0] for layer in self._layers]
        self._slopes = self._backward(outputs, combined)
        others = [name for name in params if name not in fast]
        self.num_passes = len(combined) + (k if others else 0)
        formed = self._formed(oracle, batch, others)
        if seeds is not None:
            formed = {name: torch.einsum("snk,nkp->nsp", combined, x.reshape(n, k, -1)) for name, x in formed.items()}
        self._rest = formed

    def gram(self) -> Tensor:
        """J J^T, shape (rows, rows)."""
        n, k = len(self.outputs), self.num_rows // len(self.outputs)
        total = self.outputs.new_zeros(self.num_rows, self.num_rows)
        step = max(_PIECE // k, 1)
        for first in range(0, n, step):
            last = min(first + step, n)
            piece = total[first * k : last * k, : last * k].view(last - first, k, last, k)
            for a, delta in zip(self._rows, self._slopes, strict=True):
                flat = delta.reshape(self.num_rows, -1)
                inner = (flat[first * k : last * k] @ flat[: last * k].T).view(last - first, k, last, k)
                piece.addcmul_(inner, (a[first:last] @ a[:last].T)[:, None, :, None])
            for rows in self._rest.values():
                flat = rows.reshape(self.num_rows, -1)
                piece.add_((flat[first * k : last * k] @ flat[: last * k].T).view_as(piece))
        lower = total.tril()
        return lower + total.tril(-1).T

    def pull(self, y: Tensor) -> Gradients:
        """J^T y of y with as many numbers as there are rows, in the shapes of the parameters."""
        y = y.reshape(len(self.outputs), -1)
        found: Gradients = {}
        for layer, a, delta in zip(self._layers, self._rows, self._slopes, strict=True):
            found |= layer.split(torch.einsum("ic,ico->io", y, delta).T @ a, self._params)
        for name, rows in self._rest.items():
            found[name] = torch.tensordot(y.flatten(), rows.reshape(self.num_rows, -1), 1).view_as(self._params[name])
        return {n: found[n] for n in self._params}

    def _backward(self, outputs: Tensor, seeds: Tensor) -> list[Tensor]:
        """The derivatives of every seed by the layers' outputs, shape (examples, seeds, fan_out) each."""
        ends = [layer.outputs[0] for layer in self._layers]
        if not ends:
            return []
        shaped = seeds.reshape(-1, *outputs.shape)
        found = torch.autograd.grad(outputs, ends, shaped, is_grads_batched=True, allow_unused=True)
        whole = [x.new_zeros(len(seeds), *x.shape) if g is None else g for g, x in zip(found, ends, strict=True)]
        return [x.detach().transpose(0, 1).contiguous() for x in whole]

    def _formed(self, oracle: Oracle, batch: Batch, names: list[str]) -> dict[str, Tensor]:
        """The rows of these parameters, shape (examples, outputs, *parameter)."""
        if not names:
            return {}
        _check_dropout(oracle.module, names)
        fixed = {n: p.detach() for n, p in self._params.items() if n not in names}

        def output(moving: Params, example: Batch) -> Tensor:
            alone = tree_map(lambda x: x.unsqueeze(0) if isinstance(x, Tensor) else x, example)
            return oracle.outputs({**fixed, **moving}, alone).flatten()

        dims = tree_map(lambda x: 0 if isinstance(x, Tensor) else None, batch)
        return vmap(jacrev(output), in_dims=(None, dims))({n: self._params[n].detach() for n in names}, batch)


def _check_batch_norm(module: nn.Module) -> None:
    for name, m in module.named_modules():
        if isinstance(m, _BatchNorm) and (m.training or not m.track_running_stats):
            raise InvalidValueError(
                f"The batch normalisation {name!r} is in training mode, where an example's output depends on the others. Expected "
                f"outputs that do not. Call model.eval(), or use layer or group normalisation."
            )


def _check_dropout(module: nn.Module, names: list[str]) -> None:
    for name, m in module.named_modules():
        if isinstance(m, nn.modules.dropout._DropoutNd) and m.training and m.p > 0:
            raise InvalidValueError(
                f"The dropout {name!r} is on, and the Jacobian of {names[0]!r} takes another pass, with another mask. Expected a model "
                f"without noise beside linear layers. Call model.eval()."
            )
