"""Initialisation: critical variances, and weights that keep the length of every signal (dynamical isometry)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fallline.core.claims import claim
from fallline.nn.check import demand
from fallline.nn.mean_field import critical
from fallline.nn.quadrature import Activation

__all__ = ["critical_", "delta_orthogonal_", "fan_in", "singular_values"]

WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Layers whose weight has shape (outputs, inputs, ...)."""


def fan_in(weight: Tensor) -> int:
    """Inputs of one output unit of a weight of shape (outputs, inputs, ...)."""
    return weight[0].numel()


@torch.no_grad()
def delta_orthogonal_(weight: Tensor, gain: float = 1.0) -> Tensor:
    r"""Fill a convolution's weight (outputs, inputs, ...) with zeros and, at the centre of the kernel, ``gain`` times a random matrix
    with orthonormal columns (Xiao et al., arXiv:1806.05393, algorithm 2). With odd kernels, stride 1 and padding to the same size
    the convolution then multiplies every norm by ``gain``.

    Raises ValueError for even kernels and for more inputs than outputs, which no matrix maps without loss.
    """
    shape = tuple(weight.shape)
    demand(
        len(shape) > 2 and all(s % 2 for s in shape[2:]),
        f"delta_orthogonal_() got a weight of shape {shape}",
        "Expected a convolution's (outputs, inputs, ...) with an odd kernel, which has a centre",
        "Use torch.nn.init.orthogonal_ for matrices, and odd kernels",
    )
    demand(
        shape[0] >= shape[1],
        f"delta_orthogonal_() got {shape[1]} inputs and {shape[0]} outputs",
        "Expected at least as many outputs as inputs: fewer cannot keep every norm",
        "Reduce the number of channels by another layer, or initialise this one with critical_(model, activation)",
    )
    _centre(weight).copy_(gain * nn.init.orthogonal_(weight.new_empty(shape[:2])))
    return weight


def _centre(weight: Tensor) -> Tensor:
    """The matrix at the centre of a convolution's kernel, after the rest is set to zero; of a matrix, itself."""
    weight.zero_()
    middle: list[int | slice] = [slice(None), slice(None), *(s // 2 for s in weight.shape[2:])]
    return weight[tuple(middle)]


@torch.no_grad()
def critical_(model: nn.Module, activation: Activation, q: float = 1.0, orthogonal: bool = True) -> nn.Module:
    r"""Initialise all linear and convolutional layers at the critical point of ``activation`` at which pre-activations have variance
    ``q`` (``mean_field.critical``): :math:`\sigma_w` times orthogonal matrices, delta-orthogonal in convolutions, or normal weights
    of variance :math:`\sigma_w^2 / \mathrm{fan\_in}`; biases are normal with variance :math:`\sigma_b^2`.

    Matrices that are not square are scaled so that their entries have the normal weights' variance. Isometry wants a small q for tanh
    (0.025 gives :math:`\sigma_w^2 = 1.05`): there the network is nearly linear (Pennington et al., arXiv:1711.04735).
    """
    point = critical(activation, q)
    layers = [m for m in model.modules() if isinstance(m, WEIGHTED)]
    demand(bool(layers), f"critical_() found no layer in {type(model).__name__}", "Expected linear or convolutional layers", "Pass the model itself")  # fmt: skip
    for layer in layers:
        groups = getattr(layer, "groups", 1)
        demand(
            not orthogonal or (groups == 1 and all(s % 2 for s in layer.weight.shape[2:])),
            f"critical_() found {layer}",
            "Orthogonal convolutions need groups=1 and an odd kernel",
            "Pass orthogonal=False, or initialise the other layers one by one",
        )
        if orthogonal:
            outputs, inputs = layer.weight.shape[:2]
            matrix = nn.init.orthogonal_(layer.weight.new_empty(outputs, inputs))
            _centre(layer.weight).copy_(math.sqrt(point.weight_variance * max(1.0, outputs / inputs)) * matrix)
        else:
            layer.weight.normal_(std=math.sqrt(point.weight_variance / fan_in(layer.weight)))
        if layer.bias is not None:
            layer.bias.normal_(std=math.sqrt(point.bias_variance))
    return model


def singular_values(fn: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Singular values of the Jacobian of ``fn`` at one input, largest first: all 1 under dynamical isometry. Batch of one, float64
    advised; the Jacobian has (outputs x inputs) entries."""
    jacobian = torch.autograd.functional.jacobian(fn, x)
    return torch.linalg.svdvals(jacobian.reshape(-1, x.numel()))


@claim("delta_orthogonal_", "the convolution keeps every norm", where="arXiv:1806.05393")
def norm_is_kept(lab):
    torch.manual_seed(0)
    for kernel, mode in ((3, "zeros"), (5, "circular")):
        conv = nn.Conv2d(3, 8, kernel, padding="same", bias=False, padding_mode=mode).double()
        delta_orthogonal_(conv.weight, gain=1.3)
        x = torch.randn(4, 3, 7, 6, dtype=torch.float64)
        norms = conv(x).detach().flatten(1).norm(dim=1)
        yield lab.equal(norms, 1.3 * x.flatten(1).norm(dim=1))


@claim(
    "critical_",
    "orthogonal linear networks are isometries at any depth; Gaussian ones are not",
    where="arXiv:1312.6120",
)
def linear_isometry(lab):
    torch.manual_seed(0)
    net = nn.Sequential(*(nn.Linear(16, 16) for _ in range(100))).double()
    x = torch.randn(1, 16, dtype=torch.float64)
    yield lab.close(singular_values(critical_(net, lambda h: h), x), 1.0, rtol=1e-10)
    spread = singular_values(critical_(net, lambda h: h, orthogonal=False), x)
    yield lab.less(1e6, float(spread[0] / spread[-1]))


@claim("critical_", "200 layers of tanh train on digits from a critical orthogonal start, and not from Xavier-uniform x 0.5", where="arXiv:1711.04735; arXiv:1611.01232")  # fmt: skip
def deep_tanh_trains(lab):
    """Ten steps along the gradient's signs. From 64 images each, the loss of ten classes is log 10 = 2.30 as long as nothing is learnt."""
    inputs, targets = lab.data("digits-mlp")
    found = []
    for initialise in (lambda net: critical_(net, torch.tanh, q=0.025), _xavier_half):
        torch.manual_seed(0)
        layers = [m for _ in range(200) for m in (nn.Linear(64, 64), nn.Tanh())]
        net = initialise(nn.Sequential(*layers, nn.Linear(64, 10)))
        for i in range(10):
            at = slice(64 * i, 64 * i + 64)
            loss = F.cross_entropy(net(inputs[at].float()), targets[at])
            gradients = torch.autograd.grad(loss, list(net.parameters()))
            with torch.no_grad():
                for p, g in zip(net.parameters(), gradients, strict=True):
                    p.sub_(3e-4 * g.sign())
        found.append(float(loss.detach()))
    yield lab.less(found[0], 2.0)
    yield lab.less(2.29, found[1])


def _xavier_half(net: nn.Module) -> nn.Module:
    """Weights uniform with half of Xavier's standard deviation, biases zero: the signal shrinks by about a half in every layer."""
    for layer in net.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight, gain=0.5)
            nn.init.zeros_(layer.bias)
    return net
