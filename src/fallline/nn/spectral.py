"""Spectral norms: what torch's spectral normalisation holds at 1, measured exactly, and the Lipschitz bound that follows."""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from fallline.core.claims import claim
from fallline.core.groups import matches
from fallline.nn.check import demand, demand_count
from fallline.nn.init import WEIGHTED

__all__ = ["conv_norm", "lipschitz_bound", "spectral_normalise", "spectral_norms"]

Model = TypeVar("Model", bound=nn.Module)

# activations whose slope is at most 1 everywhere, and shape changes
ONE_LIPSCHITZ = (nn.ReLU, nn.Tanh, nn.LeakyReLU, nn.ELU, nn.Softplus, nn.Hardtanh, nn.Sigmoid, nn.Identity, nn.Flatten)


def spectral_normalise(model: Model, pattern: str = "*", num_power_iterations: int = 1) -> Model:
    r"""Divide the weight of every linear and convolutional layer whose module name matches by its largest singular value, in place
    (Miyato et al., arXiv:1802.05957), by ``torch.nn.utils.parametrizations.spectral_norm``, which follows it by power iterations in
    training mode."""
    demand_count("spectral_normalise()", "num_power_iterations", num_power_iterations)
    layers = [m for name, m in model.named_modules() if isinstance(m, WEIGHTED) and matches(name, pattern)]
    demand(
        bool(layers),
        f"spectral_normalise() found no linear or convolutional layer of {type(model).__name__} that matches {pattern!r}",
        "Expected at least one",
        "Pass a pattern on module names, such as '*'",
    )
    for layer in layers:
        parametrizations.spectral_norm(layer, n_power_iterations=num_power_iterations)
    return model


@torch.no_grad()
def spectral_norms(model: nn.Module) -> dict[str, float]:
    """The largest singular value of every linear and convolutional layer's weight, by name, from an exact decomposition of the matrix
    (outputs, all else), the one that spectral normalisation looks at. For a convolution as a map of images see ``conv_norm``.

    Parametrizations of torch are not advanced by this look."""
    training = {m: m.training for m in model.modules()}
    try:
        model.eval()
        named = [(name, m.weight) for name, m in model.named_modules() if isinstance(m, WEIGHTED)]
        return {name: float(torch.linalg.matrix_norm(w.flatten(1), 2)) for name, w in named}
    finally:
        for module, mode in training.items():
            module.training = mode


@torch.no_grad()
def conv_norm(weight: Tensor, size: tuple[int, int]) -> float:
    r"""The largest singular value of a 2-d convolution with circular padding on images of ``size``, exactly: the largest over the
    frequencies of the discrete Fourier transform of the kernel (Sedghi et al., arXiv:1805.10408). It is up to
    :math:`\sqrt{k_1 k_2}` times the norm of the flattened weight."""
    demand(
        weight.dim() == 4 and weight.shape[2] <= size[0] and weight.shape[3] <= size[1],
        f"conv_norm() got a weight of shape {tuple(weight.shape)} and images of {size}",
        "Expected (outputs, inputs, height, width) with a kernel no larger than the image",
        "Pass conv.weight and the image's (height, width)",
    )
    spectrum = torch.fft.fft2(weight, s=size)  # (outputs, inputs, height, width)
    return float(torch.linalg.svdvals(spectrum.permute(2, 3, 0, 1)).max())


def lipschitz_bound(model: nn.Sequential) -> float:
    """An upper bound on how much a chain of linear layers and activations with slopes of at most 1 stretches distances: the product
    of the layers' spectral norms. Raises TypeError-like errors for other layers, whose bound is not known here."""
    for name, module in model.named_children():
        demand(
            (isinstance(module, (nn.Linear, *ONE_LIPSCHITZ)) and not isinstance(module, nn.LeakyReLU | nn.ELU))
            or (isinstance(module, nn.LeakyReLU) and abs(module.negative_slope) <= 1)
            or (isinstance(module, nn.ELU) and 0 <= module.alpha <= 1),
            f"lipschitz_bound() found {name} = {module}",
            f"Expected nn.Linear, or one of {', '.join(sorted(c.__name__ for c in ONE_LIPSCHITZ))} with a slope of at most 1",
            "Bound the parts that are such chains, and convolutions by conv_norm",
        )  # fmt: skip
    return math.prod(spectral_norms(model).values())


@claim(
    "spectral_normalise",
    "the largest singular value is 1, and the network is 1-Lipschitz",
    where="arXiv:1802.05957, eq. 8 and section 2.1",
)
def norm_is_one(lab):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 3)).double()
    yield lab.less(1.2, lipschitz_bound(spectral_scaled(net)))
    spectral_normalise(net, num_power_iterations=300)
    net(torch.zeros(1, 6, dtype=torch.float64))
    yield lab.close(torch.tensor(list(spectral_norms(net).values())), 1.0, rtol=1e-6)
    x, y = torch.randn(2, 500, 6, dtype=torch.float64)
    stretch = (net(x) - net(y)).detach().norm(dim=1) / (x - y).norm(dim=1)
    yield lab.less(float(stretch.max()), 1 + 1e-6)


def spectral_scaled(net: nn.Sequential) -> nn.Sequential:
    """The same with weights three times as large."""
    with torch.no_grad():
        for m in net.modules():
            if isinstance(m, nn.Linear):
                m.weight.mul_(3.0)
    return net


@claim("conv_norm", "the norm of a convolution is the largest over its Fourier blocks", where="arXiv:1805.10408")
def brute_force(lab):
    torch.manual_seed(0)
    weight = torch.randn(3, 2, 3, 3, dtype=torch.float64)
    conv = nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular", bias=False).double()
    with torch.no_grad():
        conv.weight.copy_(weight)
    columns = torch.eye(2 * 30, dtype=torch.float64).reshape(60, 2, 5, 6)
    matrix = conv(columns).detach().flatten(1)
    yield lab.close(conv_norm(weight, (5, 6)), torch.linalg.matrix_norm(matrix, 2))
