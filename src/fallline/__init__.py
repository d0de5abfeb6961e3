"""fallline: optimisation in deep learning. Use any method, compare methods fairly, see why a run behaves as it does.

    opt = fallline.optim.AdamW(model.parameters(), lr=3e-4)
    opt = fallline.Optimizer(model, chain(clip_by_global_norm(1.0), adamw(lr=3e-4 * (warmup(200) >> cosine(9_800)))))

Names are imported when first used, so that ``import fallline`` does not load torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "Optimizer": "fallline.core.optimizer",
    "averaged": "fallline.core.averaging",
    "Snapshots": "fallline.core.snapshots",
    "Transform": "fallline.core.transform",
    "transform": "fallline.core.transform",
    "chain": "fallline.core.transform",
    "zeros": "fallline.core.transform",
    "method": "fallline.core.method",
    "METHODS": "fallline.core.method",
    "groups": "fallline.core.groups",
    "watch": "fallline.dynamics",
    "muon_groups": "fallline.methods.matrix.routing",
    "Oracle": "fallline.core.oracle",
    "of_loss": "fallline.core.oracle",
    "of_module": "fallline.core.oracle",
    "save": "fallline.checkpoint",
    "load": "fallline.checkpoint",
    "Reach": "fallline.core.types",
    "At": "fallline.core.types",
    "Hyper": "fallline.core.types",
    "State": "fallline.core.types",
}
_PACKAGES = (
    "checkpoint", "curvature", "dynamics", "flows", "lab", "landscape", "methods", "nn", "objectives", "optim", "report", "scaling",
    "schedules", "second_order", "tasks", "testing", "transforms",
)  # fmt: skip

__all__ = [
    "METHODS",
    "At",
    "Hyper",
    "Optimizer",
    "Oracle",
    "Reach",
    "Snapshots",
    "State",
    "Transform",
    "averaged",
    "chain",
    "checkpoint",
    "curvature",
    "dynamics",
    "flows",
    "groups",
    "lab",
    "landscape",
    "load",
    "method",
    "methods",
    "muon_groups",
    "nn",
    "objectives",
    "of_loss",
    "of_module",
    "optim",
    "report",
    "save",
    "scaling",
    "schedules",
    "second_order",
    "tasks",
    "testing",
    "transform",
    "transforms",
    "watch",
    "zeros",
]

if TYPE_CHECKING:
    from fallline import (
        checkpoint,
        curvature,
        dynamics,
        flows,
        lab,
        landscape,
        methods,
        nn,
        objectives,
        optim,
        report,
        scaling,
        schedules,
        second_order,
        tasks,
        testing,
        transforms,
    )  # fmt: skip
    from fallline.checkpoint import load, save
    from fallline.core.averaging import averaged
    from fallline.core.groups import groups
    from fallline.core.method import METHODS, method
    from fallline.core.optimizer import Optimizer
    from fallline.core.oracle import Oracle, of_loss, of_module
    from fallline.core.snapshots import Snapshots
    from fallline.core.transform import Transform, chain, transform, zeros
    from fallline.core.types import At, Hyper, Reach, State
    from fallline.dynamics import watch
    from fallline.methods.matrix.routing import muon_groups


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f"fallline.{name}")
    if name in _HOME:
        if name == "METHODS":  # the registry is filled by importing the methods
            importlib.import_module("fallline.methods")
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'fallline' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
