"""Numerics: transactions, extreme and vanishing gradients, half precision, and what the numbers must equal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fallline.core.evaluate import along
from fallline.core.gradients import FullGradient, GradientAt, HessianDiagonal, Search, VarianceOfParts
from fallline.core.method import Method
from fallline.core.optimizer import Optimizer
from fallline.core.requests import probe
from fallline.core.transform import FromSite, Site, Transform, named_steps
from fallline.core.types import At, Reach
from fallline.testing.check import contract
from fallline.testing.harness import (
    SHAPES,
    a_loss,
    apart,
    batch_of,
    bent,
    build,
    drive,
    feed,
    gradients,
    half_dtypes,
    lr_of,
    nothing_changes,
    parameters,
    same,
    snapshot,
    step_on,
    tuned,
)

_SMALL = ((7, 5), (6,), ())
# Entries that are non-finite, or whose square is, in the dtype that the arithmetic is done in.
_OFFENDING = {
    torch.float32: (math.nan, math.inf, -math.inf, 1e25),
    torch.bfloat16: (math.nan, 1e25),
    torch.float16: (math.nan, math.inf),
    torch.float64: (math.nan, 1e200),
}


def _offending() -> list[tuple[torch.dtype, tuple[float, ...]]]:
    return [(d, found) for d, found in _OFFENDING.items() if d != torch.float16 or d in half_dtypes()]


def _without_decay(method: Method) -> dict[str, Any]:
    return {"weight_decay": 0.0} if "weight_decay" in method.hypers else {}


# -- the step is a transaction ------------------------------------------------------------------------------------------


def _poison(optimizer: Optimizer, t: int, value: float, *positions: int) -> None:
    """The ordinary gradients of step ``t``, but for one entry of the second parameter, or of those given."""
    params = feed(optimizer, t)
    for i in positions or (1,):
        grad = params[i].grad
        assert grad is not None
        grad.view(-1)[-1] = value


def _pair(method: Method, dtype: torch.dtype, **options: Any) -> Optimizer:
    first, *rest = parameters(_SMALL, dtype)
    return build(method, [{"params": rest}, {"params": [first], "lr": lr_of(method) / 3}], **options)


@contract(1, scope="each")
def nonfinite_gradients_change_nothing(method: Method) -> None:
    """A step with one non-finite or overflowing gradient entry changes nothing in any group, and is counted."""
    for dtype, offending in _offending():
        for value in offending:
            optimizer, spared = _pair(method, dtype), _pair(method, dtype)
            drive(optimizer, (1, 2))
            drive(spared, (1, 2))
            _poison(optimizer, 3, value)
            with nothing_changes(optimizer, f"a gradient of {value} in {dtype}"):
                optimizer.step()
            skipped = int(optimizer.num_skipped)  # type: ignore[attr-defined, unused-ignore]
            assert skipped == 1, f"num_skipped is {skipped} after one gradient of {value} in {dtype}"
            drive(optimizer, (4, 5))
            drive(spared, (4, 5))
            assert same(snapshot(optimizer), snapshot(spared)), f"a gradient of {value} in {dtype} left a trace"


@contract(1)
def endless_skipping_raises(method: Method) -> None:
    """``patience`` skipped steps in a row raise, with the name of the first offending parameter; fewer do not."""
    good, bad, worse = parameters(_SMALL)
    optimizer = build(method, [("good", good), ("bad", bad), ("worse", worse)], patience=3)
    for t in (1, 2, 4, 5):
        _poison(optimizer, t, math.nan, 1, 2)
        optimizer.step()
        if t == 2:
            drive(optimizer, (3,))  # a step that counts begins the row anew
    with nothing_changes(optimizer, "raising for lost patience"):
        message = _raises(optimizer, lambda: _poison(optimizer, 6, math.nan, 1, 2))
    assert message, "three skipped steps in a row raised nothing at patience=3"
    assert "'bad'" in message, f"the error does not name the first offending parameter 'bad': {message}"


@contract(1, scope="each")
def nonfinite_raise_changes_nothing(method: Method) -> None:
    """With nonfinite="raise" the first non-finite gradient raises, names its parameter and changes nothing."""
    good, bad, worse = parameters(_SMALL)
    optimizer = build(method, [("good", good), ("bad", bad), ("worse", worse)], nonfinite="raise")
    drive(optimizer, (1, 2))
    with nothing_changes(optimizer, "raising"):
        message = _raises(optimizer, lambda: _poison(optimizer, 3, math.inf, 1, 2))
    assert message, "an infinite gradient raised nothing"
    assert "'bad'" in message, f"the error does not name the offending parameter 'bad': {message}"


def _raises(optimizer: Optimizer, poison: Any) -> str:
    poison()
    try:
        optimizer.step()
    except RuntimeError as error:
        return str(error)
    return ""


@contract(1, scope="each")
def nonfinite_zero_drops_the_entry(method: Method) -> None:
    """With nonfinite="zero" an offending entry counts as zero and the step goes on."""
    for dtype, offending in _offending():
        for value in offending:
            optimizer, cleaned = _pair(method, dtype, nonfinite="zero"), _pair(method, dtype, nonfinite="zero")
            for run, entry in ((optimizer, value), (cleaned, 0.0)):
                drive(run, (1, 2))
                _poison(run, 3, entry)
                run.step()
                drive(run, (4,))
            assert same(snapshot(optimizer), snapshot(cleaned)), f"a gradient entry of {value} in {dtype} is not a zero"


@contract(1, scope="each")
def overflowing_elements_keep_their_value(method: Method) -> None:
    """An element whose new value or state would be non-finite keeps both: nothing ever turns non-finite."""
    params = parameters(_SMALL)
    optimizer = build(method, params, lr=3e38, **_without_decay(method))
    for t in range(1, 9):
        for p in params:
            p.grad = torch.full_like(p, 1e4 * t)
        before = snapshot(optimizer)
        optimizer.step()
        for x in snapshot(optimizer):
            assert not x.is_floating_point() or torch.isfinite(x).all(), "an overflowing step was written"
        if method.reach == Reach.ELEMENT:
            _kept_together(params, optimizer, before[: len(params)], before[len(params) :])


def _kept_together(params: list[nn.Parameter], optimizer: Optimizer, old: list[Tensor], states: list[Tensor]) -> None:
    """Where a parameter far from its lr kept its value, its slots kept theirs."""
    was = iter(states)
    for p, before in zip(params, old, strict=True):
        still = (p.detach() == before) & (before.abs() > 1e38)
        for name, value in sorted(optimizer.state[p].items()):
            previous = next(was)
            if name != "step" and value.shape == p.shape:
                assert torch.equal(value[still], previous[still]), f"{name} moved where the parameter was kept"


# -- training -----------------------------------------------------------------------------------------------------------


@contract()
def converges(method: Method) -> None:
    """On a quadratic of condition number 10 the best of five learning rates of its space cuts the loss by 100."""
    best = _best_on_a_quadratic(method, [])
    assert best < 1e-2, f"the loss fell to {best:.3g} of its start at best, expected below 0.01"


@contract(2)
def extreme_gradients_neither_freeze_nor_diverge(method: Method) -> None:
    """After ten gradients of 1e-30, or after one of 1e25, ordinary gradients still converge."""
    for opening, what in (([1e-30] * 10, "ten gradients of 1e-30"), ([1e25], "one gradient of 1e25")):
        best = _best_on_a_quadratic(method, opening)
        assert best < 1e-2, f"after {what} the loss fell to {best:.3g} of its start at best, expected below 0.01"


def _best_on_a_quadratic(method: Method, opening: list[float]) -> float:
    """Final loss over initial loss at the best learning rate, the middle ones tried first; ``opening`` scales gradients."""
    best = math.inf
    for u in (0.6, 0.8, 0.4, 1.0, 0.2):
        try:
            best = min(best, _quadratic(method, method.space["lr"].at(u), opening))
        except RuntimeError:  # it diverged until its patience ended
            continue
        if best < 1e-2:
            break
    return best


def _quadratic(method: Method, lr: float, opening: list[float]) -> float:
    curvature, p = torch.logspace(0, 1, 20), nn.Parameter(torch.linspace(-1, 1, 20))
    optimizer = build(method, [p], lr=lr)
    start = float((curvature * p.detach() ** 2).sum())
    for scale in opening:
        p.grad = scale * p.detach().sign()
        optimizer.step()
    for t in range(400):
        optimizer.param_groups[0]["lr"] = lr * (1 - t / 400)
        step_on(optimizer, lambda x: 2 * curvature * x)
    loss = float((curvature * p.detach() ** 2).sum()) / start
    return loss if math.isfinite(loss) else math.inf


@contract(3, scope="each")
def zero_gradients_move_nothing(method: Method) -> None:
    """Zero gradients from the start, without weight decay, leave parameters bitwise unchanged."""
    optimizer = build(method, parameters(), **_without_decay(method))
    before = snapshot(optimizer)[: len(SHAPES)]
    drive(optimizer, range(1, 6), flip=0.0)
    assert same(before, snapshot(optimizer)[: len(SHAPES)]), "parameters moved on zero gradients"


@contract(3)
def movement_dies_out(method: Method) -> None:
    """Once gradients are zero, 100 steps later a hundred steps move less than a thousandth of 30 ordinary ones."""
    p = parameters(((30,),))[0]
    optimizer = build(method, [p], **_without_decay(method))
    path = [0.0, 0.0, 0.0]
    for t in range(1, 231):
        before = p.detach().clone()
        p.grad = gradients([p], t)[0] * (t <= 30)
        optimizer.step()
        path[0 if t <= 30 else 1 if t <= 130 else 2] += float((p.detach() - before).abs().sum())
    assert path[2] <= 1e-3 * path[0], f"100 steps after the last gradient it still moves {path[2] / path[0]:.2g} times"


@contract(25, scope="each")
def lr_zero_moves_nothing(method: Method) -> None:
    """With lr = 0 nothing moves, weight decay included."""
    decay: dict[str, Any] = {"weight_decay": 0.1} if "weight_decay" in method.hypers else {}
    optimizer = build(method, parameters(), lr=0.0, **decay)
    before = snapshot(optimizer)[: len(SHAPES)]
    drive(optimizer, range(1, 6))
    assert same(before, snapshot(optimizer)[: len(SHAPES)]), "parameters moved at lr = 0"


@contract(26, scope="each")
def maximize_is_descent_on_minus_g(method: Method) -> None:
    """maximize on g equals minimising on -g, bitwise."""
    up, down = build(method, parameters(), maximize=True), build(method, parameters())
    drive(up, range(1, 6))
    drive(down, range(1, 6), flip=-1.0)
    assert same(snapshot(up), snapshot(down)), "maximize(g) differs from minimise(-g)"


# -- half precision -----------------------------------------------------------------------------------------------------


@contract(4, scope="each")
def bfloat16_makes_float32_progress(method: Method) -> None:
    """Where steps are below bfloat16's resolution, bfloat16 makes 90 % of float32's progress, by either rounding."""
    start = torch.linspace(1, 1.9, 1024).bfloat16()
    probe = nn.Parameter(start.float())
    probe.grad = start.float()
    lr = lr_of(method)
    optimizer = build(method, [probe], lr=lr)
    for _ in range(2):  # some only look at their first gradient
        if torch.equal(probe, start.float()):
            optimizer.step()
    # 2e-3 a step: bfloat16 rounds anything below 3.9e-3 to nothing where 1 <= p < 2
    lr *= 2e-3 / float((probe.detach() - start.float()).abs().mean())
    whole = _progress(method, start.float(), lr)
    for rounding in ("kahan", "stochastic"):
        part = _progress(method, start, lr, rounding=rounding)
        assert part >= 0.9 * whole, f"rounding={rounding!r} makes {part / whole:.0%} of float32's progress"


def _progress(method: Method, start: Tensor, lr: float, **options: Any) -> float:
    p = nn.Parameter(start.clone())
    optimizer = build(method, [p], lr=lr, **_without_decay(method), **options)
    for _ in range(300):
        step_on(optimizer, torch.clone)
    return float((start.double() ** 2).mean() - (p.detach().double() ** 2).mean())


@contract(5, 10, scope="each")
def half_precision_keeps_float32_state(method: Method) -> None:
    """bfloat16 and float16 parameters keep float32 state, also through a checkpoint, and stay finite."""
    for dtype in half_dtypes():
        optimizer = build(method, parameters(dtype=dtype))
        drive(optimizer, range(1, 4))
        loaded = build(method, parameters(dtype=dtype))
        loaded.load_state_dict(optimizer.state_dict())
        for held in (optimizer, loaded):
            for p, state in held.state.items():
                kinds = {k: v.dtype for k, v in state.items() if v.is_floating_point() and k != "compensation"}
                assert all(k == torch.float32 for k in kinds.values()), f"state of a {dtype} parameter: {kinds}"
                assert p.dtype == dtype
                assert torch.isfinite(p).all(), f"a {dtype} parameter became non-finite"


@contract(5)
def float16_never_turns_nan(method: Method) -> None:
    """Gradients over all of float16's range, 6e-8 to 6e4, leave float16 parameters and their state finite."""
    scales = [6e4, 6e-8, 6e4, 1.0, 6e4, 6e-8, 6e4, 6e4]
    optimizer = build(method, parameters(dtype=torch.float16))
    for t, scale in enumerate(scales, 1):
        for p in feed(optimizer, t):
            assert p.grad is not None
            p.grad = (p.grad.sign() * scale).to(p.dtype)
        optimizer.step()
        for x in snapshot(optimizer):
            assert not x.is_floating_point() or torch.isfinite(x).all(), (
                f"step {t}, of {scale}, left non-finite numbers"
            )


@contract(5, scope="each")
def half_precision_computes_in_float32(method: Method) -> None:
    """The first step in half precision is float32's from the same numbers, rounded once at its end."""
    for dtype in half_dtypes():
        for scale in (1.0, 1e-5):  # 1e-5 squared is zero in float16
            half = parameters(dtype=dtype)
            full = [nn.Parameter(p.detach().float()) for p in half]
            for p, q, g in zip(half, full, gradients(half, 1, scale), strict=True):
                p.grad, q.grad = g, g.float()
            build(method, half).step()
            build(method, full).step()
            for p, q in zip(half, full, strict=True):
                # half a unit in the last place; the second term is for subnormal numbers
                allowed = 0.51 * torch.finfo(dtype).eps * q.detach().abs() + torch.finfo(dtype).smallest_normal
                assert ((p.detach().float() - q.detach()).abs() <= allowed).all(), f"a {dtype} step is not float32's"


@contract(6, scope="each")
def mixed_dtypes_equal_separate_runs(method: Method) -> None:
    """float32, bfloat16, float16 and float64 parameters in one group step as they would alone."""
    if method.reach == Reach.GROUP:
        return  # a sum over all tensors is meant to couple them
    dtypes = (torch.float32, *half_dtypes(), torch.float64)
    together = [parameters(((4, 3),), d)[0] for d in dtypes]
    _step_fixed(build(method, [(str(d), p) for d, p in zip(dtypes, together, strict=True)]), together)
    for p, d in zip(together, dtypes, strict=True):
        alone = parameters(((4, 3),), d)
        _step_fixed(build(method, [(str(d), alone[0])]), alone)
        assert same([p.detach()], [alone[0].detach()]), f"{d} differs when it shares a group"


def _step_fixed(optimizer: Optimizer, params: list[nn.Parameter]) -> None:
    for t in range(1, 4):
        for p in params:
            p.grad = gradients([p], t)[0]
        optimizer.step()


# -- what it must equal -------------------------------------------------------------------------------------------------


def _by_hand(method: Method, params: list[Tensor], grads: list[list[Tensor]]) -> list[Tensor]:
    """Where a plain loop over the chain's pure functions leads; it knows nothing of the executor."""
    plain = [p.detach().clone() for p in params]
    steps = named_steps(tuned(method).steps)
    slots: list[dict[Any, Tensor]] = [
        {
            (k, s): _created(init, step, p, Site(f"parameter {i} of group 0", f"{k}.{s}", 0))
            for k, step in steps
            for s, init in step.slots.items()
        }
        for i, p in enumerate(plain)
    ]
    for t, gs in enumerate(grads, 1):
        loss = a_loss(plain, gs)
        ats = [At(p, g, t, loss) for p, g in zip(plain, gs, strict=True)]
        updates = [at.g for at in ats]
        for k, step in steps:
            for mine, at in zip(slots, ats, strict=True):
                _elsewhere(k, step, mine, at)
            _searched(k, step, slots, ats)
            _curved(k, step, slots, ats)
            if step.reach == Reach.GROUP:
                held = [{s: mine[k, s] for s in step.slots} for mine in slots]
                terms = [step.measure(u, at, **own) for u, at, own in zip(updates, ats, held, strict=True)]
                total = torch.stack(terms).sum(0)
                sums: Any = {"totals": tuple(total)} if total.dim() else {"total": total}
                ats = [at._replace(**sums) for at in ats]
            for i, at in enumerate(ats):
                updates[i], new = step.update(updates[i], at, **{s: slots[i][k, s] for s in step.slots})
                slots[i].update({(k, s): value for s, value in new.items()})
                slots[i].update({(k, s, batch_of(t)): slots[i][k, s] for s in step.rows})
        plain = [p - u for p, u in zip(plain, updates, strict=True)]
    return plain


def _created(init: Any, step: Any, p: Tensor, site: Site) -> Tensor:
    value: Tensor = init.make(step, p, site) if isinstance(init, FromSite) else init(step, p)
    return value


def _elsewhere(k: str, step: Transform, slots: dict[Any, Tensor], at: At) -> None:
    """What the optimizer puts into slots before a step: gradients at other points, this batch's row."""
    for s, request in step.gradients.items():
        if isinstance(request, GradientAt) and request.due(step, int(at.t)):
            x = request.point(step, at, **{name: slots[k, name] for name in step.slots})
            slots[k, s] = bent(at.g, at.p, x)
        elif isinstance(request, FullGradient) and request.due(step, int(at.t)):
            slots[k, s] = 2 * at.g
        elif isinstance(request, VarianceOfParts):
            slots[k, s] = apart(at.g).square()
    for s in step.rows:
        slots[k, s] = slots.get((k, s, batch_of(int(at.t))), torch.zeros_like(at.p))


def _searched(k: str, step: Transform, slots: list[dict[Any, Tensor]], ats: list[At]) -> None:
    for s, request in step.gradients.items():
        if isinstance(request, Search):

            def loss_at(x: float, request: Search = request) -> float:
                points = [request.point(step, at, x) for at in ats]
                return float(a_loss(points, [bent(at.g, at.p, q) for at, q in zip(ats, points, strict=True)]))

            held = [{name: mine[k, name] for name in step.slots} for mine in slots]
            total = sum(float(step.measure(at.g, at, **own)) for at, own in zip(ats, held, strict=True))
            start = float(ats[0].loss if ats[0].loss is not None else 0.0)
            x = request.run(step, float(slots[0][k, s]), start, total, loss_at)
            for mine in slots:
                mine[k, s] = torch.full_like(mine[k, s], x)


def _curved(k: str, step: Transform, slots: list[dict[Any, Tensor]], ats: list[At]) -> None:
    """Estimates of the Hessian's diagonal, from gradients that are ``bent``."""
    for s, request in step.gradients.items():
        if isinstance(request, HessianDiagonal) and request.due(step, int(ats[0].t)):
            z = [probe(at.p, 0, f"parameter {i}", s, int(at.t)) for i, at in enumerate(ats)]

            def gradients(points: Sequence[Tensor]) -> list[Tensor]:
                return [bent(at.g, at.p, x) for at, x in zip(ats, points, strict=True)]

            for mine, sign, h in zip(slots, z, along(gradients, [at.p for at in ats], z), strict=True):
                mine[k, s] = sign * h


@contract(7, scope="each")
def equals_a_plain_loop(method: Method) -> None:
    """In float64 twenty steps equal a plain loop over the chain's pure functions, to 1e-12."""
    params = parameters(_SMALL, torch.float64)
    plain = _by_hand(method, list(params), [gradients(params, t) for t in range(1, 21)])
    drive(build(method, params), range(1, 21))
    for p, q in zip(params, plain, strict=True):
        gap = float((p.detach() - q).abs().max() / q.abs().max())
        assert gap <= 1e-12, f"a parameter of shape {tuple(p.shape)} is {gap:.2g} away, expected 1e-12"


@contract(8)
def reach_is_honest(method: Method) -> None:
    """ELEMENT commutes with slicing, TENSOR with reshaping and reordering of the elements."""
    whole = parameters(((6, 8),), torch.float64)[0].detach()
    grads = [gradients([whole], t)[0] for t in range(1, 5)]
    moved = _by_hand(method, [whole], [[g] for g in grads])
    if method.reach == Reach.ELEMENT:
        pieces = _by_hand(method, list(torch.split(whole, 2)), [list(torch.split(g, 2)) for g in grads])
        assert same([torch.cat(pieces)], moved, 1e-14), "a slice steps differently from the whole"
    if method.reach <= Reach.TENSOR:
        order = torch.arange(47, -1, -1)
        bent = [x.flatten()[order].reshape(4, 12) for x in (whole, *grads)]
        other = _by_hand(method, bent[:1], [[g] for g in bent[1:]])[0]
        assert same([other.flatten()[order].reshape(6, 8)], moved, 1e-13), "the shape or order of elements matters"
