"""Draw the figures of docs/dynamics.md into docs/figures: ``python tools/dynamics_figures.py [NAME ...]``.

Each is a function that returns its lines, computed from fixed seeds, most in a second or two on one thread, the networks in some ten. Where the
lines end, and between what they lie, is printed: these are the numbers that the page quotes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fallline.core.oracle import of_module
from fallline.core.transform import Chain
from fallline.curvature import eigsh, gradient, hessian
from fallline.dynamics import Record, watch
from fallline.flows import (
    EULER,
    RK4,
    compare,
    dal_path,
    follow,
    gradient_flow,
    modified_field,
    modified_flow,
    principal_coefficients,
    principal_flow,
    principal_path,
    solve,
    stability,
    top_eigenpairs,
)
from fallline.flows.descent import START, small_network
from fallline.landscape import snapshot, trajectory_pca
from fallline.methods import adam, extragradient, heavy_ball, nesterov, sgd
from fallline.report.lines import Lines
from fallline.tasks import load

FIGURES = Path(__file__).parent.parent / "docs" / "figures"
Points = list[tuple[float, float]]


def points(xs: Iterable[float] | Tensor, ys: Iterable[float] | Tensor) -> Points:
    """Pairs for a line."""
    return [(float(x), float(y)) for x, y in zip(xs, ys, strict=True)]


# -- methods on a bowl --------------------------------------------------------------------------------------------------

BOWL = torch.tensor([1.0, 10.0], dtype=torch.float64)
CORNER = torch.tensor([-1.0, 0.5], dtype=torch.float64)


def in_a_bowl(chain: Chain, steps: int) -> Points:
    """The distance from the minimum of a bowl of curvatures 1 and 10, by step."""
    path = follow(chain, lambda w: (BOWL * w.square()).sum() / 2, CORNER, steps)
    return points(range(steps + 1), path.norm(dim=1))


def regimes() -> Lines:
    """Descent in one dimension below, between and beyond the two thresholds."""
    paths = {
        x: follow(sgd(lr=x), lambda w: w.square().sum() / 2, torch.ones(1, dtype=torch.float64), 12)[:, 0]
        for x in (0.5, 1.5, 2.1)
    }
    lines = {f"h·λ = {x}": points(range(13), path) for x, path in paths.items()}
    return Lines("Gradient descent on λw²/2", "step", "w", lines)


def momentum() -> Lines:
    """Heavy ball: small and large rates, much and little memory."""
    chains = {
        f"β = {b}, h = {h}": heavy_ball(lr=h, momentum=b) for b, h in ((0.0, 0.02), (0.9, 0.02), (0.9, 0.2), (0.5, 0.2))
    }
    lines = {name: in_a_bowl(chain, 60) for name, chain in chains.items()}
    return Lines("Heavy ball in a bowl of curvatures 1 and 10", "step", "distance from the minimum", lines, log_y=True)


def adam_settings() -> Lines:
    """Adam: what the rate, b1 and eps change."""
    settings = ((0.9, 0.02, 1e-8), (0.9, 0.2, 1e-8), (0.5, 0.2, 1e-8), (0.9, 0.2, 1.0))
    lines = {f"b1 {b}, h {h}, ε {e:g}": in_a_bowl(adam(lr=h, b1=b, eps=e), 60) for b, h, e in settings}
    return Lines("Adam in the same bowl", "step", "distance from the minimum", lines, log_y=True)


def radii() -> Lines:
    """How much a step multiplies the state of four methods on a quadratic."""
    chains = {
        "sgd": sgd(lr=1.0),
        "heavy_ball": heavy_ball(lr=1.0, momentum=0.9),
        "nesterov": nesterov(lr=1.0, momentum=0.9),
        "adam": adam(lr=1.0),
    }
    curvatures = torch.logspace(-1, 2, 121, dtype=torch.float64).tolist()
    lines = {}
    for name, chain in chains.items():
        found = stability(chain)
        kept = [(x, found.radius(x)) for x in curvatures]
        lines[f"{name} (to {found.threshold:.3g})"] = [(x, r) for x, r in kept if r < 1.5]
    return Lines(
        "Growth a step on a quadratic; stable below 1",
        "h·λ (Adam: of P^-1/2 H P^-1/2)",
        "spectral radius",
        lines,
        log_x=True,
    )


# -- flows --------------------------------------------------------------------------------------------------------------


def drift() -> Lines:
    """Descent against three flows and the principal flow, by rate."""
    flows = {
        "gradient flow": lambda loss, lr: gradient_flow(loss),
        "modified, order 2": modified_flow,
        "modified, order 3": lambda loss, lr: modified_flow(loss, lr, 3),
        "principal flow": principal_flow,
    }
    lines = {}
    for name, flow in flows.items():
        found = compare(sgd(lr=0.1), flow, small_network, START, until=0.4, rates=(0.2, 0.1, 0.05, 0.025))
        lines[f"{name}: h^{found.order:.2f}"] = points(found.rates, found.final)
    return Lines(
        "Gradient descent's distance from flows after time 0.4",
        "learning rate h",
        "distance",
        lines,
        log_x=True,
        log_y=True,
    )


def coefficients() -> Lines:
    """alpha of the principal flow."""
    x = torch.linspace(0.02, 3.0, 150, dtype=torch.float64)
    alpha = principal_coefficients(x)
    lines = {
        "Re α": [(a, b) for a, b in points(x, alpha.real) if b > -4],
        "Im α": points(x, alpha.imag),
        "gradient flow": points(x, torch.full_like(x, -1.0)),
        "zero": points(x, torch.zeros_like(x)),
    }
    return Lines("α(hλ) = log(1 − hλ)/(hλ)", "h·λ", "α", lines)


def principal() -> Lines:
    """The principal flow beside descent and gradient flow where descent oscillates."""
    lr, one = 1.8, torch.ones(1, dtype=torch.float64)
    steps = follow(sgd(lr=lr), lambda w: w.square().sum() / 2, one, 8)[:, 0]
    t = torch.linspace(0, 8, 161, dtype=torch.float64)
    lines = {
        "gradient descent": points(range(9), steps),
        "principal flow (real part)": points(
            t, principal_path(torch.eye(1, dtype=torch.float64), one, lr, lr * t).real[:, 0]
        ),
        "gradient flow": points(t, torch.exp(-lr * t)),
    }
    return Lines("Descent at hλ = 1.8: the principal flow meets it at every step", "step", "w", lines)


def sharp(w: Tensor) -> Tensor:
    """A tanh network whose curvatures are nine times as large."""
    return small_network(3 * w)


def dal() -> Lines:
    """Drift adjusted rates against constant ones."""
    path, rates = dal_path(sharp, START, 80)
    lines = {"DAL-1": points(range(81), (sharp(w) for w in path))}
    for name, lr in (("its median rate", float(rates.median())), ("its least rate", float(rates.min()))):
        run = points(range(81), (sharp(w) for w in follow(sgd(lr=lr), sharp, START, 80)))
        lines[f"GD, {name} {lr:.3g}"] = [p for p in run if p[1] < 1e3]
    return Lines("A sharp tanh network of 10 parameters", "step", "loss", lines, log_y=True)


def flatness() -> Lines:
    """The sharpness along descent at several rates, and along DAL."""
    runs = {f"GD, h = {lr}": follow(sgd(lr=lr), sharp, START, 80) for lr in (0.02, 0.05, 0.1)} | {
        "DAL-1": dal_path(sharp, START, 80)[0]
    }
    lines = {name: points(range(81), (top_eigenpairs(sharp, w, 1)[0] for w in path)) for name, path in runs.items()}
    return Lines("The same network: sharpness along the way", "step", "largest curvature", lines, log_y=True)


def game() -> Lines:
    """min over x, max over y of xy: steps leave, the flow circles."""
    field: Callable[[Tensor], Tensor] = lambda z: torch.stack([-z[1], z[0]])  # noqa: E731
    start, h, n = torch.tensor([1.0, 0.0], dtype=torch.float64), 0.2, 60
    paths = {
        "Euler (simultaneous descent)": solve(field, start, n * h, n, EULER).points,
        "modified flow": solve(modified_field(field, h, 2), start, n * h, n).points,
        "RK4": solve(field, start, n * h, n, RK4).points,
        "extragradient": players(n, h),
    }
    lines = {name: points(range(n + 1), path.norm(dim=1)) for name, path in paths.items()}
    return Lines("min over x, max over y of xy, h = 0.2", "step", "distance from the equilibrium", lines)


def players(steps: int, lr: float) -> Tensor:
    """Extragradient on the game: a loss whose gradient is the players' field."""
    import fallline

    z = nn.Parameter(torch.tensor([1.0, 0.0], dtype=torch.float64))
    optimizer, path = fallline.Optimizer([z], extragradient(lr=lr), fuse="eager"), [z.detach().clone()]

    def closure() -> Tensor:
        z.grad = torch.stack([z.detach()[1], -z.detach()[0]])
        return z.detach().prod()

    for _ in range(steps):
        optimizer.step(closure)
        path.append(z.detach().clone())
    return torch.stack(path)


# -- networks -----------------------------------------------------------------------------------------------------------


def watched(optimizer_of: Callable[[nn.Module], torch.optim.Optimizer], steps: int, every: int) -> Record:
    """Full-batch training of a tanh network 8-32-32-1 on 100 points of a smooth function, watched."""
    made = torch.Generator().manual_seed(0)
    x = torch.randn(100, 8, generator=made, dtype=torch.float64)
    y = torch.sin(2 * x[:, :1]) + x[:, 1:2] * x[:, 2:3] + 0.3 * torch.randn(100, 1, generator=made, dtype=torch.float64)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1)).double()
    optimizer = optimizer_of(model)
    eye = watch(model, optimizer, F.mse_loss, every=every)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        eye.see(loss, (x, y))
    return eye.finish()


def shares(runs: dict[str, Record]) -> dict[str, Points]:
    """Sharpness over threshold by step, and the edge."""
    lines = {name: points(record.series("share").steps, record.series("share").values) for name, record in runs.items()}
    last = max(line[-1][0] for line in lines.values())
    return {**lines, "edge": [(1.0, 1.0), (last, 1.0)]}


def edge() -> Lines:
    """Sharpness of full-batch descent over 2 / h."""
    runs = {
        f"h = {lr}": watched(lambda m, lr=lr: torch.optim.SGD(m.parameters(), lr=lr), 1200, 25) for lr in (0.05, 0.1)
    }
    return Lines("Full-batch gradient descent", "step", "sharpness over 2/h", shares(runs))


def adam_edge() -> Lines:
    """Preconditioned sharpness of full-batch Adam over 38 / h."""
    runs = {
        f"h = {lr}": watched(
            lambda m, lr=lr: torch.optim.Adam(m.parameters(), lr=lr, betas=(0.9, 0.99), eps=1e-7), 1000, 25
        )
        for lr in (1e-3, 3e-3)
    }
    return Lines("Full-batch Adam, b1 = 0.9", "step", "preconditioned sharpness over 38/h", shares(runs))


class Digits:
    """A tanh network 64-32-10 on the digits, trained by SGD in batches or on all examples."""

    def __init__(self, batch_size: int | None, lr: float = 0.1) -> None:
        data = load("digits-mlp").train
        x, self.y = data.batch(torch.arange(len(data)))
        self.x = x.flatten(1)
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=lr)
        self.oracle = of_module(self.model, F.cross_entropy)
        self.batch_size = batch_size

    def step(self) -> Tensor:
        n = len(self.x)
        drawn = torch.randint(n, (self.batch_size,)) if self.batch_size else torch.arange(n)
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.model(self.x[drawn]), self.y[drawn])
        loss.backward()
        self.optimizer.step()
        return loss.detach()


def noise() -> Lines:
    """The gradient noise scale while SGD trains."""
    lines = {}
    for batch_size, lr in ((16, 0.1), (128, 0.1), (16, 0.02)):
        run = Digits(batch_size, lr)
        probe = run.x[:512], run.y[:512]
        eye = watch(run.model, run.optimizer, run.oracle, every=30, probe=probe)
        for _ in range(600):
            eye.see(run.step(), probe)
        found = eye.finish().series("noise_scale")
        lines[f"batch {batch_size}, h = {lr}"] = points(found.steps, found.values)
    return Lines(
        "SGD on digits-mlp, 512 fixed examples", "step", "noise scale tr Σ / |G|², in examples", lines, log_y=True
    )


def overlap() -> Lines:
    """The share of the gradient in the space of the ten top eigenvectors."""
    lines = {}
    for name, batch_size in (("batches of 16", 16), ("all examples", None)):
        run, line, pairs = Digits(batch_size), [], None
        for step in range(301):
            if step % 25 == 0:
                pairs = eigsh(hessian(run.oracle, (run.x, run.y)), 10, tol=1e-2, start=pairs)
                share = pairs.share(pairs.space.flatten(gradient(run.oracle, (run.x, run.y))))
                line.append((float(step), share))
            run.step()
        lines[name] = line
    return Lines("Digits, 2,410 parameters", "step", "share of |G|² in the top ten directions", lines)


def walk() -> Lines:
    """Two principal components of a random walk, and of SGD."""
    made = torch.Generator().manual_seed(0)
    steps = torch.randn(200, 2410, generator=made, dtype=torch.float64).cumsum(0)
    run, seen = Digits(16), []
    for step in range(600):
        run.step()
        if step % 3 == 0:
            seen.append(snapshot(run.oracle))
    lines = {}
    for name, path in (("random walk", [{"w": w} for w in steps]), ("SGD on digits", seen)):
        found = trajectory_pca(path)
        size = found.coordinates[:, 0].max() - found.coordinates[:, 0].min()
        place = (found.coordinates - found.coordinates.mean(0)) / size
        lines[f"{name} ({float(found.shares[0]):.0%} + {float(found.shares[1]):.0%})"] = points(
            place[:, 0], place[:, 1]
        )
    return Lines("Trajectories in their first two principal components", "component 1", "component 2", lines)


ALL: dict[str, Callable[[], Lines]] = {
    "regimes": regimes,
    "momentum": momentum,
    "adam": adam_settings,
    "radii": radii,
    "drift": drift,
    "alpha": coefficients,
    "principal": principal,
    "dal": dal,
    "flatness": flatness,
    "game": game,
    "edge": edge,
    "adam-edge": adam_edge,
    "noise": noise,
    "overlap": overlap,
    "walk": walk,
}


if __name__ == "__main__":
    FIGURES.mkdir(exist_ok=True)
    for name in sys.argv[1:] or ALL:
        drawn = ALL[name]()
        (FIGURES / f"dynamics-{name}.svg").write_text(drawn.svg(), encoding="utf-8")
        for line, places in drawn.lines.items():
            ys = [y for _, y in places]
            print(f"{name}, {line}: ends at {ys[-1]:.4g}, between {min(ys):.4g} and {max(ys):.4g}")
