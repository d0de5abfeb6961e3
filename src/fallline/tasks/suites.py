"""Suites: named lists of tasks that are compared on together."""

from __future__ import annotations

from fallline.core.errors import unknown
from fallline.tasks.registry import TASKS

__all__ = ["SUITES", "suite"]

SUITES: dict[str, tuple[str, ...]] = {
    # a network, a badly scaled convex problem, a saddle: under two minutes for four methods at `quick` on two cores
    "tiny": ("digits-mlp", "breast-cancer-logistic", "matrix-factorisation"),
    # one task of every kind: six methods at `quick` in under 45 minutes on two cores; fashion-cnn alone would double that,
    # fashion-nfnet and fashion-noisy resemble tasks that are here, quadratic and rosenbrock have no data
    "core": (
        "digits-mlp",
        "deep-autoencoder",
        "fashion-resnet",
        "fashion-vit",
        "fashion-longtail",
        "shakespeare-gpt",
        "zipf-words",
        "signals-gru",
        "siren-image",
        "pinn-poisson",
        "breast-cancer-logistic",
        "matrix-factorisation",
    ),
    "all": tuple(TASKS),
}
"""Name -> tasks. What each costs is measured in docs/tasks.md."""


def suite(name: str) -> tuple[str, ...]:
    """The tasks of a suite. Raises UnknownNameError with the known ones."""
    if name not in SUITES:
        raise unknown("suite", name, SUITES)
    return SUITES[name]
