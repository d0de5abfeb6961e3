"""The coordinate check: do activations, and what a few steps change in them, keep their size as the width grows?"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fallline.core.claims import claim
from fallline.core.errors import InvalidValueError
from fallline.core.optimizer import Optimizer
from fallline.core.transform import Chain
from fallline.methods import adam, sgd
from fallline.scaling.mup import mup

__all__ = ["Coordinates", "coordinate_check"]

_SEEDS = 4
_FLAT = 0.2  # slopes of changes within this of zero count as flat: a factor 1.15 for each doubling of the width


@dataclass(frozen=True)
class Coordinates:
    """Mean absolute activations of every layer at every width: at the start, and how much the steps changed them."""

    start: Mapping[str, Mapping[int, float]]
    change: Mapping[str, Mapping[int, float]]

    @property
    def slopes(self) -> dict[str, float]:
        """For each layer the exponent a of change ~ width^a: 0 under muP, above where wide networks blow up."""
        return {layer: _slope(sizes) for layer, sizes in self.change.items()}

    @property
    def flat(self) -> bool:
        """Whether every layer's change keeps its size."""
        return all(abs(a) <= _FLAT for a in self.slopes.values())

    @property
    def verdict(self) -> str:
        """One sentence: every layer's change is flat, or which grow and which vanish."""
        grow = [layer for layer, a in self.slopes.items() if a > _FLAT]
        vanish = [layer for layer, a in self.slopes.items() if a < -_FLAT]
        if self.flat:
            return "The change of every layer keeps its size as the width grows, as muP demands."
        parts = [f"{', '.join(grow)} blow up with the width"] * bool(grow) + [
            f"{', '.join(vanish)} stop learning"
        ] * bool(vanish)
        return f"Not muP: {'; '.join(parts)}."


def coordinate_check(
    make: Callable[[int], nn.Module],
    loss: Callable[[nn.Module, Any], Tensor],
    batch: Any,
    chain: Chain,
    widths: Sequence[int],
    base: int | None = None,
    steps: int = 5,
) -> Coordinates:
    """Train models of several widths for a few steps on one batch, and measure their layers (arXiv:2203.03466, appendix D.1).

    ``make(width)`` makes a freshly initialised model. With ``base``, models are put under muP with that base width; without, they are trained as
    they are. All means are over 4 seeds.
    """
    if len(set(widths)) < 2 or min(widths) < 1 or steps < 1:
        raise InvalidValueError(
            f"coordinate_check got widths={list(widths)} and steps={steps}. Expected at least two widths and one step. Write for example [64, 128, 256, 512]."
        )
    start: dict[str, dict[int, float]] = {}
    change: dict[str, dict[int, float]] = {}
    for width in widths:
        for seed in range(_SEEDS):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                model = make(width)
                torch.manual_seed(seed + 1000)
                groups: Any = model.named_parameters() if base is None else mup(model, make(base)).groups(chain)
                before, after = _trained(model, groups, loss, batch, chain, steps)
            for layer, x in before.items():
                moved = float((after[layer] - x).abs().mean())
                start.setdefault(layer, {}).setdefault(width, 0.0)
                change.setdefault(layer, {}).setdefault(width, 0.0)
                start[layer][width] += float(x.abs().mean()) / _SEEDS
                change[layer][width] += moved / _SEEDS
    return Coordinates(start, change)


def _trained(
    model: nn.Module, groups: Any, loss: Callable[[nn.Module, Any], Tensor], batch: Any, chain: Chain, steps: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    optimizer = Optimizer(groups, chain, fuse="eager")
    before = _activations(model, loss, batch)
    for _ in range(steps):
        optimizer.zero_grad()
        value = loss(model, batch)
        value.backward()
        optimizer.step(loss=value.detach())
    return before, _activations(model, loss, batch)


@torch.no_grad()
def _activations(model: nn.Module, loss: Callable[[nn.Module, Any], Tensor], batch: Any) -> dict[str, Tensor]:
    """What every layer with parameters computes in a forward pass."""
    seen: dict[str, Tensor] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, result: Any) -> None:
            result = result[0] if isinstance(result, tuple) and result else result  # attention returns its weights, too
            if isinstance(result, Tensor):
                seen[name] = result.detach().clone()

        return hook

    own = [(n, m) for n, m in model.named_modules() if n and any(True for _ in m.parameters(recurse=False))]
    handles = [m.register_forward_hook(note(n)) for n, m in own]
    try:
        loss(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _slope(sizes: Mapping[int, float]) -> float:
    """Least squares on logarithms."""
    pairs = [(math.log(w), math.log(s)) for w, s in sizes.items() if s > 0]
    if len(pairs) < 2:
        return -math.inf
    mean_x, mean_y = (sum(v) / len(pairs) for v in zip(*pairs, strict=True))
    return sum((x - mean_x) * (y - mean_y) for x, y in pairs) / sum((x - mean_x) ** 2 for x, _ in pairs)


def _check(base: int | None, chain: Chain) -> Coordinates:
    def make(width: int) -> nn.Module:
        return nn.Sequential(nn.Linear(8, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 5))

    drawn = torch.Generator().manual_seed(0)
    batch = torch.randn(16, 8, generator=drawn), torch.randint(5, (16,), generator=drawn)
    return coordinate_check(
        make, lambda m, b: nn.functional.cross_entropy(m(b[0]), b[1]), batch, chain, [32, 256], base, steps=2
    )


@claim(
    "coordinate_check",
    "under muP the change of every layer is independent of the width, for Adam and for SGD",
    "arXiv:2203.03466, appendix D.1, coordinate checking",
)
def flat(lab):
    for chain in (adam(1e-3), sgd(0.05)):
        for slope in _check(32, chain).slopes.values():
            yield lab.less(abs(slope), 0.15)


@claim(
    "coordinate_check",
    "under the standard parametrisation with Adam the output's change grows in proportion to the width",
    "arXiv:2203.03466, section 5, defects of SP",
)
def blows_up(lab):
    yield lab.less(0.6, _check(None, adam(1e-3)).slopes["4"])
