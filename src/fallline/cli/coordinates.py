"""``fallline coord-check``: muP's coordinate check as a figure and a verdict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

import fallline.methods  # noqa: F401 (fills the registry)
from fallline.cli.figures import check_svg, show
from fallline.core.errors import InvalidTypeError, InvalidValueError
from fallline.core.method import METHODS
from fallline.report.lines import Lines
from fallline.scaling import coordinate_check
from fallline.tasks import Task, load
from fallline.tasks.datasets import fetch
from fallline.tasks.user import find_user_object

__all__ = ["base_of", "check_coordinates"]


def check_coordinates(
    make: str | None, method: str, lr: float, widths: str, base: int | None, steps: int, svg: Path | None
) -> int:
    """Run the check and print it; ``base`` is None for the standard parametrisation and 0 for the smallest width."""
    check_svg(svg)
    sizes = _widths(widths)
    task_of = _digits if make is None else _users(make)
    task = task_of(min(sizes))
    chain = METHODS[method](lr=lr)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        batch = fetch(task.train, torch.randperm(len(task.train))[: task.batch_size])
    found = coordinate_check(
        lambda width: task_of(width).model(), task.loss, batch, chain, sizes, min(sizes) if base == 0 else base, steps
    )
    named = "standard parametrisation" if base is None else f"muP, base width {base or min(sizes)}"
    lines = {
        layer: sorted(sizes.items()) for layer, sizes in found.change.items() if all(v > 0 for v in sizes.values())
    }
    if not lines:
        raise InvalidValueError(
            f"Nothing changed in {steps} steps of {method} at lr {lr:g}. Expected layers that learn. Use a larger --lr or more --steps."
        )
    figure = Lines(
        f"Change of activations after {steps} steps of {method}, {named}", "width", "mean |change|", lines, True, True
    )
    slopes = "   ".join(f"{layer} {slope:+.2f}" for layer, slope in found.slopes.items())
    show(figure, svg, f"Exponents of the width: {slopes}\n{found.verdict}")
    return int(not found.flat)


def base_of(base: int | None, standard: bool) -> int | None:
    """What ``--base`` and ``--standard`` say together, as ``check_coordinates`` takes it."""
    if standard and base is not None:
        raise InvalidValueError(
            f"--standard and --base {base} were both given. The standard parametrisation has no base width. Drop one of them."
        )
    if base is not None and base < 1:
        raise InvalidValueError(f"--base got {base}. Expected a width, at least 1. Write for example --base 64.")
    return None if standard else base or 0


def _widths(text: str) -> list[int]:
    try:
        return sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise InvalidValueError(
            f"--widths got {text!r}. Expected whole numbers separated by commas. Write for example --widths 64,128,256,512."
        ) from None


def _digits(width: int) -> Task:
    """The digits task with three layers of that width."""

    def mlp() -> nn.Module:
        return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10))

    return replace(load("digits-mlp"), model=mlp)


def _users(reference: str) -> Callable[[int], Task]:
    make = find_user_object(reference, "make", "takes a width and returns a fallline.tasks.Task")

    def task_of(width: int) -> Task:
        if not callable(make):
            raise InvalidTypeError(
                f"{reference} is a {type(make).__name__}. Expected a function of a width. Define it as: def make(width): ..."
            )
        task = make(width)
        if not isinstance(task, Task):
            raise InvalidTypeError(
                f"{reference} returned a {type(task).__name__} for width {width}. Expected a fallline.tasks.Task. End the function with: return Task(...)."
            )
        return task

    return task_of
