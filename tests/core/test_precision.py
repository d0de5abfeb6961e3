"""What state formats and rounding do to training and to memory, through the optimizer itself."""

import re
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

from fallline import Optimizer
from fallline.core import kernel
from fallline.methods import adam, adamw, sgd
from fallline.testing.harness import drive, parameters

ROOT = Path(__file__).parents[2]

# -- parameters in half precision ---------------------------------------------------------------------------------------

# Steps near 5e-4 at weights between 2 and 4, where half the spacing of bfloat16 is 7.8e-3.
DESCENTS = {
    "adamw": lambda: adamw(lr=5e-4, weight_decay=0.0),
    "sgd": lambda: sgd(lr=5e-5, momentum=0.9),
}


@cache
def descend(method, dtype, **running):
    """2,000 steps on half the squared distance from 1, gradients in the parameter's dtype: (start, end) in float64."""
    start = torch.linspace(2.5, 3.9, 256).bfloat16()
    p = nn.Parameter(start.to(dtype))
    optimizer = Optimizer([p], DESCENTS[method](), **running)
    for _ in range(2000):
        p.grad = p.detach() - 1
        optimizer.step()
    return start.double(), p.detach().double()


def strayed(method, rounding):
    """(distance from float32's end, progress), both as parts of the distance that float32 travelled."""
    start, whole = descend(method, torch.float32)
    _, end = descend(method, torch.bfloat16, rounding=rounding)
    travelled = float((whole - start).norm())
    assert travelled > 0.8 * len(start) ** 0.5
    return float((end - whole).norm()) / travelled, float((start - end).mean() / (start - whole).mean())


@pytest.mark.parametrize("method", DESCENTS)
def test_compensated_bfloat16_follows_float32(method):
    error, _ = strayed(method, "kahan")
    assert error < 0.01


@pytest.mark.parametrize("method", DESCENTS)
def test_rounded_to_nearest_it_stalls(method):
    _, progress = strayed(method, "nearest")
    assert progress < 0.1


@pytest.mark.parametrize("method", DESCENTS)
def test_stochastic_rounding_lies_between(method):
    error, progress = strayed(method, "stochastic")
    assert strayed(method, "kahan")[0] < error < strayed(method, "nearest")[0]
    assert abs(progress - 1) < 0.05  # right on average


# -- state --------------------------------------------------------------------------------------------------------------


def train_perceptron(state_format, steps=60):
    """The last training loss of a perceptron that learns another one; three weights of 4,096 elements or more."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 64, generator=generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        teacher, student = (nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64)) for _ in range(2))
    y = teacher(x).detach()
    optimizer = Optimizer(student, adam(lr=3e-3), state_format=state_format)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (student(x) - y).square().mean()
        loss.backward()
        optimizer.step()
    return float(loss.detach())


@pytest.mark.parametrize("state_format", ["bfloat16", "8bit"])
def test_compact_state_learns_as_fast(state_format):
    assert train_perceptron(state_format) == pytest.approx(train_perceptron("float32"), rel=0.05)


@pytest.mark.parametrize(("state_format", "most"), [("float32", 8.0), ("bfloat16", 4.01), ("8bit", 2.1)])
def test_bytes_of_adams_state(state_format, most):
    params = [nn.Parameter(torch.zeros(shape)) for shape in ((512, 256), (256, 512), (300, 300))]
    optimizer = Optimizer(params, adam(), state_format=state_format, fuse="eager")
    drive(optimizer, (1,))
    held = sum(v.numel() * v.element_size() for s in optimizer.state.values() for k, v in s.items() if k != "step")
    assert held / sum(p.numel() for p in params) <= most


def test_explain_names_the_formats():
    large, small = nn.Parameter(torch.zeros(128, 64)), nn.Parameter(torch.zeros(5))
    text = Optimizer([large, small], adam(), state_format="8bit").explain()
    for what in ("adam.m uint8", "adam.v.scale float32", "adam.m float32", "stream int64"):
        assert what in text
    half = [nn.Parameter(torch.zeros(128, 64, dtype=torch.bfloat16))]
    text = Optimizer(half, adam(), state_format="bfloat16").explain()
    assert "adam.m bfloat16" in text
    assert "compensation bfloat16" in text
    assert "state     6.001 bytes per parameter" in text


def test_the_table_of_bytes_is_the_codes():
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        import precision
    finally:
        sys.path.pop(0)
    text = (ROOT / "docs" / "precision.md").read_text()
    assert precision.filled(text) == text, "docs/precision.md is stale: run python tools/precision.py"


def test_blocks_of_8_bits_compile(monkeypatch):
    """Kernels are traced for long arrays, whose scales are fewer; a table of the wrong length would not broadcast."""
    monkeypatch.setattr(kernel, "_compile", lambda run, label, dynamic: run)
    monkeypatch.setattr(kernel, "_KERNELS", {})
    monkeypatch.setattr("fallline.core.execute.COMPILE_FROM", 0)
    traced, eager = (
        Optimizer(parameters(((64, 64),)), adam(lr=1e-2), state_format="8bit", fuse=f) for f in ("auto", "eager")
    )
    for optimizer in (traced, eager):
        drive(optimizer, range(1, 4))
    assert "compiled" in traced.explain()
    (p,), (q,) = (optimizer.param_groups[0]["params"] for optimizer in (traced, eager))
    assert torch.allclose(p, q, rtol=0, atol=1e-3)  # a tenth of lr: sums in another order flip a code


# -- gradients ----------------------------------------------------------------------------------------------------------


def stack(num_layers, width=32, dtype=torch.float64):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(*(nn.Linear(width, width, dtype=dtype) for _ in range(num_layers)))


@pytest.mark.parametrize("chain", [adamw(lr=1e-2), sgd(lr=1e-2, momentum=0.9)], ids=["adamw", "sgd"])
def test_several_backwards_equal_one_on_the_mean(chain):
    whole, parts = stack(2), stack(2)
    x = torch.randn(12, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    at_once, piecewise = Optimizer(whole, chain), Optimizer(parts, chain)
    for _ in range(10):
        at_once.zero_grad()
        whole(x).square().mean().backward()
        at_once.step()
        piecewise.zero_grad()
        for piece in x.chunk(3):
            (parts(piece).square().mean() / 3).backward()
        piecewise.step()
    for p, q in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.allclose(p, q, rtol=1e-9, atol=1e-12)


def peak_gradient_bytes(inside):
    """The most bytes of ``.grad`` that live at one time during the second backward of eight linear layers."""
    model = stack(8, dtype=torch.float32)
    params, peaks = list(model.parameters()), []

    def count(_):
        peaks.append(sum(p.grad.numel() * p.grad.element_size() for p in params if p.grad is not None))

    for p in params:
        p.register_post_accumulate_grad_hook(count)  # runs before the step, which frees the gradient
    optimizer = Optimizer(model, adamw())
    if inside:
        optimizer.step_in_backward()
    x = torch.randn(4, 32, generator=torch.Generator().manual_seed(1))
    for _ in range(2):
        model(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return max(peaks[len(params) :])


def test_stepping_inside_backward_never_holds_all_gradients():
    weight, bias = 4 * 32 * 32, 4 * 32
    assert peak_gradient_bytes(inside=False) == 8 * (weight + bias)
    assert peak_gradient_bytes(inside=True) <= weight + bias


def test_every_test_that_the_page_names_exists():
    text = (ROOT / "docs" / "precision.md").read_text()
    source = Path(__file__).read_text() + Path(__file__).with_name("test_precision_studies.py").read_text()
    named = re.findall(r"`(test_\w+)`", text)
    assert named
    assert not [name for name in named if f"def {name}" not in source]
