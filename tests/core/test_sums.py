"""Steps of reach GROUP that need several sums, slots that take what came in, numbers that differ between tensors or are equal."""

import pytest
import torch

from fallline import METHODS, Optimizer, Reach, Transform, chain, transform
from fallline.core.execute import compiler_available
from fallline.core.transform import scalars, zeros
from fallline.testing.harness import LAYOUTS, drive, gradients, parameters
from fallline.transforms import clip_by_global_norm, clip_by_value, descend

SHAPES = ((4, 3), (5,), (9, 5), (9, 5), ())
layouts = pytest.mark.parametrize(
    "layout",
    [
        pytest.param(
            x, marks=[] if x == "eager" or compiler_available() else pytest.mark.skip(reason="no C++ compiler")
        )
        for x in LAYOUTS
    ],
)


@transform
class Lengths(Transform):
    """u scaled by a ratio of two sums over all tensors; each tensor keeps its own length and the last parameter and update."""

    slots = {**zeros("last", "went"), **scalars("own")}
    reach = Reach.GROUP

    def measure(self, u, at, *, last, own, **rest):
        return torch.stack([(at.p - last).square().sum(), u.square().sum() + own])

    def update(self, u, at, *, own, **rest):
        moved, length = at.totals
        return u * (moved / length).sqrt(), {"last": at.p, "went": u, "own": own + u.square().sum()}


def by_hand(steps):
    params = [p.detach() for p in parameters(SHAPES, torch.float64)]
    before, own = [torch.zeros_like(p) for p in params], [0.0] * len(params)
    for t in range(1, steps + 1):
        updates = [g.clamp(-0.9, 0.9) for g in gradients(params, t)]
        moved = sum((p - b).square().sum() for p, b in zip(params, before, strict=True))
        length = sum(u.square().sum() + o for u, o in zip(updates, own, strict=True))
        before, own = params, [o + u.square().sum() for u, o in zip(updates, own, strict=True)]
        params = [p - 0.1 * (moved / length).sqrt() * u for p, u in zip(params, updates, strict=True)]
    return params, before, own


@layouts
def test_several_sums_and_slots_that_take_what_came_in(layout):
    params = parameters(SHAPES, torch.float64)
    optimizer = Optimizer(params, chain(clip_by_value(0.9), Lengths(), descend(0.1)), fuse=layout)
    drive(optimizer, range(1, 6))
    for p, wanted, before, own in zip(params, *by_hand(5), strict=True):
        assert torch.allclose(p, wanted, rtol=1e-12)
        assert torch.allclose(optimizer.state[p]["lengths.last"], before, rtol=1e-12)
        assert torch.allclose(optimizer.state[p]["lengths.own"], torch.as_tensor(own, dtype=torch.float64), rtol=1e-12)


@layouts
def test_sums_see_half_precision_parameters_as_steps_do(layout):
    params = parameters(SHAPES, torch.bfloat16)
    optimizer = Optimizer(params, chain(Lengths(), clip_by_global_norm(1.0), descend(1e-3)), fuse=layout)
    drive(optimizer, range(1, 6))
    for p in params:
        assert torch.isfinite(p).all()
        assert optimizer.state[p]["lengths.own"].dtype == torch.float32


@pytest.mark.skipif(not compiler_available(), reason="no C++ compiler")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_hyperparameter_that_equals_the_first_step_is_not_taken_for_it(dtype):
    ends = []
    for layout in ("leaf", "eager"):
        params = parameters(((9, 5),), dtype)
        drive(Optimizer(params, METHODS["adam"](lr=1.0), fuse=layout), range(1, 4))
        ends.append(params[0].detach())
    assert torch.allclose(*ends, rtol=1e-5)
