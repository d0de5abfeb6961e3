"""Layouts: what people do to models and optimizers between two steps does not depend on where state lies in memory."""

import copy
import io

import pytest
import torch
from torch import nn

import fallline
from fallline import METHODS, chain
from fallline.core import kernel, units
from fallline.core.guard import Guard
from fallline.methods import adamw, lamb, nadam
from fallline.testing.harness import drive, gradients, parameters, same, snapshot
from fallline.transforms import clip_by_global_norm

SHAPES = ((4, 3), (4, 3), (3,), (), (5, 2), (3,))
CHAINS = {
    "element": lambda: adamw(0.05),
    "element with numbers": lambda: nadam(0.05),
    "tensor": lambda: lamb(0.05),
    "group": lambda: chain(clip_by_global_norm(0.5), adamw(0.05)),
}


def pair(make, shapes=SHAPES, dtype=torch.float64, **options):
    """The same run, once with small tensors together and once tensor by tensor."""
    return [fallline.Optimizer(parameters(shapes, dtype), make(), fuse=f, **options) for f in ("auto", "eager")]


def params(optimizer):
    return optimizer.param_groups[0]["params"]


@pytest.fixture(params=CHAINS, ids=str)
def make(request):
    return CHAINS[request.param]


def agree(together, apart, tolerance=1e-13):
    return same(snapshot(together), snapshot(apart), tolerance)


def test_small_tensors_share_buffers_and_step_as_they_would_alone(make):
    together, apart = pair(make)
    for o in (together, apart):
        drive(o, range(1, 6))
    slots = [s for p in params(together) if p.dim() == 2 for k, s in together.state[p].items() if k != "step"]
    assert len({s.untyped_storage().data_ptr() for s in slots if s.dim() == 2}) == 2  # m and v
    assert agree(together, apart)


def test_gradients_may_come_and_go(make):
    together, apart = pair(make)
    for t, absent in enumerate([(), (1,), (1, 4), (), (0, 1, 2, 3, 4, 5), (0,), ()], start=1):
        for o in (together, apart):
            for i, (p, g) in enumerate(zip(params(o), gradients(params(o), t), strict=True)):
                p.grad = None if i in absent else g
            o.step()
        assert agree(together, apart), f"after step {t}"
    assert [int(together.state[p]["step"]) for p in params(together)] == [5, 4, 6, 6, 5, 6]


def test_a_slot_that_is_replaced_by_hand_is_noticed():
    together, apart = pair(CHAINS["element"])
    for o in (together, apart):
        drive(o, (1, 2))
        o.state[params(o)[0]]["adam.m"] = torch.ones(4, 3, dtype=torch.float64)
        drive(o, (3,))
    assert agree(together, apart)


def test_a_state_that_is_replaced_whole_is_noticed():
    together, apart = pair(CHAINS["element"])
    for o in (together, apart):
        drive(o, (1, 2))
        p = params(o)[1]
        o.state[p] = {k: v.clone() * 2 if k == "adam.v" else v.clone() for k, v in o.state[p].items()}
        drive(o, (3,))
    assert agree(together, apart)


def test_parameters_may_be_written_and_moved_between_steps(make):
    together, apart = pair(make)
    for o in (together, apart):
        drive(o, (1,))
        p = params(o)
        p[0].data.clamp_(-0.1, 0.1)  # in place
        p[1].data = p[1].data.clone() + 1  # in new memory
        drive(o, (2, 3))
    assert agree(together, apart)


def test_a_model_may_change_its_dtype_after_construction():
    model = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3), nn.Linear(3, 2))
    optimizer = fallline.Optimizer(model, adamw(0.05))
    for dtype in (torch.float32, torch.bfloat16):
        model.to(dtype)
        loss = model(torch.ones(5, 4, dtype=dtype)).float().square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(p.dtype == torch.bfloat16 and p.isfinite().all() for p in model.parameters())
    assert all(
        v.dtype == torch.float32 for p in model.parameters() for k, v in optimizer.state[p].items() if "adam" in k
    )


def test_copies_share_nothing_and_files_hold_no_more_than_the_state(make):
    together, _ = pair(make)
    drive(together, range(1, 4))
    twin = copy.deepcopy(together)
    drive(together, (4,))
    drive(twin, (4,))
    assert agree(together, twin)
    file = io.BytesIO()
    torch.save(together.state_dict(), file)
    held = sum(v.numel() * v.element_size() for s in together.state.values() for v in s.values())
    assert file.tell() < 2 * held + 40_000  # the rest is names


def test_a_model_is_saved_as_if_nothing_had_touched_it(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    model = nn.Sequential(*[nn.Linear(8, 8) for _ in range(6)])
    before = io.BytesIO()
    torch.save(model.state_dict(), before)
    optimizer = fallline.Optimizer(model, adamw(0.05))
    model(torch.ones(2, 8)).sum().backward()
    optimizer.step()
    after = io.BytesIO()
    torch.save(model.state_dict(), after)
    assert after.tell() == before.tell()
    safetensors.save_file(model.state_dict(), tmp_path / "model.safetensors")
    one = io.BytesIO()
    torch.save(model[0].bias, one)
    assert one.tell() < 3000  # a bias does not drag the others along


def test_a_tensor_of_odd_memory_steps_alone():
    base = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    odd, plain = nn.Parameter(base[:, ::2]), nn.Parameter(base[:, ::2].clone())
    for p in (odd, plain):
        o = fallline.Optimizer([p, nn.Parameter(torch.ones(3))], adamw(0.05))
        for t in (1, 2):
            p.grad = gradients([torch.empty(6, 3)], t)[0]
            o.step()
    assert torch.allclose(odd, plain, rtol=1e-6)


def test_arenas_end_at_their_size_and_keep_the_order_of_parameters(monkeypatch):
    monkeypatch.setattr(units, "ARENA_SIZE", 20)
    together, apart = pair(CHAINS["tensor"])
    for o in (together, apart):
        drive(o, range(1, 4))
    assert agree(together, apart)
    assert "small ones with" in together.explain()


def test_explain_says_how_a_group_is_run():
    optimizer = fallline.Optimizer(parameters(SHAPES, torch.bfloat16), adamw(0.05), state_format="bfloat16")
    text = optimizer.explain()
    for part in (
        "adamw(lr=0.05",
        "tensors   6 with 41 elements",
        "eagerly",
        "compensation bfloat16",
        "adam.m bfloat16",
    ):
        assert part in text, text


def test_without_a_compiler_everything_runs_and_says_so_once(monkeypatch):
    monkeypatch.setattr(kernel, "compiler_available", lambda device="cpu": False)
    kernel.usable.cache_clear()
    monkeypatch.setattr("fallline.core.execute.COMPILE_FROM", 10)
    try:
        together = fallline.Optimizer(parameters(SHAPES, torch.float64), adamw(0.05))
        with pytest.warns(UserWarning, match=r"No C\+\+ compiler found: optimizer steps run eagerly") as seen:
            drive(together, range(1, 4))
        assert len(seen) == 1
        apart = fallline.Optimizer(parameters(SHAPES, torch.float64), adamw(0.05), fuse="eager")
        drive(apart, range(1, 4))
        assert agree(together, apart)
    finally:
        kernel.usable.cache_clear()


def test_eager_blocks_are_the_whole(monkeypatch):
    monkeypatch.setattr("fallline.core.execute.EAGER_BLOCK", 5)
    for make in (CHAINS["element"], CHAINS["element with numbers"]):
        together, apart = pair(make, ((17,), (9,)))
        for o in (together, apart):
            drive(o, range(1, 4))
        assert agree(together, apart)


def test_a_flag_on_the_device_holds_back_what_a_number_would(monkeypatch, make):
    """Elsewhere than on the CPU the guard's decision is never read; the same code, run here."""
    flagged, read = pair(make)
    with monkeypatch.context() as patch:
        patch.setattr(Guard, "look", Guard._look_without_reading)
        _poisoned(flagged)
        assert flagged.num_skipped == 1
    _poisoned(read)
    assert agree(flagged, read)


def _poisoned(optimizer):
    for t in range(1, 6):
        for i, (p, g) in enumerate(zip(params(optimizer), gradients(params(optimizer), t), strict=True)):
            p.grad = torch.full_like(g, torch.nan) if (t, i) == (3, 4) else g
        optimizer.step()


@pytest.mark.skipif(not kernel.compiler_available(), reason="no C++ compiler on this machine")
@pytest.mark.parametrize("name", ["adamw", "radam", "nadam"])
def test_arithmetic_on_numbers_is_no_part_of_the_kernel(name, monkeypatch):
    bodies = []
    split = kernel._split

    def watched(*args):
        bodies.append(split(*args))
        return bodies[-1]

    monkeypatch.setattr(kernel, "_KERNELS", {})
    monkeypatch.setattr(kernel, "_split", watched)
    drive(fallline.Optimizer(parameters(((8, 8),)), METHODS[name](), fuse="leaf"), (1,))
    ops = {str(n.target) for _, body, *_ in bodies for n in body.graph.nodes if n.op == "call_function"}
    assert ops
    assert not {op for op in ops if "pow" in op or "lerp" in op}, ops
