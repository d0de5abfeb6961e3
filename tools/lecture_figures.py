"""Draw the figures of docs/lecture.md, docs/figures/lecture-*.svg, each from a small computation: ``python tools/lecture_figures.py``.

A test draws them again and compares the numbers in their labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fallline import Optimizer, of_module
from fallline import nn as fnn
from fallline.core.transform import Chain
from fallline.flows import follow
from fallline.flows.descent import START, small_network
from fallline.flows.fields import top_eigenpairs
from fallline.methods import adadelta, adagrad, adam, adamw, amsgrad, heavy_ball, nesterov, radam, rmsprop, sgd, sgdp
from fallline.objectives import term
from fallline.report.lines import Lines
from fallline.report.palette import ROLES, SLOTS
from fallline.report.svg import drawing, figure, standalone
from fallline.scaling import coordinate_check, grow_batch
from fallline.schedules import (
    Schedule,
    cosine,
    cosine_restarts,
    exponential,
    inverse_sqrt,
    polynomial,
    step_decay,
    triangular,
    untuned_warmup,
    warmup,
    wsd,
)
from fallline.tasks import load

HOME = Path(__file__).parent.parent / "docs" / "figures"
TILTS = {"t = -2": -2.0, "t = 0, ERM": 0.0, "t = 2": 2.0}


def numbered(values: Iterable[float]) -> list[tuple[float, float]]:
    return [(float(i), float(v)) for i, v in enumerate(values)]


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# -- part 1 ---------------------------------------------------------------------------------------------------------------


def momentum() -> Lines:
    curvatures, start = vector(1.0, 100.0), vector(1.0, 1.0)

    def loss(w: Tensor) -> Tensor:
        return (curvatures * w * w).sum() / 2

    chains = {
        "gradient descent": sgd(2 / 101),
        "heavy ball": heavy_ball(4 / 121, (9 / 11) ** 2),
        "nesterov": nesterov(1 / 100, 9 / 11),
    }
    paths = {name: numbered(map(loss, follow(c, loss, start, 100))) for name, c in chains.items()}
    return Lines("A quadratic with curvatures 1 and 100", "step", "loss", paths, log_y=True)


def saddle() -> Lines:
    """The coordinate along which the saddle falls."""
    chains = {
        "sgd": sgd(0.1),
        "momentum 0.9": sgd(0.1, momentum=0.9),
        "adagrad": adagrad(0.1),
        "rmsprop": rmsprop(0.1),
        "adadelta": adadelta(1.0),
        "adam": adam(0.1),
    }
    paths = {n: follow(c, lambda w: (w[0] ** 2 - w[1] ** 2) / 2, vector(1.0, 1e-3), 40) for n, c in chains.items()}
    escaped = {name: numbered(path[:, 1]) for name, path in paths.items()}
    return Lines("Away from a saddle, (x² − y²)/2", "step", "y", escaped, log_y=True)


def online(chain: Chain, steps: int) -> list[float]:
    """Steps on f_t = 3x at every third step and -x at the others, over [-1, 1]."""
    x = nn.Parameter(vector(0.0))
    optimizer, path = Optimizer([x], chain, fuse="eager"), [0.0]
    for t in range(1, steps + 1):
        x.grad = torch.full_like(x, 3.0 if t % 3 == 1 else -1.0)
        optimizer.step()
        x.data.clamp_(-1, 1)
        path.append(float(x.detach()))
    return path


def convergence() -> Lines:
    rate = 0.5 * inverse_sqrt(1)
    paths = {
        "adam": online(adam(rate, b1=0.0, b2=0.1), 150),
        "amsgrad": online(amsgrad(rate, b1=0.0, b2=0.1), 150),
    }
    return Lines("Slope 3 at every third step, −1 else", "step", "x", {n: numbered(p) for n, p in paths.items()})


def schedules() -> Lines:
    shapes = {
        "step": step_decay(300, 0.2),
        "exponential": exponential(0.997),
        "linear": polynomial(1000),
        "warm-up, cosine": warmup(100) >> cosine(900),
        "WSD": wsd(1000, cooldown=0.2, warm=100),
    }
    return Lines("Decay", "step", "share of the peak", {n: sampled(s, 1000, 5) for n, s in shapes.items()})


def restarts() -> Lines:
    shapes = {"warm restarts": cosine_restarts(100, 2.0), "triangular": triangular(100, shrink=0.8)}
    return Lines("Cycles", "step", "share of the peak", {n: sampled(s, 700, 2) for n, s in shapes.items()})


def sampled(schedule: Schedule, steps: int, every: int) -> list[tuple[float, float]]:
    return [(t, schedule(t)) for t in range(1, steps + 1, every)]


def growth() -> Lines:
    """Over the same examples, in units of batches of 64."""
    decay = step_decay(300, 0.2)
    traded = grow_batch(decay, 900, batch=64, most=1600)
    sizes = [traded.batch(t) for t in range(1, traded.num_steps + 1)]
    seen = [s / 64 for s in accumulate(sizes, initial=0.0)]
    return Lines(
        "The same noise with fewer steps",
        "examples / 64",
        "relative to the start",
        {
            "decayed rate": [(t - 1.0, decay(t)) for t in range(1, 901)],
            "grown batch": [(s, b / 64) for s, b in zip(seen, sizes, strict=False)],
            "optimizer steps / 100": [(s, (i + 1) / 100) for i, s in enumerate(seen[:-1])],
        },
        log_y=True,
    )


def rectification() -> Lines:
    """RAdam's step over that of Adam, beside warm-ups."""
    ours, theirs = (follow(m(1.0, b2=0.99), torch.sum, vector(0.0), 400)[:, 0].diff() for m in (radam, adam))
    lines = {
        "RAdam": [(t + 1.0, float(ours[t] / theirs[t])) for t in range(5, 400)],
        "untuned warm-up": sampled(untuned_warmup(0.99), 400, 1),
    }
    return Lines("What stands before Adam's step, b2 = 0.99", "step", "factor", lines)


def batch_norm() -> Lines:
    inputs, targets = load("digits-mlp").train.tensors
    batch = inputs[:128].double(), targets[:128]
    ranges = {name: loss_ranges(batch, normed) for name, normed in (("without", False), ("batch norm", True))}
    lines = {name: numbered(r) for name, r in ranges.items()}
    return Lines("Range of the loss along the gradient", "step of training", "range", lines, log_y=True)


def loss_ranges(batch: tuple[Tensor, Tensor], normed: bool) -> list[float]:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for i in range(6):
        layers += [nn.Linear(32 if i else 64, 32), nn.BatchNorm1d(32) if normed else nn.Identity(), nn.ReLU()]
    net = nn.Sequential(*layers, nn.Linear(32, 10)).double()
    for m in net:
        if isinstance(m, nn.Linear):
            nn.init.kaiming_normal_(m.weight)
    oracle = of_module(net, F.cross_entropy)
    optimizer, found = torch.optim.SGD(net.parameters(), lr=0.1), []
    for _ in range(30):
        found.append(fnn.along_gradient(oracle, oracle.params, batch, [0.05, 0.1, 0.2, 0.4]).loss_range)
        optimizer.zero_grad()
        oracle.backward(batch)
        optimizer.step()
    return found


# -- part 2 ---------------------------------------------------------------------------------------------------------------


def critical() -> Lines:
    lines = {}
    for name, phi in (("tanh", torch.tanh), ("erf", torch.erf)):
        points = [fnn.critical(phi, 10 ** (k / 10)) for k in range(-30, 6)]
        lines[name] = [(p.bias_variance, p.weight_variance) for p in points]
    return Lines("Where χ = 1 at the fixed point", "variance of biases", "variance of weights × fan-in", lines)


def signal() -> Lines:
    lines = {}
    for name in ("torch's default", "critical", "batch norm"):
        torch.manual_seed(0)
        layers: list[nn.Module] = []
        for _ in range(50):
            layers += [nn.Linear(64, 64), nn.BatchNorm1d(64) if name == "batch norm" else nn.Identity(), nn.Tanh()]
        net = nn.Sequential(*layers, nn.Linear(64, 10))
        if name == "critical":
            fnn.critical_(net, torch.tanh, q=0.025)
        rows = [r for r in fnn.signal(net, torch.randn(64, 64)).rows if r.kind == "Linear"]
        lines[name] = [(i + 1.0, r.gradient) for i, r in enumerate(rows)]
    return Lines("Backwards through 50 layers of tanh", "layer", "norm of the gradient", lines, log_y=True)


def norms() -> Lines:
    def loss(w: Tensor) -> Tensor:
        return -w[0, 1] / w.norm()

    chains = {"sgd": sgd(0.3), "momentum 0.9": sgd(0.3, momentum=0.9), "sgdp": sgdp(0.3, momentum=0.9)}
    paths = {n: numbered(follow(c, loss, vector(1.0, -0.2)[None], 60).norm(dim=(1, 2))) for n, c in chains.items()}
    return Lines("Minimise −cos(w, w₀)", "step", "norm of w", paths)


def edge() -> Lines:
    lines = {}
    for every, lr in ((1, 0.9), (3, 0.3)):
        path = follow(sgd(lr), small_network, START, 300 * every)[::every]
        lines[f"lr {lr}"] = [(0.9 * i, float(top_eigenpairs(small_network, w, 1)[0][0])) for i, w in enumerate(path)]
    lines["2 / 0.9"] = [(0.0, 2 / 0.9), (270.0, 2 / 0.9)]
    return Lines("Sharpness under gradient descent", "lr × steps", "largest eigenvalue", lines)


# -- part 3 ---------------------------------------------------------------------------------------------------------------


def outliers() -> tuple[Tensor, Tensor]:
    drawn = torch.Generator().manual_seed(0)
    x = torch.linspace(0, 1, 24, dtype=torch.float64)
    y = 4 * x + 0.3 * torch.randn(24, dtype=torch.float64, generator=drawn)
    y[[17, 19, 21, 22, 23]] -= 4
    return x, y


def tilted_fit(t: float) -> Tensor:
    """Intercept and slope, from those of least squares: for t < 0 the loss is not convex."""
    x, y = outliers()
    design = torch.stack([torch.ones_like(x), x], dim=1)
    w = torch.linalg.lstsq(design, y).solution.requires_grad_()
    optimizer = torch.optim.LBFGS([w], max_iter=200, tolerance_change=1e-12, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        risk = term((y - design @ w) ** 2, t)
        risk.backward()
        return risk

    optimizer.step(closure)
    return w.detach()


def tilts() -> str:
    x, y = outliers()
    fits = {name: tilted_fit(t) for name, t in TILTS.items()}
    with drawing():
        fig, axes = figure(560, 330, left=62, right=100, top=26, bottom=40)
        axes.set_title("A line through data with five outliers", color=ROLES["soft"])
        axes.set_xlabel("x")
        axes.set_ylabel("y")
        axes.scatter(x, y, s=14, color=ROLES["soft"], linewidths=0)
        for colour, (name, w) in zip(SLOTS, fits.items(), strict=False):
            axes.plot([0, 1], [float(w[0]), float(w.sum())], color=colour, linewidth=1.5, label=name)
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, labelcolor=ROLES["ink"])
        slopes = "; ".join(f"{name} has slope {float(w[1]):.3g}" for name, w in fits.items())
        return standalone(fig, f"A line through data with five outliers. {slopes}.")


def two_minima(w: Tensor) -> Tensor:
    """A sharp minimum at -1, a flat one at 1 that is 0.1 higher."""
    return 1 - torch.exp(-((w + 1) ** 2) / 0.02) - 0.9 * torch.exp(-((w - 1) ** 2) / 0.5)


def sharpness_aware() -> Lines:
    grid = torch.linspace(-2, 2.5, 451, dtype=torch.float64)
    near = torch.linspace(-0.3, 0.3, 61, dtype=torch.float64)
    worst = two_minima(grid[:, None] + near).amax(1)
    lines = {"loss": two_minima(grid), "worst within 0.3": worst}
    return Lines(
        "A sharp and a flat minimum",
        "w",
        "loss",
        {n: list(zip(grid.tolist(), v.tolist(), strict=True)) for n, v in lines.items()},
    )


def width() -> Lines:
    def make(width: int) -> nn.Module:
        return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10))

    drawn = torch.Generator().manual_seed(0)
    batch = torch.randn(32, 64, generator=drawn), torch.randint(10, (32,), generator=drawn)
    lines = {}
    for name, base in (("standard", None), ("muP", 64)):
        found = coordinate_check(
            make, lambda m, b: F.cross_entropy(m(b[0]), b[1]), batch, adamw(1e-3), [64, 128, 256, 512], base, steps=3
        )
        for layer, place in (("2", "hidden"), ("4", "output")):
            lines[f"{place}, {name}"] = [(float(w), v) for w, v in found.change[layer].items()]
    return Lines(
        "What three steps of AdamW change", "width", "mean change of activations", lines, log_x=True, log_y=True
    )


FIGURES: dict[str, Callable[[], Lines | str]] = {
    "momentum": momentum,
    "saddle": saddle,
    "convergence": convergence,
    "schedules": schedules,
    "restarts": restarts,
    "growth": growth,
    "rectification": rectification,
    "batch-norm": batch_norm,
    "critical": critical,
    "signal": signal,
    "norms": norms,
    "edge": edge,
    "tilts": tilts,
    "sharpness-aware": sharpness_aware,
    "width": width,
}


def drawn(name: str) -> str:
    """The SVG file's text."""
    found = FIGURES[name]()
    return found if isinstance(found, str) else found.svg()


if __name__ == "__main__":
    import sys
    import time

    for name in sys.argv[1:] or FIGURES:
        start = time.process_time()
        (HOME / f"lecture-{name}.svg").write_text(drawn(name), encoding="utf-8")
        print(f"lecture-{name}.svg  {time.process_time() - start:.1f} s")
