"""Protocol: closures, hooks, loss scaling, stepping inside backward, and how compiled layouts behave."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fallline.core.execute import UNCOMPILED
from fallline.core.gradients import Search
from fallline.core.method import Method
from fallline.core.transform import chain
from fallline.core.types import Reach
from fallline.testing import harness
from fallline.testing.check import contract
from fallline.testing.harness import (
    LAYOUTS,
    SHAPES,
    build,
    drive,
    gradients,
    nothing_changes,
    parameters,
    same,
    snapshot,
    tuned,
)
from fallline.transforms import clip_by_global_norm

_LEAF_SHAPES = ((9, 5), (8,), (4, 3))
_OTHERS = tuple(layout for layout in LAYOUTS if layout != "eager")
_COMPILED = tuple(layout for layout in LAYOUTS if layout not in UNCOMPILED)


# -- closures and hooks -------------------------------------------------------------------------------------------------


@contract(28, 29)
def closure_runs_once(method: Method) -> None:
    """A closure runs once, and once for every gradient elsewhere, with gradients enabled; its loss is returned; hooks run
    once and in order."""
    params = parameters(((3,),))
    optimizer = build(method, params)
    calls: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))

    def closure() -> Tensor:
        calls.append("closure")
        optimizer.zero_grad()
        loss = (params[0] ** 2).sum()
        loss.backward()
        return loss

    expected = float((params[0].detach() ** 2).sum())
    with torch.no_grad():  # as trainers call it
        loss = optimizer.step(closure)
    requests = [(step, r) for step in method().steps for r in step.gradients.values()]
    asked = sum(
        getattr(r, "calls", 1) * (r.needs != "parts" and (isinstance(r, Search) or r.due(step, 1)))
        for step, r in requests
    )
    assert calls[0] == "before", f"the order was {calls}"
    assert calls[-1] == "after", f"the order was {calls}"
    assert set(calls[1:-1]) == {"closure"}, f"the order was {calls}"
    assert len(calls) == 3 + asked or any(isinstance(r, Search) for _, r in requests), f"the order was {calls}"
    assert float(loss.detach()) == expected, "the returned loss is not the closure's"


@contract(29)
def checkpoint_hooks_run_once(method: Method) -> None:
    """Hooks around state_dict and load_state_dict run once, in order, and what they return is used."""
    optimizer = build(method, parameters())
    drive(optimizer, (1,))
    calls: list[str] = []

    def stamped(_: Any, state: dict[str, Any]) -> dict[str, Any]:
        calls.append("saved")
        return {**state, "stamp": 1}

    def read(_: Any, state: dict[str, Any]) -> dict[str, Any]:
        calls.append("loading")
        assert state["stamp"] == 1
        return {k: v for k, v in state.items() if k != "stamp"}

    optimizer.register_state_dict_pre_hook(lambda _: calls.append("saving"))
    optimizer.register_state_dict_post_hook(stamped)
    optimizer.register_load_state_dict_pre_hook(read)
    optimizer.register_load_state_dict_post_hook(lambda _: calls.append("loaded"))
    saved = optimizer.state_dict()
    assert saved.get("stamp") == 1, "what a state_dict hook returned was dropped"
    optimizer.load_state_dict(saved)
    assert calls == ["saving", "saved", "loading", "loaded"], f"the order was {calls}"


@contract()
def explain_names_what_runs(method: Method) -> None:
    """``optimizer.explain()`` is a text that names the method."""
    text = build(method, parameters()).explain()  # type: ignore[attr-defined, unused-ignore]
    assert isinstance(text, str), f"explain() returned a {type(text).__name__}"
    assert method.name in text, f"explain() does not name {method.name}"


@contract(32)
def grad_scaler_skips(method: Method) -> None:
    """A step that GradScaler finds infinite is skipped and ages nothing; the scaled run equals an unscaled one."""
    scaled, plain = parameters(((4, 3), (5,))), parameters(((4, 3), (5,)))
    optimizer, alone = build(method, scaled), build(method, plain)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)  # type: ignore[attr-defined, unused-ignore]
    for t in range(1, 5):
        for p, g in zip(scaled, gradients(scaled, t), strict=True):
            p.grad = g * scaler.scale(torch.ones(()))
        if t == 3:
            assert scaled[1].grad is not None
            scaled[1].grad[0] = torch.inf
            with nothing_changes(optimizer, "a step that GradScaler skips"):
                scaler.step(optimizer)
        else:
            scaler.step(optimizer)
            drive(alone, (t,))
        scaler.update()
    assert same(snapshot(optimizer), snapshot(alone)), "a run under GradScaler differs from one without"


@contract(33, scope="each")
def step_in_backward_equals_step_after(method: Method) -> None:
    """Stepping each parameter inside backward equals stepping after it, frees gradients, and refuses GROUP steps."""

    def loss(params: list[nn.Parameter]) -> Tensor:
        x = torch.linspace(-1, 1, 8, dtype=torch.float64).reshape(2, 4)
        return ((x @ params[0] + params[1]).tanh() @ params[2]).square().sum()

    shapes = ((4, 3), (3,), (3, 2))
    inside, after = parameters(shapes, torch.float64), parameters(shapes, torch.float64)
    coupled = harness.Optimizer(parameters(shapes), chain(clip_by_global_norm(1.0), tuned(method)))
    try:
        coupled.step_in_backward()  # type: ignore[attr-defined, unused-ignore]
    except ValueError:
        pass
    else:
        raise AssertionError("a chain with a GROUP step, which needs all gradients, was accepted")
    if method().needs:
        try:
            build(method, parameters(shapes)).step_in_backward()
        except ValueError:
            return
        raise AssertionError(f"a chain that needs {', '.join(method().needs)} was accepted")
    if method.reach == Reach.GROUP:
        return
    optimizer, alone = build(method, inside), build(method, after)
    optimizer.step_in_backward()  # type: ignore[attr-defined, unused-ignore]
    for _ in range(4):
        loss(inside).backward()
        assert all(p.grad is None for p in inside), "a gradient was kept after its step inside backward"
        loss(after).backward()
        alone.step()
        alone.zero_grad()
    assert not same([p.detach() for p in inside], [p.detach() for p in parameters(shapes, torch.float64)]), "no step"
    assert same(snapshot(optimizer), snapshot(alone)), "stepping inside backward differs from stepping after it"


@contract(30)
def nothing_is_read_back(method: Method) -> None:
    """A step reads no values back to Python: it runs on the meta device, where tensors have none."""
    for dtype in (torch.float32, torch.bfloat16):
        params = [nn.Parameter(torch.empty(shape, dtype=dtype, device="meta")) for shape in SHAPES]
        optimizer = build(method, params, fuse="eager")
        for _ in range(3):
            for p in params:
                p.grad = torch.empty_like(p)
            try:
                optimizer.step()
            except (RuntimeError, NotImplementedError) as error:
                raise AssertionError(f"a step in {dtype} needs values: {error}") from error


# -- layouts ------------------------------------------------------------------------------------------------------------


@contract(31, scope="layouts")
def compiled_equals_eager(method: Method) -> None:
    """Every other layout takes the same steps as the eager reference, to 1e-12 in float64 and 1e-5 in float32."""
    for layout in _OTHERS:
        for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
            compiled, eager = (build(method, parameters(_LEAF_SHAPES, dtype), fuse=f) for f in (layout, "eager"))
            for optimizer in (compiled, eager):
                drive(optimizer, range(1, 8))
            found, wanted = _numbers_together(compiled), _numbers_together(eager)
            assert same(found, wanted, tolerance), f"{layout} differs from eager in {dtype}"


def _numbers_together(optimizer: harness.Optimizer) -> list[Tensor]:
    """A snapshot in which slots of one number are stacked over the tensors: a sum that cancels on one of them has no digits of
    its own to be right in."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    state = [(k, v.detach().clone()) for p in params for k, v in sorted(optimizer.state[p].items())]
    single = [key for key in dict(state) if all(v.dim() == 0 for k, v in state if k == key)]
    stacks = [torch.stack([v for k, v in state if k == key]) for key in single]
    return [*(p.detach().clone() for p in params), *(v for k, v in state if k not in single), *stacks]


@contract(31, scope="layouts")
def hyperparameters_never_recompile(method: Method) -> None:
    """After the first compiled steps, moving any hyperparameter, or a new length, compiles nothing."""
    shapes = ((9, 5), (11,)) if method.reach <= Reach.TENSOR else ((9, 5),)
    ranges = {n: method.space[n].at(0.3) if n in method.space else 0.01 for n in method.hypers}
    # zero may mean "leave the step out", which is structure: start from values that are not zero
    values: dict[str, Any] = {n: v or ranges[n] for n, v in tuned(method).hypers.items()}
    for layout in _COMPILED:
        optimizer = build(method, parameters(shapes), fuse=layout, **values)
        drive(optimizer, range(1, 4))
        group = optimizer.param_groups[0]
        with torch.compiler.set_stance("fail_on_recompile"):
            for name in values:
                group[name] = group[name] * 0.9
                drive(optimizer, (4, 5))
            if method.reach <= Reach.TENSOR:
                drive(build(method, parameters(((13, 3),)), fuse=layout, **values), (1, 2))


@contract(31, scope="layouts")
def steps_compile_without_graph_breaks(method: Method) -> None:
    """Compiling a step breaks no graph."""
    from torch._dynamo.utils import counters

    for layout in _COMPILED:
        before = sum(counters["graph_break"].values())
        drive(build(method, parameters(_LEAF_SHAPES), fuse=layout), (1, 2))
        breaks = sum(counters["graph_break"].values()) - before
        assert breaks == 0, f"{layout} has {breaks} graph breaks: {list(counters['graph_break'])[-1]}"
