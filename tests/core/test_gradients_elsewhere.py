"""Gradients at other points, of all data and of every batch: what the closure sees, and what is left as it was."""

import copy
import warnings

import pytest
import torch
from torch import nn

import fallline
from fallline import METHODS, Optimizer, Transform, chain, transform
from fallline.core.gradients import FullGradient, GradientAt
from fallline.core.transform import zeros
from fallline.testing.harness import parameters
from fallline.transforms import clip_by_global_norm, descend
from fallline.transforms.average import clone


@transform
class Ahead(Transform):
    """The gradient where a step of length 1 would lead, and in slot x where that was."""

    slots = {**zeros("h"), "x": clone}
    gradients = {"h": GradientAt(lambda step, at, **_: at.p - at.g)}

    def update(self, u, at, *, h, x):
        return h, {"x": at.p - at.g}


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 1)).double()


X = torch.randn(8, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def closure_of(model, optimizer, seen=None, set_to_none=True):
    def closure():
        optimizer.zero_grad(set_to_none=set_to_none)
        out = model(X)
        loss = out.square().mean()
        loss.backward()
        if seen is not None:
            seen.append((loss.item(), torch.get_rng_state(), [p.detach().clone() for p in model.parameters()]))
        return loss

    return closure


@pytest.mark.parametrize("fuse", ["eager", "auto"])
@pytest.mark.parametrize("set_to_none", [True, False])
def test_all_is_as_after_one_call_but_for_the_step(fuse, set_to_none):
    model, twin = net(), net()
    optimizer, seen = Optimizer(model, chain(Ahead(), descend(0.1)), fuse=fuse), []
    closure = closure_of(model, optimizer, seen, set_to_none)
    before = [p.detach().clone() for p in model.parameters()]
    torch.manual_seed(7)
    loss = optimizer.step(closure)

    torch.manual_seed(7)
    one = twin(X).square().mean()
    one.backward()
    after = torch.get_rng_state()
    assert loss.item() == one.item() == seen[0][0]
    assert len(seen) == 2
    assert torch.equal(seen[0][1], after), "the second call began like the first, so it ended like it"
    assert torch.equal(seen[1][1], after)
    for b, c in zip(model.buffers(), twin.buffers(), strict=True):
        assert torch.equal(b, c), "batch statistics saw one call"
    grads = [p.grad.clone() for p in twin.parameters()]
    for p, g, b, x in zip(model.parameters(), grads, before, seen[1][2], strict=True):
        assert torch.equal(p.grad, g), ".grad is that of the current point"
        assert torch.equal(x, b - g), "the closure saw the point"
    with torch.no_grad():  # the step itself: the gradient there, under the same dropout mask
        for q, x in zip(twin.parameters(), seen[1][2], strict=True):
            q.copy_(x)
    twin.zero_grad()
    torch.manual_seed(7)
    twin(X).square().mean().backward()
    for p, b, q in zip(model.parameters(), before, twin.parameters(), strict=True):
        assert torch.allclose(p, b - 0.1 * q.grad, rtol=0, atol=1e-15)


@pytest.mark.slow  # torch's compiler is imported
@pytest.mark.parametrize("in_place", [False, True])
def test_batch_statistics_of_compiled_models_see_one_call(in_place):
    model, twin = net(), net()
    called = model if in_place else torch.compile(model, backend="eager")
    if in_place:
        model.compile(backend="eager")
    optimizer = Optimizer(model, chain(Ahead(), descend(0.0)))

    def closure():
        optimizer.zero_grad()
        loss = called(X).square().mean()
        loss.backward()
        return loss

    for _ in range(2):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            optimizer.step(closure)
        twin(X)
    for b, c in zip(model.buffers(), twin.buffers(), strict=True):
        assert torch.equal(b, c)


def test_the_random_state_ends_as_after_one_call():
    ends = []
    for method in ("storm", "sgd"):
        model = net()
        optimizer = Optimizer(model, METHODS[method](lr=0.1))
        torch.manual_seed(3)
        optimizer.step(closure_of(model, optimizer))
        torch.manual_seed(4)
        optimizer.step(closure_of(model, optimizer))
        ends.append(torch.rand(3))
    assert torch.equal(*ends)


def test_a_closure_that_raises_elsewhere_leaves_everything_as_it_was():
    model = net()
    optimizer, calls = Optimizer(model, chain(Ahead(), descend(0.1))), []
    good = closure_of(model, optimizer)

    def closure():
        calls.append(1)
        loss = good()
        if len(calls) == 2:
            raise ZeroDivisionError
        return loss

    before, state = [p.detach().clone() for p in model.parameters()], copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ZeroDivisionError):
        optimizer.step(closure)
    for p, b in zip(model.parameters(), before, strict=True):
        assert torch.equal(p, b)
        assert p.grad is not None
    for held, kept in zip(optimizer.state_dict()["state"].values(), state["state"].values(), strict=True):
        assert all(torch.equal(held[k], kept[k]) for k in kept)


def test_a_gradient_elsewhere_that_is_not_finite_is_no_step():
    for policy in ("skip", "raise", "zero"):
        (p,) = params = parameters(((3,),), torch.float64)
        optimizer = Optimizer([("weights", p)], chain(Ahead(), descend(0.1)), nonfinite=policy)
        before = p.detach().clone()
        calls = []

        def closure(p=p, calls=calls):
            calls.append(1)
            p.grad = torch.ones_like(p)
            if len(calls) == 2:
                p.grad[1] = torch.inf
            return p.sum()

        if policy == "raise":
            with pytest.raises(RuntimeError, match=r"not finite.* in 'weights' \(shape \(3,\)\); nothing was changed"):
                optimizer.step(closure)
        else:
            optimizer.step(closure)
        moved = torch.tensor([0.1, 0.0, 0.1], dtype=torch.float64) if policy == "zero" else 0.0
        assert torch.equal(p, before - moved)
        assert optimizer.num_skipped == (policy != "zero")
        assert torch.equal(params[0].grad, torch.ones_like(p))


def test_a_parameter_that_gets_no_gradient_elsewhere_counts_as_flat_there():
    a, b = parameters(((3,), (2,)), torch.float64)
    optimizer = Optimizer([a, b], chain(Ahead(), descend(1.0)))
    calls, before = [], b.detach().clone()

    def closure():
        calls.append(1)
        a.grad = torch.ones_like(a)
        b.grad = torch.ones_like(b) if len(calls) == 1 else None
        return a.sum()

    optimizer.step(closure)
    assert torch.equal(b, before)
    assert torch.equal(b.grad, torch.ones_like(b))


def test_groups_move_together_and_other_methods_stay():
    a, b, c = parameters(((3,), (3,), (3,)), torch.float64)
    start = [x.detach().clone() for x in (a, b, c)]
    optimizer = Optimizer(
        [{"params": [a]}, {"params": [b], "lr": 0.3}, {"params": [c], "chain": METHODS["sgd"](0.1)}],
        chain(Ahead(), descend(0.1)),
    )
    seen = []

    def closure():
        for x in (a, b, c):
            x.grad = torch.ones_like(x)
        seen.append([x.detach().clone() for x in (a, b, c)])
        return a.sum()

    optimizer.step(closure)
    assert len(seen) == 2
    for x, s, moved in zip(seen[1], start, (1, 1, 0), strict=True):
        assert torch.equal(x, s - moved)


def test_full_gradients_are_asked_for_when_due_and_rows_are_kept_apart():
    @transform
    class Both(Transform):
        slots = zeros("full", "row")
        gradients = {"full": FullGradient(lambda step, t: t % 3 == 1)}
        rows = {"row": lambda step: 2}

        def update(self, u, at, *, full, row):
            return u, {"row": row + u}

    (p,) = parameters(((3,),), torch.float64)
    optimizer, calls = Optimizer([p], chain(Both(), descend(0.1))), []

    def set_to(value):
        def closure():
            calls.append(value)
            p.grad = torch.full_like(p, value)
            return p.sum()

        return closure

    for t in range(1, 7):
        optimizer.step(set_to(t), full=set_to(100 + t), batch=t % 2)
    assert calls == [1, 101, 2, 3, 4, 104, 5, 6]
    state = optimizer.state[p]
    assert float(state["both.full"][0]) == 104
    assert [float(x) for x in state["both.row.rows"][:, 0]] == [2 + 4 + 6, 1 + 3 + 5]
    assert float(p.grad[0]) == 6


def test_what_is_missing_is_named_with_the_lines_to_write():
    (p,) = parameters(((3,),))
    p.grad = torch.ones_like(p)
    with pytest.raises(
        RuntimeError, match=r"storm needs the batch's gradient at another point.* Expected a closure that zeroes"
    ):
        Optimizer([p], METHODS["storm"]()).step()
    with pytest.raises(
        RuntimeError, match=r"(?s)and got none.*Write:\n    def closure\(\).*\n    optimizer.step\(closure\)"
    ):
        Optimizer([p], METHODS["storm"]()).step()
    with pytest.raises(RuntimeError, match=r"(?s)svrg needs the gradient of all data.*step\(closure, full=full\)"):
        Optimizer([p], METHODS["svrg"]()).step(lambda: p.sum())
    with pytest.raises(ValueError, match=r"storm cannot step inside backward: it sums over all tensors"):
        Optimizer([p], METHODS["storm"]()).step_in_backward()
    with pytest.raises(ValueError, match=r"svrg cannot step inside backward: it needs the "):
        Optimizer([p], METHODS["svrg"]()).step_in_backward()


def test_gradients_elsewhere_see_the_raw_gradient_whatever_stands_before():
    (p,) = parameters(((3,),), torch.float64)
    optimizer, seen, start = (
        Optimizer([p], chain(clip_by_global_norm(0.1), Ahead(), descend(0.1))),
        [],
        p.detach().clone(),
    )

    def closure():
        seen.append(p.detach().clone())
        p.grad = torch.ones_like(p)
        return p.sum()

    optimizer.step(closure)
    assert torch.equal(seen[1], start - 1)


def test_explain_says_what_is_asked_for():
    text = Optimizer(parameters(), METHODS["svrg"](every=7)).explain()
    assert "asks      for the gradient of all data, at the steps that are due, and keeps it as svrg.mu" in text
    assert (
        "asks      for the batch's gradient at another point, at the steps that are due, and keeps it as svrg.h" in text
    )
    text = Optimizer(parameters(), chain(Ahead(), descend(0.1))).explain()
    assert "for the batch's gradient at another point, at every step, and keeps it as ahead.h" in text


# -- parts of a batch ---------------------------------------------------------------------------------------------------


def parts_of(p, *gradients):
    def part(g):
        p.grad = None if g is None else torch.tensor(g, dtype=p.dtype)
        return torch.tensor(float(len(g or ())))

    return [lambda g=g: part(g) for g in gradients]


def test_parts_leave_their_mean_and_the_variance_between_them():
    (p,) = parameters(((2,),), torch.float64)
    optimizer = Optimizer([p], METHODS["vrgd"](lr=0.0))
    loss = optimizer.step(parts=parts_of(p, [1.0, 2.0], [3.0, 2.0], [5.0, 2.0]))
    assert float(loss) == 2.0
    assert torch.equal(p.grad, torch.tensor([3.0, 2.0], dtype=torch.float64))
    assert torch.allclose(
        optimizer.state[p]["signal_to_noise.variance"], torch.tensor([8 / 3, 0.0], dtype=torch.float64)
    )


def test_a_part_without_gradient_counts_as_zero():
    for order in ([None, [2.0, 4.0]], [[2.0, 4.0], None]):
        (p,) = parameters(((2,),), torch.float64)
        optimizer = Optimizer([p], METHODS["vrgd"](lr=0.0))
        optimizer.step(parts=parts_of(p, *order))
        assert torch.equal(p.grad, torch.tensor([1.0, 2.0], dtype=torch.float64))
        variance = optimizer.state[p]["signal_to_noise.variance"]
        assert torch.allclose(variance, torch.tensor([1.0, 4.0], dtype=torch.float64))


def test_parts_are_refused_where_they_make_no_sense():
    (p,) = parameters(((2,),))
    optimizer = Optimizer([p], METHODS["vrgd"]())
    with pytest.raises(
        ValueError, match=r"got both a closure and parts\. Expected a list of closures.*Write optimizer"
    ):
        optimizer.step(lambda: p.sum(), parts=parts_of(p, [1.0, 1.0]))
    for parts in ([], [3]):
        with pytest.raises(ValueError, match=r"step\(\) got parts=\[.*\]\. Expected a list of closures"):
            optimizer.step(parts=parts)
    p.grad = torch.ones_like(p)
    with pytest.raises(RuntimeError, match=r"(?s)vrgd needs the gradients of the batch's parts.*step\(parts=\[lambda"):
        optimizer.step()


# -- searches and rows --------------------------------------------------------------------------------------------------


def test_a_search_stops_at_the_first_number_that_is_accepted():
    (p,) = parameters(((3,),), torch.float64)
    for maximize in (False, True):
        optimizer, seen, start = (
            Optimizer([p], METHODS["armijo_sgd"](lr=8.0, shrink=0.5), maximize=maximize),
            [],
            p.detach().clone(),
        )

        def closure(optimizer=optimizer, seen=seen, maximize=maximize):
            optimizer.zero_grad()
            loss = p.square().sum() / 2 * (-1 if maximize else 1)
            loss.backward()
            seen.append(p.detach().clone())
            return loss

        optimizer.step(closure)
        rates = [8.0, 4.0, 2.0, 1.0]  # accepted up to 2 (1 - c)
        assert len(seen) == 1 + len(rates)
        assert all(torch.allclose(x, start * (1 - rate)) for x, rate in zip(seen[1:], rates, strict=True))
        assert float(optimizer.state[p]["armijo_search.share"]) == 1 / 8
        with torch.no_grad():
            p.copy_(start)


def test_a_search_needs_the_loss():
    (p,) = parameters(((3,),))

    def closure():
        p.grad = torch.ones_like(p)

    with pytest.raises(
        RuntimeError, match=r"armijo_sgd searches along the loss, and the closure returned none\. Expected a tensor"
    ):
        Optimizer([p], METHODS["armijo_sgd"]()).step(closure)


def test_a_batch_out_of_range_is_refused_and_changes_nothing():
    (p,) = parameters(((3,),))
    optimizer, before = Optimizer([p], METHODS["saga"](num_batches=4)), p.detach().clone()
    p.grad = torch.ones_like(p)
    for bad in (4, -1, True, 1.0):
        with pytest.raises(ValueError, match=r"saga got batch=.*Expected a whole number from 0 to 3.*num_batches="):
            optimizer.step(batch=bad)
    with pytest.raises(RuntimeError, match=r"(?s)saga needs the number of the batch.*optimizer.step\(batch=i\)"):
        optimizer.step()
    assert torch.equal(p, before)
    assert int(optimizer.state[p]["step"]) == 0
    assert "keeps     saga.last for each of 4 batches" in optimizer.explain()


def test_a_run_with_rows_and_gradients_elsewhere_goes_on_from_a_file(tmp_path):
    for name, values in (("saga", {"num_batches": 3}), ("svrg", {"every": 4})):
        model, other = (nn.Linear(3, 2).double() for _ in range(2))
        first, second = (Optimizer(m, METHODS[name](lr=0.1, **values)) for m in (model, other))

        def train(m, optimizer, steps):
            for t in steps:
                x = torch.linspace(-1, t % 3, 12, dtype=torch.float64).reshape(4, 3)

                def closure(m=m, optimizer=optimizer, x=x):
                    optimizer.zero_grad()
                    loss = m(x).square().mean()
                    loss.backward()
                    return loss

                optimizer.step(closure, full=closure, batch=t % 3)

        train(model, first, range(5))
        fallline.save(tmp_path / name, model=model, optimizer=first)
        fallline.load(tmp_path / name, model=other, optimizer=second)
        for m, optimizer in ((model, first), (other, second)):
            train(m, optimizer, range(5, 11))
        for p, q in zip(model.parameters(), other.parameters(), strict=True):
            assert torch.equal(p, q)


def test_methods_without_needs_take_what_others_need():
    (p,) = parameters(((3,),))
    before = p.detach().clone()
    p.grad = torch.ones_like(p)
    Optimizer([p], METHODS["sgd"](0.1)).step(full=lambda: 1 / 0, batch=7)
    assert torch.allclose(p, before - 0.1)
