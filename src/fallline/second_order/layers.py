"""What layers saw and sent: inputs and outputs of linear and convolutional layers in one forward pass, and the loss in its outputs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from fallline.core.errors import InvalidValueError
from fallline.core.oracle import Batch, Oracle
from fallline.core.types import Params
from fallline.second_order.base import eigh

__all__ = ["Layer", "columns", "draws", "layers_of", "output_derivatives", "recording", "roots"]


@dataclass
class Layer:
    """A layer whose parameters are its own, and what it saw in the last forward pass, one entry for each call."""

    name: str
    module: nn.Linear | nn.Conv2d
    weight: str
    bias: str | None
    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """Of its parameters."""
        return [self.weight] if self.bias is None else [self.weight, self.bias]

    @property
    def rows(self) -> Tensor:
        """The inputs that meet the weight, shape (examples, positions, fan_in), with a column of ones where there is a bias."""
        x = self.inputs[0].detach()
        if isinstance(self.module, nn.Conv2d):
            m = self.module
            assert not isinstance(m.padding, str)
            x = nn.functional.unfold(x, m.kernel_size, m.dilation, m.padding, m.stride).mT
        else:
            x = x.reshape(len(x), -1, x.shape[-1])
        return x if self.bias is None else torch.cat([x, x.new_ones(*x.shape[:-1], 1)], -1)

    def positions(self, slopes: Tensor) -> Tensor:
        """Derivatives by the outputs (..., *outputs) as (..., examples, positions, fan_out)."""
        if isinstance(self.module, nn.Conv2d):
            return slopes.flatten(-2).mT
        lead = slopes.shape[: slopes.dim() - self.outputs[0].dim()]
        return slopes.reshape(*lead, self.outputs[0].shape[0], -1, slopes.shape[-1])

    def matrix(self, tensors: Params) -> Tensor:
        """Weight and bias as one matrix (fan_out, fan_in), as ``rows`` has it."""
        w = tensors[self.weight].flatten(1)
        return w if self.bias is None else torch.cat([w, tensors[self.bias][:, None]], 1)

    def split(self, matrix: Tensor, like: Params) -> dict[str, Tensor]:
        """The inverse of ``matrix``."""
        if self.bias is None:
            return {self.weight: matrix.reshape(like[self.weight].shape)}
        return {self.weight: matrix[:, :-1].reshape(like[self.weight].shape), self.bias: matrix[:, -1]}


def layers_of(module: nn.Module, params: Params, convolutions: bool) -> list[Layer]:
    """The linear (and convolutional) layers that own their parameters alone, all of them trained."""
    owners: dict[int, int] = {}
    for m in module.modules():
        for p in m.parameters(recurse=False):
            owners[id(p)] = owners.get(id(p), 0) + 1
    found = []
    for name, m in module.named_modules():
        dot = f"{name}." if name else ""
        if type(m) is nn.Conv2d:
            fits = convolutions and m.groups == 1 and m.padding_mode == "zeros" and not isinstance(m.padding, str)
        else:
            fits = type(m) is nn.Linear
        own = dict(m.named_parameters(recurse=False)) if fits else {}
        if "weight" in own and all(f"{dot}{n}" in params and owners[id(p)] == 1 for n, p in own.items()):
            found.append(Layer(name, m, f"{dot}weight", f"{dot}bias" if "bias" in own else None))
    return found


@contextmanager
def recording(layers: list[Layer]) -> Iterator[None]:
    """A block in which the layers keep what they see."""

    def hook_of(layer: Layer):
        def hook(module: nn.Module, args: tuple[Tensor, ...], result: Tensor) -> None:
            layer.inputs.append(args[0])
            layer.outputs.append(result)

        return hook

    handles = [layer.module.register_forward_hook(hook_of(layer)) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


FORMED = 64
"""Outputs of an example up to which second derivatives are formed without asking whether they are diagonal."""

LARGEST = 2**27
"""Numbers in the second derivatives of a batch: half a gigabyte of float32."""


def output_derivatives(oracle: Oracle, outputs: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    r"""Of the losses of examples by their own outputs: losses (n,), slopes (n, k) and second derivatives (n, k, k), k outputs flat.

    Of more than FORMED outputs, where second derivatives are diagonal, as for squares, they are that diagonal, (n, k)."""
    with torch.enable_grad():
        z = outputs.detach().requires_grad_()
        losses = oracle.criterion(z, batch)
        (slope,) = torch.autograd.grad(losses.sum(), z, create_graph=True)
        flat = slope.flatten(1)
        k = flat.shape[1]
        if not slope.requires_grad:  # a loss that is linear in the outputs
            return losses.detach(), flat.detach(), flat.new_zeros(len(flat), k)
        diagonal = _diagonal(flat, z) if k > FORMED else None
        if diagonal is not None:
            return losses.detach(), flat.detach(), diagonal
        if len(flat) * k * k > LARGEST:
            raise InvalidValueError(
                f"The loss has {len(flat)} x {k} x {k} second derivatives by the model's outputs, which are not diagonal. Expected at most "
                f"{LARGEST:,} numbers. Use fewer examples, or kfac(oracle, kind='empirical'), which needs none."
            )
        seeds = torch.eye(k, dtype=flat.dtype, device=flat.device)[:, None].expand(k, len(flat), k)
        (second,) = torch.autograd.grad(flat, z, seeds, is_grads_batched=True)
    return losses.detach(), flat.detach(), second.flatten(2).movedim(0, 1).detach()


def _diagonal(slopes: Tensor, outputs: Tensor) -> Tensor | None:
    """The second derivatives of sums, where those by two different outputs are zero: H v = (H 1) * v for a random v, as for no other H."""

    def times(v: Tensor) -> Tensor:
        (found,) = torch.autograd.grad(slopes, outputs, v, retain_graph=True)
        return found.flatten(1).detach()

    v = torch.randn(slopes.shape, generator=torch.Generator().manual_seed(0)).to(slopes)
    diagonal, found = times(torch.ones_like(v)), times(v)
    miss = (found - diagonal * v).abs().amax()
    return diagonal if miss <= 16 * torch.finfo(v.dtype).eps * found.abs().amax() else None


def roots(second: Tensor) -> Tensor:
    """The symmetric square roots of second derivatives (n, k, k), or of diagonals (n, k), what is negative taken as zero."""
    if second.dim() == 2:
        return second.clamp(min=0).sqrt()
    sizes, vectors = eigh(second)
    return (vectors * sizes.clamp(min=0).sqrt()[:, None]) @ vectors.mT  # symmetric, so that no sign is open


def columns(second: Tensor) -> Tensor:
    """Vectors, shape (k, n, k), whose outer products sum to the second derivative of each example's loss."""
    root = roots(second)
    return (torch.diag_embed(root) if root.dim() == 2 else root).movedim(2, 0)


def draws(second: Tensor, num: int, key: int) -> Tensor:
    r"""Random v, shape (num, n, k), with :math:`\mathbb{E} v v^T` the second derivative (n, k, k), or its diagonal (n, k), of each
    example's loss."""
    root = roots(second)
    random = torch.Generator().manual_seed(key)
    signs = torch.randint(0, 2, (num, *root.shape[:2]), generator=random).to(root) * 2 - 1
    return root * signs if root.dim() == 2 else torch.einsum("ncj,snj->snc", root, signs)
