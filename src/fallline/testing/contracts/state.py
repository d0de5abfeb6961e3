"""State: resuming, checkpoints, copies, and what the state consists of."""

from __future__ import annotations

import copy
import io
import multiprocessing
import pickle
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fallline.core.method import Method
from fallline.core.optimizer import Optimizer
from fallline.core.transform import named_steps
from fallline.testing.check import contract
from fallline.testing.harness import SHAPES, build, drive, lr_of, nothing_changes, parameters, same, snapshot, tuned

_DTYPES = (torch.float32, torch.bfloat16)
_LARGE = ((64, 64), (6,))  # 4096 elements: from there on 8-bit state is blockwise


def _through_disk(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


def _params(optimizer: Optimizer) -> list[Tensor]:
    return [p.detach().clone() for group in optimizer.param_groups for p in group["params"]]


# -- resuming -----------------------------------------------------------------------------------------------------------


@contract(9, 11, scope="each")
def resume_is_bitwise(method: Method) -> None:
    """Saved by torch.save, loaded with weights_only=True, a run continues bit for bit, in float32 and bfloat16."""
    for dtype in _DTYPES:
        _resumes(method, SHAPES, dtype, {})


@contract(9)
def every_rounding_resumes_bitwise(method: Method) -> None:
    """A bfloat16 run continues bit for bit under every way of rounding, stochastic ones included."""
    for rounding in ("kahan", "stochastic", "nearest"):
        _resumes(method, SHAPES, torch.bfloat16, {"rounding": rounding})


def _resumes(method: Method, shapes: Any, dtype: torch.dtype, how: Mapping[str, Any]) -> None:
    straight = build(method, parameters(shapes, dtype), **how)
    drive(straight, range(1, 9))
    first = build(method, parameters(shapes, dtype), **how)
    drive(first, range(1, 5))
    saved = _through_disk(first.state_dict())
    resumed = build(method, [nn.Parameter(p) for p in _params(first)], **how)
    resumed.load_state_dict(saved)
    drive(resumed, range(5, 9))
    what = ", ".join([str(dtype), *(f"{k}={v!r}" for k, v in how.items())])
    assert same(snapshot(straight), snapshot(resumed)), f"a resumed run ({what}) differs from a straight one"


@contract(9)
def resume_in_another_process_is_bitwise(method: Method) -> None:
    """A run saved by one process and resumed in another equals, bit for bit, a run that never stopped."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "halves.pt"
        _in_another_process(_save_half_and_whole, method, path)
        saved = torch.load(path, weights_only=True)
    for dtype in _DTYPES:
        half, whole = saved[str(dtype)]
        resumed = build(method, [nn.Parameter(p) for p in half["parameters"]])
        resumed.load_state_dict(half["optimizer"])
        drive(resumed, range(5, 9))
        assert same(whole, snapshot(resumed)), f"a {dtype} run resumed in another process differs from a straight one"


def _save_half_and_whole(method: Method, path: Path) -> None:
    saved = {}
    for dtype in _DTYPES:
        half, whole = build(method, parameters(dtype=dtype)), build(method, parameters(dtype=dtype))
        drive(half, range(1, 5))
        drive(whole, range(1, 9))
        checkpoint = {"parameters": _params(half), "optimizer": half.state_dict()}
        saved[str(dtype)] = (checkpoint, snapshot(whole))
    torch.save(saved, path)


def _in_another_process(job: Callable[..., None], *arguments: Any) -> None:
    """Run a function in a forked process (where there is no fork: a new one), which does not import torch again."""
    context: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    process = context.Process(target=job, args=arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork among threads; the child computes on its own thread
        process.start()
    process.join(60)
    if process.exitcode is None:
        process.kill()
        process.join()
    assert process.exitcode == 0, f"the other process ended with code {process.exitcode}"


@contract(13)
def roll_back_is_bitwise(method: Method) -> None:
    """An optimizer that trained on, loaded an earlier state of its own and went on takes the same steps again."""
    optimizer = build(method, parameters())
    drive(optimizer, range(1, 4))
    saved, kept = copy.deepcopy(optimizer.state_dict()), _params(optimizer)
    ends = []
    for _ in range(3):  # the third load shows whether training changed what the second one loaded
        drive(optimizer, range(4, 8))
        ends.append(snapshot(optimizer))
        with torch.no_grad():
            for p, k in zip(optimizer.param_groups[0]["params"], kept, strict=True):
                p.copy_(k)
        optimizer.load_state_dict(saved)
    assert same(ends[0], ends[1]), "after a roll-back the same gradients lead elsewhere"
    assert same(ends[0], ends[2]), "training changed the state_dict that had been loaded"


@contract(14)
def copies_continue_bitwise(method: Method) -> None:
    """deepcopy and pickle continue bit for bit and share nothing with the original."""
    for dtype in _DTYPES:
        straight = build(method, parameters(dtype=dtype))
        drive(straight, range(1, 4))
        twins = [copy.deepcopy(straight), pickle.loads(pickle.dumps(straight))]
        drive(straight, range(4, 7))
        for twin in twins:
            drive(twin, range(4, 7))
            assert same(snapshot(straight), snapshot(twin)), f"a copy of a {dtype} run continues differently"


# -- loading ------------------------------------------------------------------------------------------------------------


@contract(12)
def loading_copies_and_validates(method: Method) -> None:
    """Loading copies; a checkpoint of another shape or method is refused and changes nothing."""
    source, target = build(method, parameters()), build(method, parameters())
    drive(source, range(1, 4))
    saved = source.state_dict()
    target.load_state_dict(saved)
    before, untouched = snapshot(target), snapshot(source)
    drive(target, (9,))
    assert same(untouched, snapshot(source)), "state is shared with the optimizer that was loaded into"
    target = build(method, parameters())
    target.load_state_dict(saved)
    drive(source, range(4, 6))
    assert same(before[len(SHAPES) :], snapshot(target)[len(SHAPES) :]), "state is shared with its checkpoint"
    foreign = build(method, parameters(((3, 3), *SHAPES[1:])))
    drive(foreign, range(1, 3))
    renamed = copy.deepcopy(saved)
    renamed["param_groups"][0]["method"] = "another"
    shaped = any(v.shape == SHAPES[0] for v in target.state[target.param_groups[0]["params"][0]].values())
    for bad in (renamed, {"state": {}}, *([foreign.state_dict()] if shaped else [])):
        _refuses(target, bad, "a checkpoint that does not fit")


@contract(12, 13)
def failed_load_changes_nothing(method: Method) -> None:
    """A checkpoint that is wrong only at its very end (a slot, shape, dtype, name or number) changes nothing at all."""

    def fresh() -> Optimizer:
        a, b = parameters(((4, 3), (5,)))
        return build(method, [{"params": [("a", a)]}, {"params": [("b", b)], "lr": lr_of(method) / 3}])

    source, target = fresh(), fresh()
    drive(source, range(1, 6))
    drive(target, (1,))
    good = source.state_dict()
    slot = next((k for k, v in reversed(good["state"][1].items()) if v.shape == (5,)), "")
    ways: dict[str, Callable[[dict[str, Any]], Any]] = {
        "another method": lambda s: s["param_groups"][1].update(method="another"),
        "an infinite lr": lambda s: s["param_groups"][1].update(lr=float("inf")),
        "no lr": lambda s: s["param_groups"][1].pop("lr"),
        "an unknown parameter": lambda s: s["param_groups"][1].update(param_names=["c"]),
        "a parameter less": lambda s: s["param_groups"][1].update(params=[]),
        "a group less": lambda s: s["param_groups"].pop(),
    }
    if slot:
        ways["a slot less"] = lambda s: s["state"][1].pop(slot)
        ways["a slot of another shape"] = lambda s: s["state"][1].update({slot: torch.zeros(6)})
        ways["a slot of another dtype"] = lambda s: s["state"][1].update({slot: torch.zeros(5, dtype=torch.int32)})
    for what, spoil in ways.items():
        bad = copy.deepcopy(good)
        spoil(bad)
        _refuses(target, bad, f"a checkpoint with {what}")


def _refuses(target: Optimizer, bad: dict[str, Any], what: str) -> None:
    with nothing_changes(target, f"refusing {what}"):
        try:
            target.load_state_dict(bad)
        except (ValueError, TypeError):
            return
        raise AssertionError(f"{what} was loaded")


@contract(12)
def names_win_over_positions(method: Method) -> None:
    """A checkpoint whose parameters stand in another order is loaded by their names."""
    named = dict(zip("abc", parameters([(4, 3)] * 3), strict=True))
    source = build(method, list(named.items()))
    drive(source, range(1, 4))
    copies = {name: nn.Parameter(p.detach().clone()) for name, p in named.items()}
    turned = build(method, [(name, copies[name]) for name in "cba"])
    turned.load_state_dict(_through_disk(source.state_dict()))
    for name, p in named.items():
        mine, theirs = turned.state[copies[name]], source.state[p]
        assert same([v for _, v in sorted(mine.items())], [v for _, v in sorted(theirs.items())]), (
            f"the state of {name!r} went to another parameter"
        )


# -- what it consists of ------------------------------------------------------------------------------------------------


@contract(35)
def state_is_as_declared(method: Method) -> None:
    """The state holds the declared slots, in the card's number of bytes per parameter."""
    p = parameters(((256, 256),))
    optimizer = build(method, p)
    slots = {f"{key}.{s}" for key, step in named_steps(tuned(method).steps) for s in step.slots}
    slots |= {f"{key}.{s}.rows" for key, step in named_steps(tuned(method).steps) for s in step.rows}
    state = optimizer.state[p[0]]
    assert set(state) == {"step"} | slots, f"slots {sorted(state)} differ from the declared {sorted(slots)}"
    measured = _bytes(optimizer) / p[0].numel()
    assert abs(measured - method.state_bytes()) < 1e-9, f"{measured} bytes a parameter, declared {method.state_bytes()}"
    drive(optimizer, (1, 2))
    assert _bytes(optimizer) / p[0].numel() == measured, "state grew while training"


@contract(35)
def compact_state_is_compact(method: Method) -> None:
    """bfloat16 state takes half of the card's bytes, 8-bit state a quarter and at most 0.2 bytes a slot for its scales."""
    p = parameters(((256, 256),))
    whole = method.state_bytes()
    for form, share in (("bfloat16", 1 / 2), ("8bit", 1 / 4)):
        optimizer = build(method, p, state_format=form)
        drive(optimizer, (1,))
        measured = _bytes(optimizer) / p[0].numel()
        allowed = whole * share + (0.2 * whole / 4 if form == "8bit" else 0)
        assert measured <= allowed + 1e-2, f"{measured:.3g} bytes a parameter as {form}, expected {allowed:.3g}"


def _bytes(optimizer: Optimizer) -> int:
    return sum(v.numel() * v.element_size() for s in optimizer.state.values() for k, v in s.items() if k != "step")


@contract(9, 10)
def compact_state_resumes_bitwise(method: Method) -> None:
    """State kept in bfloat16 or 8 bits is saved as it is, and a run continues bit for bit."""
    for form in ("bfloat16", "8bit"):
        for dtype in _DTYPES:
            _resumes(method, _LARGE, dtype, {"state_format": form})


@contract(10, scope="each")
def state_keeps_its_form(method: Method) -> None:
    """Dtype, shape, device and memory format of every slot survive step, save and load."""
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        params = [
            *parameters(((7, 5), (), (6, 4)), dtype),
            nn.Parameter(parameters(((2, 3, 4, 4),), dtype)[0].detach().contiguous(memory_format=torch.channels_last)),
        ]
        params[2] = nn.Parameter(params[2].detach().t())
        optimizer = build(method, params)
        made = _form(optimizer)
        for p in params:
            for name, value in optimizer.state[p].items():
                assert value.shape != p.shape or value.stride() == p.stride(), f"{name} has not its parameter's strides"
        drive(optimizer, (1, 2))
        assert _form(optimizer) == made, f"a step changed the form of {dtype} state"
        twin = build(method, [nn.Parameter(p.detach().clone()) for p in params])
        twin.load_state_dict(_through_disk(optimizer.state_dict()))
        assert _form(twin) == made, f"saving and loading changed the form of {dtype} state"


def _form(optimizer: Optimizer) -> list[Any]:
    return [
        (name, v.dtype, v.shape, v.device, v.stride())
        for group in optimizer.param_groups
        for p in group["params"]
        for name, v in sorted(optimizer.state[p].items())
    ]


@contract(11)
def checkpoints_hold_plain_data(method: Method) -> None:
    """A state_dict holds tensors and JSON scalars in dicts, lists and tuples, and nothing else, schedules included."""
    from fallline.core.schedule import Schedule

    class Halving(Schedule):
        def value(self, t: int) -> float:
            return float(0.5**t)

    for lr in (lr_of(method), lr_of(method) * Halving()):
        optimizer = build(method, parameters(), lr=lr)
        drive(optimizer, (1, 2))
        saved = optimizer.state_dict()
        stray = list(_not_plain(saved, "state_dict"))
        assert not stray, f"not plain data: {', '.join(stray[:3])}"
        _through_disk(saved)


def _not_plain(value: Any, where: str) -> Any:
    if isinstance(value, dict):
        for key, inner in value.items():
            if type(key) not in (str, int):
                yield f"{where} has a key of type {type(key).__name__}"
            yield from _not_plain(inner, f"{where}[{key!r}]")
    elif isinstance(value, list | tuple):
        for i, inner in enumerate(value):
            yield from _not_plain(inner, f"{where}[{i}]")
    elif type(value) not in (Tensor, int, float, str, bool, type(None)):
        yield f"{where} is a {type(value).__name__}"
