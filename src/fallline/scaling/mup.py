r"""muP: initialisation and learning rates under which the best learning rate does not move with the width.

For fan-in and fan-out grown by :math:`r_{in}` and :math:`r_{out}` over a base model, whose own settings are kept:

======== ============== ======================== =========================== =============================================
kind     grows          standard deviation       rate of Adam and its kind   rate of SGD; of Muon
======== ============== ======================== =========================== =============================================
input    outputs        1                        1                           :math:`r_{out}`; :math:`\sqrt{r_{out}}`
hidden   both           :math:`r_{in}^{-1/2}`    :math:`1/r_{in}`            :math:`r_{out}/r_{in}`; its square root
output   inputs         :math:`1/r_{in}`         :math:`1/r_{in}`            :math:`1/r_{in}`; its square root
======== ============== ======================== =========================== =============================================

Biases and gains count as input. That is table 3 of Tensor Programs V (Yang et al., arXiv:2203.03466); the column of Muon is
the spectral condition (arXiv:2310.17813) for updates whose singular values are all one. An embedding that is also the readout
has table 8's form: it is an input, and the readout's result is multiplied by :math:`1/r_{in}`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fallline.core.claims import claim
from fallline.core.errors import InvalidTypeError, InvalidValueError, unknown
from fallline.core.groups import groups
from fallline.core.method import MethodChain
from fallline.core.transform import Chain, Transform
from fallline.methods import adamw
from fallline.scaling.widths import Kind, Width, growth
from fallline.transforms.clip import ClipByGlobalNorm

__all__ = ["FAMILIES", "Family", "Plan", "mup", "rate_factor"]

Family = Literal["sgd", "adam", "muon"]

FAMILIES: Mapping[str, Family] = {
    **dict.fromkeys(("sgd", "nesterov", "heavy_ball", "sgdw"), "sgd"),  # linear in the gradient
    **dict.fromkeys(
        (
            "adam", "adamw", "amsgrad", "adabelief", "adagrad", "adamax", "nadam", "radam", "rmsprop", "adan", "ademamix", "adopt",
            "lion", "signsgd", "signum",
        ),
        "adam",
    ),  # normalise every entry by itself
    "muon": "muon",
}  # fmt: skip
"""The methods that muP's tables cover, by how their update scales with the gradient."""

_TOLERANCE = math.log(1.25)  # a measured ratio of standard deviations this near a power of the width is that power


def rate_factor(width: Width, family: Family) -> float:
    """By what the learning rate of the base model is multiplied for a parameter."""
    if family not in ("sgd", "adam", "muon"):
        raise unknown("family", str(family), ("sgd", "adam", "muon"))
    if family == "adam":
        return 1 / width.fan_in
    spectral = width.fan_out / width.fan_in
    return spectral if family == "sgd" else math.sqrt(spectral)


@dataclass(frozen=True)
class Plan:
    """What muP does to a model: each parameter's growth, what its initial values were multiplied by, and the readouts' multipliers."""

    model: nn.Module
    widths: Mapping[str, Width]
    scales: Mapping[str, float]
    multipliers: Mapping[str, float]

    def groups(self, chain: Chain | Mapping[str, Chain]) -> list[dict[str, Any]]:
        """Parameter groups for ``fallline.Optimizer``, from the chain that was tuned on the base model, or from patterns and chains.

        ``Optimizer(plan.groups(chain), chain)``. Where the rate is multiplied, weight decay is divided, so that lr times decay stays.
        """
        rules = groups(self.model, chain if isinstance(chain, Mapping) else {"*": chain})
        out = []
        for rule in rules:
            family = _family(rule["chain"])
            parted: dict[float, list[tuple[str, Tensor]]] = {}
            for name, p in rule["params"]:
                parted.setdefault(rate_factor(self.widths[name], family), []).append((name, p))
            out += [{"params": members, "chain": _scaled(rule["chain"], k)} for k, members in parted.items()]
        return out

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [
            ("parameter", "kind", "fan-in x", "fan-out x", "init x", "lr x: sgd", "adam", "muon")
        ]
        for name, w in self.widths.items():
            rates = [f"{rate_factor(w, f):.4g}" for f in ("sgd", "adam", "muon")]
            rows.append((name, w.kind, f"{w.fan_in:g}", f"{w.fan_out:g}", f"{self.scales[name]:.4g}", *rates))
        sizes = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = ["  ".join(f"{cell:<{n}}" for cell, n in zip(row, sizes, strict=True)).rstrip() for row in rows]
        return "\n".join(
            [*lines, *(f"what {name} computes is multiplied by {m:.4g}" for name, m in self.multipliers.items())]
        )


@torch.no_grad()
def mup(model: nn.Module, base: nn.Module, kinds: Mapping[str, Kind] | None = None, initialise: bool = True) -> Plan:
    """Put a freshly initialised model under muP, and return the plan with its parameter groups.

    plan = mup(make(width=1024), base=make(width=64))
    optimizer = fallline.Optimizer(plan.groups(adamw(3e-3)), adamw(3e-3))

    ``base`` is the same architecture at the width at which the learning rate was tuned, initialised as ``model`` was: where the
    two initialisations differ by another factor than muP's, the model's values are rescaled in place. At the base width nothing changes.
    ``initialise=False`` leaves the values alone, for a model that is loaded from a checkpoint. Attention whose head size grows must divide by
    the head size, not its root (arXiv:2203.03466, definition 4.1), which no shape shows.
    """
    widths = growth(model, base, kinds)
    before, scales = dict(base.named_parameters()), {}
    for name, p in model.named_parameters():
        scales[name] = _scale(p, before[name], widths[name]) if initialise else 1.0
        if scales[name] != 1:
            p.mul_(scales[name])
    return Plan(model, widths, scales, _multiply_readouts(model, widths))


def _scale(p: Tensor, base: Tensor, width: Width) -> float:
    """What brings the parameter's size to muP's, given how it differs from the base model's: by a power of the width, or by a measured ratio."""
    if base.is_meta:
        raise InvalidValueError(
            f"mup got a base model on the meta device, so the size of {width.name} is unknown. Expected an initialised one. Build it on the CPU."
        )
    size, theirs = (float(x.double().square().mean().sqrt()) if x.numel() else 0.0 for x in (p, base))
    if size == 0 or theirs == 0:
        return 1.0
    powers = [max(width.fan_in, width.layer_in) ** -e for e in (0.0, 0.5, 1.0)]
    measured = size / theirs
    nearest = min(powers, key=lambda power: abs(math.log(measured / power)))
    few = min(p.numel(), base.numel()) < 100  # too few values to measure their size
    ratio = nearest if few or abs(math.log(measured / nearest)) < _TOLERANCE else measured
    wanted = {"hidden": width.fan_in**-0.5, "output": 1 / width.fan_in}.get(width.kind, 1.0)
    return wanted / ratio


class _Multiply:
    """A hook that multiplies what a layer gets; a class, so that models with it copy and pickle."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self.factor * args[0], *args[1:])


def _multiply_readouts(model: nn.Module, widths: Mapping[str, Width]) -> dict[str, float]:
    """Readouts that share an embedding's table get their inputs multiplied by 1/r_in, which spares their bias."""
    tables = {id(m.weight): m for m in model.modules() if isinstance(m, nn.Embedding)}
    names = {id(p): name for name, p in model.named_parameters()}
    found = {}
    for prefix, module in model.named_modules():
        if not isinstance(module, nn.Linear) or id(module.weight) not in tables:
            continue
        width = widths[names[id(module.weight)]]
        for key, hook in list(module._forward_pre_hooks.items()):
            if isinstance(hook, _Multiply):
                del module._forward_pre_hooks[key]
        grown = max(width.fan_out, width.fan_in)
        if grown != 1:
            found[prefix] = 1 / grown
            module.register_forward_pre_hook(_Multiply(found[prefix]))
    return found


def _family(chain: Chain) -> Family:
    parts: tuple[Chain | Transform, ...] = (chain,) if isinstance(chain, MethodChain) else chain.parts
    methods = [part for part in parts if isinstance(part, MethodChain)]
    others = [part for part in parts if not isinstance(part, MethodChain | ClipByGlobalNorm)]
    if len(methods) != 1 or others:
        raise InvalidTypeError(
            f"mup got {chain.name}. Expected one method, such as adamw(3e-3), with no more than clip_by_global_norm around it: no table says how other "
            f"steps scale with the width. Leave them out."
        )
    if methods[0].name not in FAMILIES:
        raise InvalidValueError(
            f"mup does not cover {methods[0].name}. Expected one of {', '.join(sorted(FAMILIES))}, whose rates muP's tables give. Choose one of them."
        )
    return FAMILIES[methods[0].name]


def _scaled(chain: Chain, factor: float) -> Chain:
    if factor == 1:
        return chain
    values = chain.hypers
    moved = {n: factor * v for n, v in values.items() if n.rpartition(".")[2] == "lr"}
    moved |= {n: v * (1 / factor) for n, v in values.items() if n.rpartition(".")[2] == "weight_decay"}
    return chain.rebuild(moved)


def _mlp(width: int, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(8, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 5)
        ).double()


@claim(
    "mup",
    "at the base width muP is the standard parametrisation, to the bit",
    "arXiv:2203.03466, base shapes",
)
def at_the_base(lab):
    model, plain = _mlp(32, seed=1), _mlp(32, seed=1)
    plan = mup(model, _mlp(32))
    for p, q in zip(model.parameters(), plain.parameters(), strict=True):
        yield lab.equal(float((p - q).detach().abs().max()), 0.0)
    yield lab.equal(len(plan.groups(adamw(0.1))), 1)


@claim(
    "mup",
    "hidden and output weights have Adam's rate over the width, inputs and biases keep it; SGD's grows for inputs and falls for outputs",
    "arXiv:2203.03466, table 3",
)
def table_3(lab):
    plan = mup(_mlp(256), _mlp(32))
    rates = {n: g["chain"].values["lr"] for g in plan.groups(adamw(0.1)) for n, _ in g["params"]}
    yield lab.equal(
        [rates["0.weight"], rates["2.weight"], rates["4.weight"], rates["2.bias"]], [0.1, 0.1 / 8, 0.1 / 8, 0.1]
    )
    found = [rate_factor(plan.widths[n], "sgd") for n in ("0.weight", "2.weight", "4.weight", "2.bias")]
    yield lab.equal(found, [8.0, 1.0, 1 / 8, 8.0])


@claim(
    "mup",
    "initial variances: 1 for inputs, 1/fan_in for hidden and 1/fan_in^2 for output weights",
    "arXiv:2203.03466, table 3",
)
def variances(lab):
    wide, base = _mlp(512), _mlp(32)
    mup(wide, base)
    for name, power in (("0.weight", 0), ("2.weight", 1), ("4.weight", 2)):
        now, then = (float(dict(m.named_parameters())[name].detach().var()) for m in (wide, base))
        yield lab.ratio(now, then, equals=16.0**-power, rtol=0.3)


@claim(
    "mup",
    "weights and updates have spectral norms of order sqrt(fan_out/fan_in)",
    "arXiv:2310.17813, spectral scaling condition",
)
def spectral(lab):
    sizes = []
    for width in (64, 512):
        model = _mlp(width)
        mup(model, _mlp(64))
        sizes.append(float(torch.linalg.matrix_norm(model[2].weight.detach(), 2)))  # sqrt(fan_out/fan_in) is 1
    yield lab.ratio(sizes[1], sizes[0], equals=1.0, rtol=0.15)
    hidden, output = Width("w", "hidden", 8.0, 8.0), Width("w", "output", 8.0, 1.0)
    yield lab.equal([rate_factor(hidden, "muon"), rate_factor(output, "muon")], [1.0, 8**-0.5])
