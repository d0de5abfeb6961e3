"""The signal of a network, layer by layer: the variance of what each one passes on and of the gradient that comes back to it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.parametrize import ParametrizationList

from fallline.core.claims import claim
from fallline.nn.check import demand, demand_type

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Row", "Signal", "signal"]

_LOST = 1e-6
"""A signal is lost where it is this much smaller, or larger, than where it began."""


@dataclass(frozen=True)
class Row:
    """One layer: the mean and variance over all entries of its output, the norm of the gradient there, and that of its own parameters
    (None if it has none)."""

    name: str
    kind: str
    mean: float
    variance: float
    gradient: float
    weight_gradient: float | None


@dataclass(frozen=True)
class Signal:
    """Rows in the order of the forward pass, and the variance of the input."""

    rows: tuple[Row, ...]
    input_variance: float

    @property
    def forward_factor(self) -> float:
        """The factor by which the variance changes from one row to the next, a geometric mean."""
        return _factor([row.variance for row in self.rows])

    @property
    def backward_factor(self) -> float:
        """The factor by which the squared gradient changes from one row to the one before, a geometric mean."""
        return _factor([row.gradient**2 for row in reversed(self.rows)])

    @property
    def verdict(self) -> str:
        """Where the signal or the gradient dies or explodes (by a factor of a million), in a sentence; or that neither does.

        It dies at a layer if it is lost there and in all that follow: a branch or a head that starts at zero silences itself alone."""
        forward = _first_lost(self.rows, [row.variance for row in self.rows], self.input_variance)
        back = self.rows[::-1]
        backward = _first_lost(back, [row.gradient**2 for row in back], back[0].gradient ** 2)
        found = []
        if forward:
            found.append(f"the signal {forward[1]} at {forward[0].name} (variance {forward[0].variance:.2g})")
        if backward:
            found.append(
                f"the gradient {backward[1]} at {backward[0].name}, seen from the output (norm {backward[0].gradient:.2g})"
            )
        silent = [row.name for row in self.rows if row.gradient == 0]
        if not found:
            found.append(f"signal and gradient pass through {len(self.rows)} layers")
            if silent:
                found.append(f"no gradient reaches {len(silent)} of them, such as {silent[0]}")
        return "; ".join(found)

    def table(self) -> str:
        """The rows as text, then the verdict."""
        width = max(len("layer"), *(len(row.name) for row in self.rows))
        kind = max(len("kind"), *(len(row.kind) for row in self.rows))
        lines = [
            f"{'layer':{width}}  {'kind':{kind}}  {'mean':>10}  {'variance':>10}  {'gradient':>10}  {'of weights':>10}"
        ]
        for row in self.rows:
            own = "" if row.weight_gradient is None else f"{row.weight_gradient:.3g}"
            lines.append(
                f"{row.name:{width}}  {row.kind:{kind}}  {row.mean:>10.3g}  {row.variance:>10.3g}  {row.gradient:>10.3g}  {own:>10}".rstrip()
            )
        return "\n".join([*lines, self.verdict])

    def plot(self, path: str | None = None) -> Figure:
        """Variance and squared gradient norm by layer on a logarithmic scale; written to ``path`` (.svg, .png, .pdf) if given."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7, 3.6), layout="constrained")
        axes = figure.add_subplot()
        places = range(1, len(self.rows) + 1)
        for label, values in (
            ("variance of the output", [row.variance for row in self.rows]),
            ("squared norm of the gradient at the output", [row.gradient**2 for row in self.rows]),
        ):
            shown = [
                v if 0 < v < math.inf else math.nan for v in values
            ]  # zero and infinity have no place on a logarithmic axis
            axes.plot(places, shown, marker=".", label=label)
        axes.set(yscale="log", xlabel="layer", title=self.verdict)
        axes.title.set_fontsize(9)
        axes.title.set_wrap(True)
        axes.legend(frameon=False)
        if path is not None:
            figure.savefig(path)
        return figure


def signal(
    model: nn.Module,
    x: Tensor,
    targets: Any = None,
    loss: Callable[[Tensor, Any], Tensor] | None = None,
    layers: tuple[type[nn.Module], ...] = (),
) -> Signal:
    """Follow a batch ``x`` through the model and a gradient back; a row for every call of a module without children that returns a
    tensor of real numbers.

    ``loss(outputs, targets)`` gives the gradient; without one it is a fixed random direction of norm 1 at the outputs, so that gradients
    read as factors of the network alone. ``layers`` keeps rows of these types only, as ``(nn.Linear, nn.Conv2d)``.

    Nothing is left behind: no ``.grad``, and buffers (running statistics) are copies. The mode, train or eval, is the model's own.
    """
    demand_type(
        isinstance(model, nn.Module) and isinstance(x, Tensor),
        f"signal() got {type(model).__name__} and {type(x).__name__}",
        "Expected an nn.Module and a tensor, the batch",
        "Call signal(model, inputs)",
    )
    demand(
        (loss is None) == (targets is None),
        f"signal() got {'no loss' if loss is None else 'a loss'} and {'no targets' if targets is None else 'targets'}",
        "Expected both or neither",
        "Write signal(model, x, targets, F.cross_entropy), or signal(model, x)",
    )
    seen: list[tuple[str, nn.Module, Tensor]] = []

    def watch(name: str) -> Callable[[nn.Module, Any, Any], Tensor | None]:
        def hook(module: nn.Module, args: Any, out: Any) -> Tensor | None:
            if not isinstance(out, Tensor) or not out.is_floating_point():
                return None
            out = out.clone() if out.requires_grad else out.clone().requires_grad_()  # a later layer may work in place
            seen.append((name, module, out))
            return out

        return hook

    handles = [m.register_forward_hook(watch(name)) for name, m in _layers(model).items()]
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    try:
        with torch.enable_grad():
            out = functional_call(model, buffers, (x,))
            value = _along(out) if loss is None else loss(out, targets)
    finally:
        for handle in handles:
            handle.remove()
    seen = [s for s in seen if not layers or isinstance(s[1], layers)]
    demand(
        bool(seen),
        f"signal() saw no layer of {type(model).__name__}"
        + (f" of the types {[t.__name__ for t in layers]}" if layers else ""),
        "Expected modules whose outputs are tensors",
        "Pass a model made of nn.Modules, or layers=() for all of them",
    )
    own = {id(p): p for _, m, _ in seen for p in m.parameters() if p.requires_grad}
    points = [s[2] for s in seen]
    found = torch.autograd.grad(value, [*points, *own.values()], allow_unused=True)
    back = dict(zip(own, found[len(points) :], strict=True))
    rows = [_row(s, g, back) for s, g in zip(seen, found, strict=False)]
    return Signal(tuple(rows), float(x.detach().double().var(unbiased=False)) if x.is_floating_point() else 1.0)


def _layers(model: nn.Module) -> dict[str, nn.Module]:
    """Modules without children, by name; parametrizations belong to their layer."""
    inside = {id(m) for p in model.modules() if isinstance(p, ParametrizationList) for m in p.modules()}

    def whole(m: nn.Module) -> bool:
        return all(id(c) in inside or isinstance(c, nn.ModuleDict) for c in m.children())

    named = {name or type(model).__name__: m for name, m in model.named_modules() if id(m) not in inside}
    return {name: m for name, m in named.items() if whole(m) and not isinstance(m, nn.ModuleDict)}


def _along(out: Tensor) -> Tensor:
    """The outputs along a fixed random direction of norm 1."""
    draw = torch.randn(out.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (out * (draw / draw.norm()).to(out)).sum()


def _row(seen: tuple[str, nn.Module, Tensor], g: Tensor | None, back: Mapping[int, Tensor | None]) -> Row:
    name, module, out = seen
    out = out.detach().double()
    own = [back[id(p)] for p in module.parameters() if id(p) in back]
    total = math.sqrt(sum(float(w.double().square().sum()) for w in own if w is not None)) if own else None
    gradient = 0.0 if g is None else float(g.double().norm())
    kind = type(module).__name__.removeprefix("Parametrized")
    return Row(name, kind, float(out.mean()), float(out.var(unbiased=False)), gradient, total)


def _factor(values: list[float]) -> float:
    if len(values) < 2 or values[0] == 0:
        return math.nan
    return (values[-1] / values[0]) ** (1 / (len(values) - 1))


def _first_lost(rows: Sequence[Row], values: list[float], start: float) -> tuple[Row, str] | None:
    """Where a quantity is first too large, or too small from there on."""
    for i, value in enumerate(values):
        if not math.isfinite(value) or (start > 0 and value > start / _LOST):
            return rows[i], "explodes"
        if max(values[i:]) <= start * _LOST:
            return rows[i], "dies"
    return None


@claim(
    "signal",
    "an orthogonal linear layer of gain s multiplies variances and squared gradients by s^2, exactly",
    where="arXiv:1312.6120",
)
def orthogonal_factors(lab):
    torch.manual_seed(0)
    net = nn.Sequential(*(nn.Linear(16, 16, bias=False) for _ in range(12))).double()
    for layer in net:
        nn.init.orthogonal_(layer.weight, gain=0.5)
    x = torch.randn(8, 16, dtype=torch.float64)
    found = signal(net, torch.cat([x, -x]))  # mean 0 in every layer, so that the variance is the mean square
    yield lab.close(found.forward_factor, 0.25)
    yield lab.close(found.backward_factor, 0.25)
    yield lab.close(found.rows[-1].gradient, 1.0)
    yield lab.equal(float(found.verdict.startswith("the signal dies at 9 ")), 1.0)  # 0.25^10 < 1e-6


@claim("signal", "the measured factor of the gradient is the chi of mean-field theory", where="arXiv:1611.01232")
def measured_chi(lab):
    torch.manual_seed(0)
    layers = [m for _ in range(30) for m in (nn.Linear(256, 256, bias=False), nn.ReLU())]
    net = nn.Sequential(*layers).double()
    for layer in net[::2]:
        nn.init.normal_(layer.weight, std=(1.6 / 256) ** 0.5)  # chi = 1.6 / 2
    found = signal(net, torch.randn(16, 256, dtype=torch.float64), layers=(nn.Linear,))
    yield lab.close(found.backward_factor, 0.8, rtol=0.05)
