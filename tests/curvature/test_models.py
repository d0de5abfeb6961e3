"""Curvature of real layers: evaluation mode for the time, nothing of the module changed, attention and recurrence included."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fallline.core.oracle import of_module
from fallline.curvature import example_gradients, ggn, gradient, hessian


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.into, self.out = nn.Linear(4, 12), nn.Linear(4, 3)

    def forward(self, x):
        q, k, v = (part[:, None] for part in self.into(x).chunk(3, -1))
        return self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True)[:, 0].mean(1))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.out = nn.LSTM(4, 3, batch_first=True), nn.Linear(3, 3)

    def forward(self, x):
        return self.out(self.cell(x)[0][:, -1])


def convolutional():
    return nn.Sequential(
        nn.Conv1d(5, 3, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(6, 3)
    )


@pytest.mark.parametrize("make", [Attention, Recurrent, convolutional], ids=["attention", "lstm", "conv-bn-dropout"])
def test_hessian_is_the_derivative_of_the_gradient(make):
    torch.manual_seed(0)
    model = make().double().train()
    x, y = torch.randn(9, 5, 4).double(), torch.randint(3, (9,))
    with torch.no_grad():
        model(x)  # running statistics that are not those of the start
    before = {name: b.clone() for name, b in model.named_buffers()}
    state, modes = torch.random.get_rng_state(), [m.training for m in model.modules()]
    oracle = of_module(model, F.cross_entropy)
    h = hessian(oracle, (x, y))
    v = torch.randn(h.shape[1], dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    moved = h.domain.unflatten(v)
    step = 1e-5

    def slope(sign):
        at = {name: p.detach() + sign * step * moved[name] for name, p in oracle.params.items()}
        return h.domain.flatten(gradient(oracle, (x, y), at))

    torch.testing.assert_close(h @ v, (slope(1) - slope(-1)) / (2 * step), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(h @ v, h @ v, rtol=0, atol=0)
    g = example_gradients(oracle, (x, y))
    torch.testing.assert_close(g.T @ torch.full((9,), 1 / 9).double(), h.domain.flatten(gradient(oracle, (x, y))))
    assert float(ggn(oracle, (x, y)).quadratic(v)) > 0
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(torch.random.get_rng_state(), state)
    for name, b in model.named_buffers():
        assert torch.equal(b, before[name])
    assert all(p.grad is None for p in model.parameters())


def test_dropout_in_the_loss_itself_is_the_same_in_every_product():
    torch.manual_seed(0)
    model = nn.Linear(4, 3).double()
    x, y = torch.randn(9, 4).double(), torch.randint(3, (9,))
    oracle = of_module(model, lambda z, t: F.cross_entropy(F.dropout(z, 0.5), t))
    h = hessian(oracle, [(x[:4], y[:4]), (x[4:], y[4:])])  # graphs are made anew each time
    v = torch.ones(h.shape[1], dtype=torch.float64)
    assert torch.equal(h @ v, h @ v)
