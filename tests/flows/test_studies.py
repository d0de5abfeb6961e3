"""Studies that take a minute: the edge of stability of full-batch training, by descent and by Adam, on one fixed network.

What they measured stands in docs/flows.md, with the commands.
"""

import pytest
import torch
from torch import nn

import fallline.methods  # noqa: F401  registers them
from fallline import Optimizer
from fallline.core.method import METHODS
from fallline.core.oracle import of_module
from fallline.flows import flat_loss, hvp, stability

pytestmark = pytest.mark.slow


def problem(seed):
    """A tanh network 8-32-32-1 on 100 points of a smooth function, and its full-batch squared loss."""
    made = torch.Generator().manual_seed(seed)
    x = torch.randn(100, 8, generator=made, dtype=torch.float64)
    y = torch.sin(2 * x[:, :1]) + x[:, 1:2] * x[:, 2:3] + 0.3 * torch.randn(100, 1, generator=made, dtype=torch.float64)
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1)).double()
    return model, flat_loss(of_module(model, nn.functional.mse_loss), (x, y))


def top(product, start, steps=30):
    """The largest eigenvalue by power iteration, started where the last one ended."""
    v = start / start.norm()
    for _ in range(steps):
        hv = product(v)
        value, v = float(v @ hv), hv / hv.norm()
    return value, v


def sharpness_of_run(method, seed, steps, every, squares=None):
    """Sharpness, preconditioned by the optimizer's own state where ``squares`` reads it, every so many steps of a run."""
    model, loss = problem(seed)
    optimizer = Optimizer(model, method, fuse="eager")
    params = list(model.parameters())
    v, found = torch.randn(len(loss.start), generator=torch.Generator().manual_seed(1), dtype=torch.float64), []
    closure = loss.oracle.closure(loss.batch)
    for t in range(1, steps + 1):
        optimizer.step(closure)
        if t % every == 0:
            theta = torch.cat([p.detach().flatten() for p in params])
            p = (
                torch.ones_like(theta)
                if squares is None
                else torch.cat([squares(optimizer.state[q], t).flatten() for q in params])
            )
            value, v = top(lambda u, theta=theta, p=p: hvp(loss, theta, u / p.sqrt()) / p.sqrt(), v)
            found.append(value)
    return torch.tensor(found)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_sharpness_of_full_batch_descent_hovers_at_its_threshold(seed):
    method = METHODS["sgd"](lr=0.05)
    found = sharpness_of_run(method, seed, 1500, 25) / stability(method).threshold
    print(seed, [round(float(x), 3) for x in found[::6]], float(found[-20:].mean()))
    assert float(found[0]) < 0.8
    assert float(found[-20:].mean()) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_preconditioned_sharpness_of_adam_hovers_at_its_threshold(seed):
    method = METHODS["adam"](lr=1e-3, b2=0.99, eps=1e-7)

    def divisor(state, t):
        return (state["adam.v"] / (1 - 0.99**t)).sqrt() + 1e-7

    found = sharpness_of_run(method, seed, 1500, 25, divisor) / stability(method).threshold
    print(seed, [round(float(x), 3) for x in found[::6]], float(found[-20:].mean()))
    assert float(found[-20:].mean()) == pytest.approx(1, abs=0.15)
