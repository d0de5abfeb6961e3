"""The contracts. Each takes a method and raises AssertionError, with numbers, where the method breaks the promise."""

from __future__ import annotations

import copy
import io
import math
import pickle
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from fallline.core.method import Method
from fallline.core.optimizer import Optimizer
from fallline.core.transform import named_steps
from fallline.core.types import Reach
from fallline.testing.check import contract
from fallline.testing.harness import SHAPES, build, drive, gradients, lr_of, parameters, same, snapshot, tuned

_LEAF_SHAPES = ((9, 5), (8,), (4, 3))


# -- numerics -----------------------------------------------------------------------------------------------------------


@contract
def converges(method: Method) -> None:
    """On a quadratic of condition number 10 the best of five learning rates of its space cuts the loss by 100."""
    curvature = torch.logspace(0, 1, 20)
    best = math.inf
    for u in (0.2, 0.4, 0.6, 0.8, 1.0):
        p = nn.Parameter(torch.linspace(-1, 1, 20))
        lr = method.space["lr"].at(u)
        optimizer = build(method, [p], lr=lr)
        start = float((curvature * p.detach() ** 2).sum())
        for t in range(400):
            optimizer.param_groups[0]["lr"] = lr * (1 - t / 400)
            p.grad = 2 * curvature * p.detach()
            optimizer.step()
        best = min(best, float((curvature * p.detach() ** 2).sum()) / start)
    assert best < 1e-2, f"the loss fell to {best:.3g} of its start at best, expected below 0.01"


@contract
def zero_gradients_move_nothing(method: Method) -> None:
    """Zero gradients from the start, without weight decay, leave parameters bitwise unchanged."""
    off: dict[str, Any] = {"weight_decay": 0.0} if "weight_decay" in method.hypers else {}
    optimizer = build(method, parameters(), **off)
    before = snapshot(optimizer)[: len(SHAPES)]
    drive(optimizer, range(1, 6), flip=0.0)
    assert same(before, snapshot(optimizer)[: len(SHAPES)]), "parameters moved on zero gradients"


@contract
def lr_zero_moves_nothing(method: Method) -> None:
    """With lr = 0 nothing moves, weight decay included."""
    decay: dict[str, Any] = {"weight_decay": 0.1} if "weight_decay" in method.hypers else {}
    optimizer = build(method, parameters(), lr=0.0, **decay)
    before = snapshot(optimizer)[: len(SHAPES)]
    drive(optimizer, range(1, 6))
    assert same(before, snapshot(optimizer)[: len(SHAPES)]), "parameters moved at lr = 0"


@contract
def maximize_is_descent_on_minus_g(method: Method) -> None:
    """maximize on g equals minimising on -g, bitwise."""
    up, down = build(method, parameters(), maximize=True), build(method, parameters())
    drive(up, range(1, 6))
    drive(down, range(1, 6), flip=-1.0)
    assert same(snapshot(up), snapshot(down)), "maximize(g) differs from minimise(-g)"


@contract
def half_precision_keeps_float32_state(method: Method) -> None:
    """bfloat16 parameters keep float32 state, also through a checkpoint, and float16 stays finite."""
    for dtype in (torch.bfloat16, torch.float16):
        optimizer = build(method, parameters(dtype=dtype))
        drive(optimizer, range(1, 4))
        loaded = build(method, parameters(dtype=dtype))
        loaded.load_state_dict(optimizer.state_dict())
        for held in (optimizer, loaded):
            for p, state in held.state.items():
                kinds = {k: v.dtype for k, v in state.items() if v.is_floating_point()}
                assert all(k == torch.float32 for k in kinds.values()), f"state of a {dtype} parameter: {kinds}"
                assert p.dtype == dtype
                assert torch.isfinite(p).all(), f"a {dtype} parameter became non-finite"


@contract
def mixed_dtypes_equal_separate_runs(method: Method) -> None:
    """float32, bfloat16 and float64 parameters in one group step as they would alone."""
    if method.reach == Reach.GROUP:
        return  # a sum over all tensors is meant to couple them
    dtypes = (torch.float32, torch.bfloat16, torch.float64)
    together = [parameters(((4, 3),), d)[0] for d in dtypes]
    _step_fixed(build(method, together), together)
    for p, d in zip(together, dtypes, strict=True):
        alone = parameters(((4, 3),), d)
        _step_fixed(build(method, alone), alone)
        assert same([p.detach()], [alone[0].detach()]), f"{d} differs when it shares a group"


def _step_fixed(optimizer: Optimizer, params: list[nn.Parameter]) -> None:
    for t in range(1, 4):
        for p in params:
            p.grad = gradients([p], t)[0]
        optimizer.step()


# -- reach --------------------------------------------------------------------------------------------------------------


@contract
def reach_is_honest(method: Method) -> None:
    """ELEMENT commutes with slicing, TENSOR with reshaping and reordering of the elements."""
    reach = method.reach
    whole = parameters(((6, 8),), torch.float64)[0]
    grads = [gradients([whole], t)[0] for t in range(1, 5)]
    moved = _run(method, [whole], [[g] for g in grads])[0]
    if reach == Reach.ELEMENT:
        parts = [nn.Parameter(x.clone()) for x in torch.split(parameters(((6, 8),), torch.float64)[0].detach(), 2)]
        pieces = _run(method, parts, [list(torch.split(g, 2)) for g in grads])
        assert same([torch.cat(pieces)], [moved], 1e-14), "a slice steps differently from the whole"
    if reach <= Reach.TENSOR:
        order = torch.arange(47, -1, -1)
        bent = nn.Parameter(parameters(((6, 8),), torch.float64)[0].detach().flatten()[order].reshape(4, 12))
        other = _run(method, [bent], [[g.flatten()[order].reshape(4, 12)] for g in grads])[0]
        assert same([other.flatten()[order].reshape(6, 8)], [moved], 1e-13), "the shape or order of elements matters"


def _run(method: Method, params: list[nn.Parameter], grads: list[list[Tensor]]) -> list[Tensor]:
    optimizer = build(method, params)
    for step in grads:
        for p, g in zip(params, step, strict=True):
            p.grad = g.clone()
        optimizer.step()
    return [p.detach() for p in params]


# -- state --------------------------------------------------------------------------------------------------------------


def _through_disk(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


@contract
def resume_is_bitwise(method: Method) -> None:
    """Saved by torch.save, loaded with weights_only=True, a run continues bit for bit, in float32 and bfloat16."""
    for dtype in (torch.float32, torch.bfloat16):
        straight = build(method, parameters(dtype=dtype))
        drive(straight, range(1, 9))
        first = build(method, parameters(dtype=dtype))
        drive(first, range(1, 5))
        saved = _through_disk(first.state_dict())
        kept = [p.detach().clone() for p in first.param_groups[0]["params"]]
        resumed = build(method, [nn.Parameter(p) for p in kept])
        resumed.load_state_dict(saved)
        drive(resumed, range(5, 9))
        assert same(snapshot(straight), snapshot(resumed)), f"a resumed {dtype} run differs from a straight one"


@contract
def copies_continue_bitwise(method: Method) -> None:
    """deepcopy and pickle continue bit for bit and share nothing with the original."""
    straight = build(method, parameters())
    drive(straight, range(1, 4))
    twins = [copy.deepcopy(straight), pickle.loads(pickle.dumps(straight))]
    drive(straight, range(4, 7))
    for twin in twins:
        drive(twin, range(4, 7))
        assert same(snapshot(straight), snapshot(twin)), "a copy continues differently"


@contract
def loading_copies_and_validates(method: Method) -> None:
    """Loading copies; a checkpoint of another shape or method is refused and changes nothing."""
    source, target = build(method, parameters()), build(method, parameters())
    drive(source, range(1, 4))
    saved = source.state_dict()
    target.load_state_dict(saved)
    before = snapshot(target)
    drive(source, range(4, 6))
    assert same(before, snapshot(target)), "state is shared with the checkpoint it was loaded from"
    foreign = build(method, parameters(((3, 3), *SHAPES[1:])))
    drive(foreign, range(1, 3))
    renamed = copy.deepcopy(saved)
    renamed["param_groups"][0]["method"] = "another"
    for bad in (renamed, {"state": {}}, *([foreign.state_dict()] if method.state_bytes() else [])):
        try:
            target.load_state_dict(bad)
        except ValueError:
            pass
        else:
            raise AssertionError("a checkpoint that does not fit was loaded")
        assert same(before, snapshot(target)), "a refused checkpoint changed the optimizer"


@contract
def state_is_as_declared(method: Method) -> None:
    """The state holds the declared slots, in the card's number of bytes per parameter."""
    p = parameters(((256, 256),))
    optimizer = build(method, p)
    slots = {f"{key}.{s}" for key, step in named_steps(tuned(method).steps) for s in step.slots}
    state = optimizer.state[p[0]]
    assert set(state) == {"step"} | slots, f"slots {sorted(state)} differ from the declared {sorted(slots)}"
    measured = sum(v.numel() * v.element_size() for k, v in state.items() if k != "step") / p[0].numel()
    assert abs(measured - method.state_bytes()) < 1e-9, f"{measured} bytes a parameter, declared {method.state_bytes()}"


# -- structure ----------------------------------------------------------------------------------------------------------


@contract
def missing_gradients_are_skipped(method: Method) -> None:
    """A parameter without gradient stays and does not age; its first gradient later is its first step."""
    params = parameters(((4, 3), (5,)), torch.float64)
    optimizer = build(method, params)
    start = params[1].detach().clone()
    for t in (1, 2):
        params[0].grad, params[1].grad = gradients(params, t)[0], None
        optimizer.step()
    assert torch.equal(start, params[1]), "a parameter without gradient moved"
    params[0].grad, params[1].grad = None, gradients(params, 3)[1]
    optimizer.step()
    if method.reach == Reach.GROUP:
        return
    fresh = [nn.Parameter(start.clone())]
    late = build(method, fresh)
    fresh[0].grad = gradients(params, 3)[1]
    late.step()
    assert same([params[1].detach()], [fresh[0].detach()]), "a late first gradient is not a first step"


@contract
def any_shape_steps(method: Method) -> None:
    """0-dim, one-element, empty and transposed parameters step; strides stay; values are those of a contiguous twin."""
    base = parameters(((6, 4), (), (1,), (0,), (2, 3, 4, 4)))
    odd = [
        nn.Parameter(base[0].detach().clone().t()),
        *(nn.Parameter(p.detach().clone()) for p in base[1:4]),
        nn.Parameter(base[4].detach().clone().contiguous(memory_format=torch.channels_last)),
    ]
    strides = [p.stride() for p in odd]
    plain = [nn.Parameter(p.detach().clone(memory_format=torch.contiguous_format)) for p in odd]
    for params in (odd, plain):
        drive(build(method, params), range(1, 4))
    assert [p.stride() for p in odd] == strides, "strides changed"
    assert same([p.detach() for p in odd], [p.detach() for p in plain], 1e-6), "memory layout changes the values"


@contract
def tied_parameters_step_once(method: Method) -> None:
    """A parameter that a model uses twice steps once."""
    first, second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
    first.weight = second.weight = parameters(((4, 4),))[0]
    single = parameters(((4, 4),))[0]
    tied, alone = build(method, nn.Sequential(first, second)), build(method, [single])
    first.weight.grad, single.grad = gradients([single], 1)[0], gradients([single], 1)[0]
    tied.step()
    alone.step()
    assert same([second.weight.detach()], [single.detach()]), "a tied parameter did not step exactly once"


@contract
def gradients_and_randomness_are_untouched(method: Method) -> None:
    """``.grad`` is not changed, the global random state is not consumed, parameters stay leaves without a graph."""
    params = parameters()
    optimizer = build(method, params)
    kept = gradients(params, 1)
    for p, g in zip(params, kept, strict=True):
        p.grad = g.clone()
    random = torch.get_rng_state()
    optimizer.step()
    assert torch.equal(random, torch.get_rng_state()), "global random state was consumed"
    for p, g in zip(params, kept, strict=True):
        assert p.grad is not None
        assert torch.equal(p.grad, g), "a gradient was changed"
        assert p.is_leaf
        assert p.requires_grad
    assert not any(v.requires_grad for s in optimizer.state.values() for v in s.values()), "state keeps a graph"


@contract
def two_groups_equal_two_optimizers(method: Method) -> None:
    """Two groups with their own learning rates step as two optimizers would."""
    if method.reach == Reach.GROUP:
        return  # a sum over all tensors is meant to couple them
    lr = lr_of(method)
    a, b = parameters(((4, 3), (5,)), torch.float64), parameters(((4, 3), (5,)), torch.float64)
    joint = build(method, [{"params": [a[0]]}, {"params": [a[1]], "lr": lr / 3}])
    ones = [build(method, [b[0]]), build(method, [b[1]], lr=lr / 3)]
    for t in range(1, 5):
        for params in (a, b):
            for p, g in zip(params, gradients(params, t), strict=True):
                p.grad = g
        for optimizer in (joint, *ones):
            optimizer.step()
    assert same([p.detach() for p in a], [p.detach() for p in b]), "groups influence one another"


@contract
def late_group_is_fresh(method: Method) -> None:
    """A parameter group added while training starts at step 1 and leaves the others alone."""
    if method.reach == Reach.GROUP:
        return  # a sum over all tensors is meant to couple them
    params = parameters(((4, 3), (5,)), torch.float64)
    optimizer = build(method, [params[0]])
    drive(optimizer, range(1, 4))
    optimizer.add_param_group({"params": [params[1]]})
    fresh = [nn.Parameter(params[1].detach().clone())]
    alone = build(method, fresh)
    for t in (1, 2):
        params[0].grad, params[1].grad = gradients(params, t)
        fresh[0].grad = gradients(params, t)[1]
        optimizer.step()
        alone.step()
    assert same([params[1].detach()], [fresh[0].detach()]), "a late group does not start afresh"


# -- hyperparameters ----------------------------------------------------------------------------------------------------


@contract
def bad_hyperparameters_are_refused(method: Method) -> None:
    """Negative, NaN, infinite and unknown hyperparameters are refused at every way in, and nothing changes."""
    optimizer = build(method, parameters())
    drive(optimizer, range(1, 3))
    before = snapshot(optimizer)
    good = optimizer.param_groups[0]["lr"]
    for bad in (-1.0, math.nan, math.inf, "1e-3", True):
        _refused(lambda bad=bad: method(lr=bad), f"{method.name}(lr={bad!r})")
        _refused(lambda bad=bad: build(method, [{"params": parameters(), "lr": bad}]), f"a group with lr={bad!r}")
        late = {"params": parameters(((2,),)), "lr": bad}
        _refused(lambda late=late: optimizer.add_param_group(late), f"a late group with lr={bad!r}")
        optimizer.param_groups[0]["lr"] = bad
        _refused(optimizer.step, f"a hand edit to lr={bad!r}")
        optimizer.param_groups[0]["lr"] = good
        saved = optimizer.state_dict()
        saved["param_groups"][0]["lr"] = bad
        _refused(lambda saved=saved: optimizer.load_state_dict(saved), f"a checkpoint with lr={bad!r}")
    _refused(lambda: method(lrr=0.1), "an unknown hyperparameter", says="lr")
    _refused(lambda: build(method, [{"params": parameters(), "lrr": 0.1}]), "an unknown group entry", says="lr")
    assert len(optimizer.param_groups) == 1
    assert same(before, snapshot(optimizer)), "a refused value changed the optimizer"


def _refused(call: Any, what: str, says: str = "") -> None:
    try:
        call()
    except (ValueError, TypeError) as error:
        assert str(error).count(". ") >= 1, f"the message for {what} has not its three parts: {error}"
        assert says in str(error), f"the message for {what} does not mention {says}: {error}"
    else:
        raise AssertionError(f"{what} was accepted")


@contract
def tensor_lr_is_obeyed(method: Method) -> None:
    """A learning rate given as a tensor is obeyed, followed when it changes, and never mutated."""
    value = lr_of(method)
    a, b = parameters(dtype=torch.float64), parameters(dtype=torch.float64)
    lr = torch.tensor(value, dtype=torch.float64)
    by_tensor, by_number = build(method, a, lr=lr), build(method, b, lr=value)
    drive(by_tensor, (1, 2))
    drive(by_number, (1, 2))
    assert float(lr) == value, "the tensor was mutated"
    lr.mul_(0.5)
    by_number.param_groups[0]["lr"] = value / 2
    drive(by_tensor, (3, 4))
    drive(by_number, (3, 4))
    assert same([p.detach() for p in a], [p.detach() for p in b], 1e-12), "a tensor lr acts differently from a number"


@contract
def schedulers_act(method: Method) -> None:
    """torch's LRScheduler drives it; a fallline schedule with the same values gives the same run."""
    from fallline.core.schedule import Schedule

    class Halving(Schedule):
        def value(self, t: int) -> float:
            return float(0.5 ** (t - 1))

    lr = lr_of(method)
    a, b = parameters(dtype=torch.float64), parameters(dtype=torch.float64)
    driven, scheduled = build(method, a, lr=lr), build(method, b, lr=lr * Halving())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scheduler = torch.optim.lr_scheduler.ExponentialLR(driven, 0.5)
    for t in range(1, 5):
        drive(driven, (t,))
        drive(scheduled, (t,))
        scheduler.step()
    assert same([p.detach() for p in a], [p.detach() for p in b], 1e-12), "the two ways to schedule lr differ"
    assert driven.param_groups[0]["lr"] == lr / 16


# -- protocol -----------------------------------------------------------------------------------------------------------


@contract
def closure_runs_once(method: Method) -> None:
    """A closure runs once, with gradients enabled; its loss is returned; hooks run once and in order."""
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
    loss = optimizer.step(closure)
    assert calls == ["before", "closure", "after"], f"the order was {calls}"
    assert float(loss.detach()) == expected, "the returned loss is not the closure's"


@contract
def compiled_equals_eager(method: Method) -> None:
    """The compiled layout takes the same steps as the eager reference, to 1e-12 in float64 and 1e-5 in float32."""
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        compiled, eager = (build(method, parameters(_LEAF_SHAPES, dtype), fuse=f) for f in ("leaf", "eager"))
        for optimizer in (compiled, eager):
            drive(optimizer, range(1, 8))
        assert same(snapshot(compiled), snapshot(eager), tolerance), f"compiled differs from eager in {dtype}"


@contract
def hyperparameters_never_recompile(method: Method) -> None:
    """After the first compiled steps, moving any hyperparameter, or a new length, compiles nothing."""
    shapes = ((9, 5), (11,)) if method.reach <= Reach.TENSOR else ((9, 5),)
    ranges = {n: method.space[n].at(0.3) if n in method.space else 0.01 for n in method.hypers}
    # zero may mean "leave the step out", which is structure: start from values that are not zero
    values: dict[str, Any] = {n: v or ranges[n] for n, v in tuned(method).hypers.items()}
    optimizer = build(method, parameters(shapes), fuse="leaf", **values)
    drive(optimizer, range(1, 4))
    group = optimizer.param_groups[0]
    with torch.compiler.set_stance("fail_on_recompile"):
        for name in values:
            group[name] = group[name] * 0.9
            drive(optimizer, (4, 5))
        if method.reach <= Reach.TENSOR:
            drive(build(method, parameters(((13, 3),)), fuse="leaf", **values), (1, 2))
