"""Structure: which gradients arrive, shapes and memory layouts, ties, and what a step must leave alone."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from fallline.core.method import Method
from fallline.core.types import Reach
from fallline.testing.check import contract
from fallline.testing.harness import build, drive, feed, gradients, lr_of, nothing_changes, parameters, same, snapshot

# -- gradients that do not arrive ---------------------------------------------------------------------------------------


@contract(16, scope="each")
def missing_gradients_are_skipped(method: Method) -> None:
    """A parameter without gradient stays and does not age; its first gradient later is its first step."""
    params = parameters(((4, 3), (5,)), torch.float64)
    optimizer = build(method, list(zip("ab", params, strict=True)))
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
    late = build(method, [("b", fresh[0])])
    fresh[0].grad = gradients(params, 3)[1]
    late.step()
    assert same([params[1].detach()], [fresh[0].detach()]), "a late first gradient is not a first step"


@contract(16)
def nothing_happens_without_gradients(method: Method) -> None:
    """A step without any gradient changes nothing, not even a step count, at the start and later."""
    params = parameters(((4, 3), (5,)))
    optimizer = build(method, params)
    for steps in ((), (1, 2)):
        drive(optimizer, steps)
        optimizer.zero_grad()
        with nothing_changes(optimizer, "a step without any gradient"):
            optimizer.step()


@contract(16)
def frozen_parameters_start_late(method: Method) -> None:
    """A parameter frozen at construction stays; switched on later, it starts at its first step."""
    a, b = parameters(((4, 3), (5,)), torch.float64)
    b.requires_grad_(False)
    optimizer = build(method, [("a", a), ("b", b)])
    start = b.detach().clone()
    for t in (1, 2):
        a.grad = gradients([a], t)[0]
        optimizer.step()
    assert torch.equal(start, b), "a frozen parameter moved"
    b.requires_grad_(True)
    a.grad, b.grad = None, gradients([b], 3)[0]
    optimizer.step()
    fresh = nn.Parameter(start)
    alone = build(method, [("b", fresh)])
    fresh.grad = gradients([b], 3)[0]
    alone.step()
    assert same([b.detach()], [fresh.detach()]), "a thawed parameter's first step is not a first step"


# -- shapes and memory --------------------------------------------------------------------------------------------------


@contract(17, 19, scope="each")
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


@contract(19, scope="each")
def strided_memory_steps(method: Method) -> None:
    """Parameters with gaps in memory, and gradients laid out unlike their parameter, take a contiguous twin's steps."""
    memory = parameters(((6, 8),))[0].detach()
    gaps = memory[:, 1::2].clone()
    odd = [nn.Parameter(memory[:, ::2]), *parameters(((5, 4), (3, 4)), seed=1)]
    plain = [nn.Parameter(p.detach().clone(memory_format=torch.contiguous_format)) for p in odd]
    strides = [p.stride() for p in odd]
    runs = build(method, odd), build(method, plain)
    for t in range(1, 4):
        grads = gradients(plain, t)
        grads[2] = grads[2][:1].expand(3, 4)
        for p, g in zip(plain, grads, strict=True):
            p.grad = g.contiguous()
        odd[0].grad, odd[2].grad = grads[0], grads[2]  # dense for a parameter with gaps; expanded
        odd[1].grad = grads[1].t().contiguous().t()
        for run in runs:
            run.step()
    assert [p.stride() for p in odd] == strides, "strides changed"
    assert torch.equal(memory[:, 1::2], gaps), "memory between the parameter's elements was written"
    assert same([p.detach() for p in odd], [p.detach() for p in plain], 1e-6), "memory layout changes the values"


@contract(18)
def complex_parameters_work_or_are_refused(method: Method) -> None:
    """Complex parameters step as their real view does, or are refused at every way in, with nothing changed."""
    real = parameters(((4, 2), (3,)))
    as_complex = nn.Parameter(torch.view_as_complex(real[0].detach().clone()))
    optimizer = build(method, [real[1]])
    drive(optimizer, (1,))
    with nothing_changes(optimizer, "refusing a complex parameter"):
        try:
            made = build(method, [as_complex])
        except (ValueError, TypeError) as error:
            assert "complex" in str(error), f"the refusal does not say complex: {error}"
            try:
                optimizer.add_param_group({"params": [as_complex]})
            except (ValueError, TypeError):
                return
            raise AssertionError("a late complex parameter was accepted, an early one refused") from None
    twin = build(method, [real[0]])
    for t in range(1, 4):
        real[0].grad = gradients([real[0]], t)[0]
        as_complex.grad = torch.view_as_complex(real[0].grad)
        made.step()
        twin.step()
    assert same([torch.view_as_real(as_complex.detach())], [real[0].detach()]), "complex steps differ from real ones"


@contract(18)
def sparse_gradients_work_or_are_refused(method: Method) -> None:
    """Sparse gradients step as dense ones do, or are refused by name before any parameter has moved."""
    params, twins = parameters(((4, 3), (5, 3))), parameters(((4, 3), (5, 3)))
    optimizer, dense = build(method, params), build(method, twins)
    for run in (optimizer, dense):
        drive(run, (1,))
        last = feed(run, 2)[1]
        assert last.grad is not None
        last.grad[1:] = 0.0
    grad = params[1].grad
    assert grad is not None
    params[1].grad = grad.to_sparse(1)
    before = snapshot(optimizer)
    try:
        optimizer.step()
    except (RuntimeError, ValueError, TypeError) as error:
        assert "sparse" in str(error), f"the refusal does not say sparse: {error}"
        assert same(before, snapshot(optimizer)), "a refused sparse gradient changed the optimizer"
        return
    dense.step()
    assert same(snapshot(optimizer), snapshot(dense), 1e-6), "sparse gradients step differently from dense ones"


# -- ties and groups ----------------------------------------------------------------------------------------------------


@contract(20)
def tied_parameters_step_once(method: Method) -> None:
    """A parameter that a model uses twice steps once."""
    first, second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
    first.weight = second.weight = parameters(((4, 4),))[0]
    single = parameters(((4, 4),))[0]
    tied, alone = build(method, nn.Sequential(first, second)), build(method, [("0.weight", single)])
    first.weight.grad, single.grad = gradients([single], 1)[0], gradients([single], 1)[0]
    tied.step()
    alone.step()
    assert same([second.weight.detach()], [single.detach()]), "a tied parameter did not step exactly once"


@contract(20)
def shared_parameters_are_refused(method: Method) -> None:
    """A parameter in two groups is refused, late ones too, with nothing changed; twice in one it is refused or steps once."""
    a, b = parameters(((4, 3), (5,)))
    optimizer = build(method, [a])
    drive(optimizer, (1,))
    with nothing_changes(optimizer, "refusing a shared parameter"):
        for params in ([a], [b, a]):
            try:
                optimizer.add_param_group({"params": params})
            except ValueError:
                continue
            raise AssertionError("a late group shares a parameter with another one")
    try:
        build(method, [{"params": [a, b]}, {"params": [a]}])
    except ValueError:
        pass
    else:
        raise AssertionError("two groups share a parameter")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch only warns
        try:
            twice = build(method, [b, b])
        except ValueError:
            return
    single = nn.Parameter(b.detach().clone())
    alone = build(method, [single])
    b.grad, single.grad = gradients([b], 1)[0], gradients([b], 1)[0]
    twice.step()
    alone.step()
    assert same([b.detach()], [single.detach()]), "a parameter listed twice in one group stepped twice"


@contract(27, scope="each")
def two_groups_equal_two_optimizers(method: Method) -> None:
    """Two groups with their own learning rates step as two optimizers would."""
    if method.reach == Reach.GROUP:
        return  # a sum over all tensors is meant to couple them
    lr = lr_of(method)
    a, b = parameters(((4, 3), (5,)), torch.float64), parameters(((4, 3), (5,)), torch.float64)
    joint = build(method, [{"params": [("a", a[0])]}, {"params": [("b", a[1])], "lr": lr / 3}])
    ones = [build(method, [("a", b[0])]), build(method, [("b", b[1])], lr=lr / 3)]
    for t in range(1, 5):
        for params in (a, b):
            for p, g in zip(params, gradients(params, t), strict=True):
                p.grad = g
        for optimizer in (joint, *ones):
            optimizer.step()
    assert same([p.detach() for p in a], [p.detach() for p in b]), "groups influence one another"


@contract(27, scope="each")
def late_group_is_fresh(method: Method) -> None:
    """A parameter group added while training starts at step 1 and leaves the others alone."""
    if method.reach == Reach.GROUP:
        return  # a sum over all tensors is meant to couple them
    params = parameters(((4, 3), (5,)), torch.float64)
    optimizer = build(method, [("a", params[0])])
    drive(optimizer, range(1, 4))
    optimizer.add_param_group({"params": [("b", params[1])]})
    fresh = [nn.Parameter(params[1].detach().clone())]
    alone = build(method, [("b", fresh[0])])
    for t in (1, 2):
        params[0].grad, params[1].grad = gradients(params, t)
        fresh[0].grad = gradients(params, t)[1]
        optimizer.step()
        alone.step()
    assert same([params[1].detach()], [fresh[0].detach()]), "a late group does not start afresh"


# -- what a step leaves alone -------------------------------------------------------------------------------------------


@contract(21, scope="each")
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


@contract(21)
def rounding_leaves_global_randomness_alone(method: Method) -> None:
    """Stochastic rounding consumes no global random state, and the same seed rounds alike."""
    params = parameters(dtype=torch.bfloat16)
    random = torch.get_rng_state()
    drive(build(method, params, rounding="stochastic", seed=1), range(1, 4))
    assert torch.equal(random, torch.get_rng_state()), "global random state was consumed"
    torch.rand(3)
    again = parameters(dtype=torch.bfloat16)
    drive(build(method, again, rounding="stochastic", seed=1), range(1, 4))
    torch.set_rng_state(random)
    assert same([p.detach() for p in params], [p.detach() for p in again]), "one seed rounds in two ways"


@contract(21, scope="each")
def steps_are_in_place(method: Method) -> None:
    """Parameters stay the same leaves at the same addresses, with no graph on them, on their gradients or on state."""
    for dtype in (torch.float32, torch.bfloat16):
        params = parameters(dtype=dtype)
        optimizer = build(method, params)
        places = [p.data_ptr() for p in params]
        for _ in range(3):
            with torch.enable_grad():
                sum((p.float() ** 2).sum() for p in params).backward()  # type: ignore[union-attr]
                optimizer.step()
            kept = [p for group in optimizer.param_groups for p in group["params"]]
            assert all(p is q for p, q in zip(params, kept, strict=True)), "a parameter was replaced"
            assert [p.data_ptr() for p in params] == places, "a parameter moved in memory"
            assert all(p.is_leaf and p.grad_fn is None and p.requires_grad for p in params), "a parameter is no leaf"
            assert all(p.grad is not None and p.grad.grad_fn is None for p in params), "a gradient has a graph"
            state = [v for s in optimizer.state.values() for v in s.values()]
            assert not any(v.requires_grad or v.grad_fn is not None for v in state), "state keeps a graph"


@contract(21)
def zero_grad_is_torchs(method: Method) -> None:
    """zero_grad() frees gradients; zero_grad(set_to_none=False) zeroes them where they are."""
    params = parameters()
    optimizer = build(method, params)
    grads: list[Tensor] = [p.grad for p in feed(optimizer, 1) if p.grad is not None]
    optimizer.zero_grad(set_to_none=False)
    assert all(p.grad is g for p, g in zip(params, grads, strict=True)), "set_to_none=False replaced a gradient"
    assert not any(bool(g.any()) for g in grads), "set_to_none=False left a gradient that is not zero"
    optimizer.zero_grad()
    assert all(p.grad is None for p in params), "zero_grad() kept a gradient"
