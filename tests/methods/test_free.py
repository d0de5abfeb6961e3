"""Sign, averaging and parameter-free methods: against naive twins, against their authors' packages, and links in closed form."""

import inspect

import numpy as np
import pytest
import torch
from torch import nn

import fallline
from fallline import METHODS, Optimizer, chain
from fallline.lab.claims import ClaimLab
from fallline.schedules import warmup
from fallline.testing.harness import drive, gradients, parameters, same
from fallline.transforms import (
    average,
    average_ema,
    cautious,
    centralise,
    clip_by_norm,
    clip_by_unit_norm,
    compress_to_signs,
    decay,
    descend,
    predict,
    schedule_free,
    slow_weights,
    steepest,
)
from methods.twins import free as twins

SHAPES = ((4, 3), (5,), ())
STEPS = 20
SETTINGS = {"momentum": 0.8, "b1": 0.8, "b2": 0.95, "eps": 1e-3, "lr": 0.05}

# method -> hyperparameters; those of SETTINGS that it has come on top
CASES = [
    ("signsgd", {"weight_decay": 0.1}),
    ("signum", {"weight_decay": 0.1}),
    ("ef_signsgd", {}),
    *[("lion_k", {"weight_decay": 0.1, "e": 0.05, "k": k}) for k in ("l1", "l2", "huber", "truncated", "relativistic")],
    ("steepest_descent", {"norm": "max", "lr": 0.01}),
    ("steepest_descent", {"norm": "frobenius"}),
    ("normalised_gd", {"exponent": 0.7}),
    ("acclip", {"alpha": 1.5}),
    ("lookahead", {"alpha": 0.3, "k": 3}),
    ("schedule_free_adamw", {"weight_decay": 0.1}),
    ("xgrad", {"s": 2.0}),
    ("dog", {"lr": 1.0, "reps_rel": 1e-3}),
    ("l_dog", {"lr": 1.0, "reps_rel": 1e-3}),
    ("d_adapt_sgd", {"lr": 1.0, "d0": 1e-2}),
    ("d_adapt_adam", {"lr": 1.0, "d0": 1e-2, "weight_decay": 0.1}),
    ("prodigy", {"lr": 1.0, "d0": 1e-2, "weight_decay": 0.1}),
    ("sps", {"lr": 0.3, "c": 0.7, "f_star": 0.1}),
    ("alr_smag", {"lr": 0.3, "c": 0.7, "f_star": 0.1}),
    ("momo", {"lr": 0.3, "weight_decay": 0.1, "f_star": 0.1}),
    ("momo_adam", {"lr": 0.3, "weight_decay": 0.1, "f_star": 0.1}),
    ("adgd", {"lr": 0.9, "initial_step": 1e-3}),
]


def scripted(k, params):
    """A quadratic with noise: (loss, gradients), which feed back into the run."""
    noise = gradients(params, k, 0.3)
    loss = sum(((p.detach() ** 2).sum() / 2 + (p.detach() * n).sum()) for p, n in zip(params, noise, strict=True)) + 30
    return loss, [p.detach() + n for p, n in zip(params, noise, strict=True)]


def ours(optimizer, params, steps=STEPS):
    for k in range(1, steps + 1):
        loss, grads = scripted(k, params)
        for p, g in zip(params, grads, strict=True):
            p.grad = g
        optimizer.step(loss=loss)
    return [p.detach() for p in params]


def theirs(name, **values):
    def oracle(k, x):
        loss, grads = scripted(k, [torch.from_numpy(np.asarray(a)) for a in x])
        return float(loss), [g.numpy() for g in grads]

    start = [p.detach().numpy() for p in parameters(SHAPES, torch.float64)]
    return [torch.as_tensor(np.asarray(x)) for x in getattr(twins, name)(start, STEPS, oracle, **values)]


def gap(a, b):
    return max(float((x - y).abs().max()) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(("name", "values"), CASES, ids=[f"{n}-{v.get('k', v.get('norm', ''))}" for n, v in CASES])
def test_equals_its_paper(name, values):
    method = METHODS[name]
    settings = {k: v for k, v in SETTINGS.items() if k in method.hypers and k in _arguments(name)}
    params = parameters(SHAPES, torch.float64)
    end = ours(Optimizer(params, method(**{**settings, **values})), params)
    assert gap(end, theirs(name, **{**settings, **values})) < 1e-10
    assert gap(end, parameters(SHAPES, torch.float64)) > 1e-3, "it moved"


def _arguments(name):
    twin = getattr(twins, name)
    cells = [c.cell_contents for c in twin.__closure__ or ()]
    return inspect.signature(next((c for c in cells if callable(c)), twin)).parameters


def test_schedule_free_sgd_equals_its_paper_under_a_warm_up():
    params = parameters(SHAPES, torch.float64)
    end = ours(Optimizer(params, METHODS["schedule_free_sgd"](lr=0.3 * warmup(5), b1=0.8)), params)
    rate = 0.3 * warmup(5)
    assert gap(end, theirs("schedule_free_sgd", lr=lambda k: rate(k), b1=0.8)) < 1e-10


# -- the authors' packages ----------------------------------------------------------------------------------------------

PEERS = {
    "schedule_free_adamw": (
        "schedulefree",
        "AdamWScheduleFree",
        {"betas": ("b1", "b2")},
        {"lr": 0.05, "weight_decay": 0.1},
    ),
    "schedule_free_sgd": ("schedulefree", "SGDScheduleFree", {"momentum": "b1"}, {"lr": 0.05, "weight_decay": 0.1}),
    "prodigy": (
        "prodigyopt",
        "Prodigy",
        {"betas": ("b1", "b2")},
        {"lr": 1.0, "d0": 1e-2, "eps": 1e-30, "weight_decay": 0.1},
    ),
    "d_adapt_sgd": ("dadaptation", "DAdaptSGD", {"momentum": "momentum"}, {"lr": 1.0, "d0": 1e-2}),
    "d_adapt_adam": ("dadaptation", "DAdaptAdam", {"betas": ("b1", "b2")}, {"lr": 1.0, "d0": 1e-2, "eps": 1e-3}),
    "momo": ("momo", "Momo", {"beta": "momentum", "lb": "f_star"}, {"lr": 0.3, "weight_decay": 0.1}),
    "momo_adam": (
        "momo",
        "MomoAdam",
        {"betas": ("b1", "b2"), "lb": "f_star"},
        {"lr": 0.3, "weight_decay": 0.1, "eps": 1e-3},
    ),
    "dog": ("dog", "DoG", {}, {"reps_rel": 1e-3, "weight_decay": 0.1}),
    "l_dog": ("dog", "LDoG", {}, {"reps_rel": 1e-3, "weight_decay": 0.1}),
    "lion_k": ("lion_pytorch", "Lion", {"betas": ("b1", "b2")}, {"lr": 0.05, "weight_decay": 0.1}),
}


@pytest.mark.parametrize("name", PEERS)
def test_equals_its_authors_package(name):
    module, cls, renamed, values = PEERS[name]
    package = pytest.importorskip(module)
    own = {"b1": 0.8, "b2": 0.95, "momentum": 0.8, "f_star": 0.1}
    hypers = {**{k: v for k, v in own.items() if k in METHODS[name].hypers}, **values}
    passed = {k: v for k, v in values.items() if k not in own}
    for key, source in renamed.items():
        passed[key] = hypers[source] if isinstance(source, str) else tuple(hypers[s] for s in source)
    mine, other = parameters(SHAPES, torch.float64), parameters(SHAPES, torch.float64)
    end = ours(Optimizer(mine, METHODS[name](**hypers)), mine)
    made = getattr(package, cls)(other, **passed)
    if hasattr(made, "train"):
        made.train()
    for k in range(1, STEPS + 1):
        loss, grads = scripted(k, other)
        for p, g in zip(other, grads, strict=True):
            p.grad = g
        made.step(**({"loss": loss} if name.startswith("momo") else {}))
    assert gap(end, [p.detach() for p in other]) < (1e-6 if name in ("momo", "momo_adam") else 1e-10)  # sums in float32


def test_averages_equal_torchs():
    params, twin = parameters(SHAPES, torch.float64), nn.ParameterList(parameters(SHAPES, torch.float64))
    for link, options in (
        (average(), {}),
        (average_ema(0.9), {"multi_avg_fn": torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)}),
    ):
        optimizer = Optimizer(params, chain(METHODS["sgd"](0.1), link))
        plain = torch.optim.SGD(twin, lr=0.1)
        reference = torch.optim.swa_utils.AveragedModel(twin, **options)
        for t in range(1, 15):
            drive(optimizer, (t,))
            drive(plain, (t,))
            reference.update_parameters(twin)
        with fallline.averaged(optimizer):
            assert gap([p.detach() for p in params], [p.detach() for p in reference.module]) < 1e-12


# -- identities of the papers -------------------------------------------------------------------------------------------


def end(c, steps=8):
    params = parameters(((4, 3), (5,)), torch.float64)
    drive(Optimizer(params, c), range(1, steps + 1))
    return [p.detach() for p in params]


def test_two_ways_to_the_same_steps():
    m = METHODS
    assert same(end(m["signum"](0.1, momentum=0.0)), end(m["signsgd"](0.1)), 1e-12)
    assert same(end(m["signum"](0.1, momentum=0.9)), end(m["lion"](0.1, b1=0.9, b2=0.9)), 1e-12)
    assert same(end(m["lion_k"](0.1, k="l1")), end(m["lion"](0.1)), 1e-12)
    assert same(end(m["steepest_descent"](0.1, scaled=False)), end(m["signsgd"](0.1)), 1e-12)
    assert same(end(m["normalised_gd"](0.1, exponent=0.0)), end(m["sgd"](0.1)), 1e-12)
    assert same(end(m["lookahead"](0.1, alpha=1.0)), end(m["sgd"](0.1, momentum=0.9)), 1e-12)
    assert same(end(m["xgrad"](0.1, s=0.0, weight_decay=0.1)), end(m["adamw"](0.1, weight_decay=0.1)), 1e-12)
    assert same(end(m["swa"](0.1)), end(m["sgd"](0.1, momentum=0.9)), 0)  # averaging only watches
    parts = chain(descend(0.1), schedule_free(0.1, 0.9))
    assert same(end(m["schedule_free_sgd"](0.1)), end(parts), 1e-12)


@pytest.mark.parametrize("name", ["dog", "d_adapt_sgd", "d_adapt_adam", "prodigy", "adgd"])
def test_scale_invariance(name):
    ends = []
    values = {"eps": 0.0} if "eps" in METHODS[name].hypers else {}
    if name == "adgd":
        values = {"initial_step": 1e-9}
    for scale in (1.0, 64.0):
        params = parameters(((4, 3), (5,)), torch.float64)
        if name == "adgd":
            values["initial_step"] = 1e-9 / scale
        optimizer = Optimizer(params, METHODS[name](**values))
        for _ in range(30):
            for p in params:
                p.grad = scale * (p.detach() - 3)
            optimizer.step()
        ends.append([p.detach() for p in params])
    assert gap(*ends) < 1e-9


# -- links --------------------------------------------------------------------------------------------------------------


def displacement(*steps, g=None, p0=None):
    p = nn.Parameter(ClaimLab().start() if p0 is None else p0)
    before = p.detach().clone()
    p.grad = (ClaimLab().gradient() if g is None else g).clone()
    Optimizer([p], chain(*steps)).step()
    return before - p.detach()


def test_links_in_closed_form():
    lab = ClaimLab()
    g, p = lab.gradient(), lab.start()
    assert torch.allclose(displacement(clip_by_norm(1e9)), g)
    assert torch.allclose(displacement(clip_by_norm(0.5)), 0.5 * g / g.norm(), rtol=1e-5)
    assert torch.allclose(displacement(centralise()), g - g.mean(1, keepdim=True))
    assert torch.allclose(displacement(centralise()).sum(1), torch.zeros(6, dtype=torch.float64), atol=1e-12)
    clipped = displacement(clip_by_unit_norm(0.01))
    assert torch.allclose(clipped.norm(dim=1), 0.01 * p.norm(dim=1))
    assert torch.allclose(clipped / clipped.norm(dim=1, keepdim=True), g / g.norm(dim=1, keepdim=True))
    assert torch.allclose(displacement(clip_by_unit_norm(1e9)), g)
    assert torch.allclose(displacement(steepest("frobenius")), g / g.norm())
    assert torch.allclose(displacement(compress_to_signs()), g.abs().mean() * g.sign())
    assert torch.allclose(displacement(descend(0.1), decay(0.3)), 0.1 * g + 0.3 * p)  # independent of lr
    assert torch.allclose(displacement(predict(2.0)), 3 * g)


@pytest.mark.parametrize("shape", [(), (5,), (4, 3), (2, 3, 2, 2)])
def test_unit_norms_take_any_shape_and_leave_zero_gradients_alone(shape):
    p, zero = torch.ones(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64)
    for link in (clip_by_unit_norm(), clip_by_norm(1.0), centralise(), cautious(), steepest("frobenius")):
        assert not displacement(link, g=zero, p0=p.clone()).any()
    moved = displacement(clip_by_unit_norm(0.1), g=100 * p, p0=p.clone())
    units = moved.reshape(shape[0], -1).norm(dim=1) if len(shape) > 1 else moved.norm()
    whole = p.reshape(shape[0], -1).norm(dim=1) if len(shape) > 1 else p.norm()
    assert torch.allclose(units, 0.1 * whole)


def test_cautious_updates_never_go_against_the_gradient():
    for base in (METHODS["lion"], METHODS["adam"]):
        p = nn.Parameter(ClaimLab().start())
        optimizer = Optimizer([p], chain(base(lr=0.1), cautious()))
        resting = 0
        for t in range(1, 20):
            before = p.detach().clone()
            p.grad = ClaimLab().gradient(seed=t)
            optimizer.step()
            agreeing = (before - p.detach()) * p.grad
            assert (agreeing >= 0).all()
            resting += int((agreeing == 0).sum())
        assert resting > 10
    g = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    assert torch.allclose(displacement(cautious(), g=g, p0=g.clone()), g * 3 / (3 + 1))


def test_slow_weights_go_around_any_chain():
    path = []
    params = parameters(((4,),), torch.float64)
    start = params[0].detach().clone()
    optimizer = Optimizer(params, chain(METHODS["adamw"](0.1), slow_weights(3, 0.25)))
    for t in (1, 2, 3):
        drive(optimizer, (t,))
        path.append(params[0].detach().clone())
    fast = end_of(METHODS["adamw"](0.1), 3)
    assert torch.allclose(path[2], start + 0.25 * (fast - start), rtol=1e-12)


def end_of(c, steps):
    params = parameters(((4,),), torch.float64)
    drive(Optimizer(params, c), range(1, steps + 1))
    return params[0].detach()


@pytest.mark.parametrize(
    "link", [average, lambda every: average(every=every), slow_weights], ids=["start", "every", "k"]
)
@pytest.mark.parametrize("bad", [0, -1, 2.5, True])
def test_counts_of_steps_are_whole_numbers(link, bad):
    with pytest.raises(ValueError, match=r"Expected a whole number of steps, at least 1\. Write for example"):
        link(bad)


# -- evaluation at the average ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_averaged_swaps_in_and_back(dtype):
    params = parameters(((70, 65), (5,)), dtype)
    optimizer = Optimizer(params, METHODS["schedule_free_sgd"](0.1))
    drive(optimizer, range(1, 6))
    before = [p.detach().clone() for p in params]
    with fallline.averaged(optimizer):
        inside = [p.detach().clone() for p in params]
    assert same(before, [p.detach() for p in params])
    assert not same(before, inside)
    z, start = [p.detach().double() for p in parameters(((70, 65), (5,)), dtype)], []
    for t in range(1, 6):
        z = [x - 0.1 * g.double() for x, g in zip(z, gradients(params, t), strict=True)]
        start.append(z)
    mean = [sum(xs) / 5 for xs in zip(*start, strict=True)]
    assert gap([x.double() for x in inside], mean) < {torch.float64: 1e-12, torch.float32: 1e-5}.get(dtype, 2e-2)


def test_averaged_takes_groups_schedules_and_edits():
    a, b = parameters(((4, 3), (5,)), torch.float64)
    optimizer = Optimizer(
        [{"params": [a], "chain": METHODS["swa"](0.1 * warmup(3))}, {"params": [b], "chain": METHODS["sgd"](0.1)}],
        METHODS["sgd"](0.1),
    )
    drive(optimizer, range(1, 5))
    kept = b.detach().clone()
    with fallline.averaged(optimizer):
        assert torch.equal(a, optimizer.state[a]["average.x"])
        assert torch.equal(b, kept)


def test_averaged_refuses_what_it_cannot_do():
    params = parameters(((4,),))
    plain, swa = Optimizer(params, METHODS["sgd"](0.1)), Optimizer(params, METHODS["swa"](0.1))
    with pytest.raises(ValueError, match=r"nothing that averages in sgd\. Expected a chain"), fallline.averaged(plain):
        pass
    with pytest.raises(TypeError, match=r"got a SGD\. Expected a fallline"), fallline.averaged(torch.optim.SGD(params)):
        pass
    with pytest.raises(RuntimeError, match=r"step\(\) was called inside averaged"), fallline.averaged(swa):
        drive(swa, (1,))
    with pytest.raises(ZeroDivisionError), fallline.averaged(swa):
        raise ZeroDivisionError  # an error inside comes out, and the parameters are back
