"""On a GPU: every method steps as on the CPU and reads nothing back, and runs train together as they do on the CPU.

Skipped where there is none. tests/core/test_grids.py tries the kernels everywhere, as C++.
"""

import io

import pytest
import torch

from fallline import METHODS, Optimizer, chain
from fallline.core.errors import NotFiniteError
from fallline.core.types import Reach
from fallline.lab import RunSpec, train, train_population
from fallline.methods import adamw, lamb, muon, prodigy
from fallline.tasks import load, on_device
from fallline.testing.harness import SHAPES, a_loss, build, gradients, parameters, same
from fallline.transforms import clip_by_global_norm

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

TENSORS = (*SHAPES, (130, 140))

SQUARE = ((6, 6), (6,), (), (130, 130))
"""For methods that decompose the first gradient: its null space has no basis of its own."""
ON_GRADIENTS = sorted(name for name, method in METHODS.items() if not method().needs - {"loss"})


def stepped(optimizer, params, steps, device):
    for t in steps:
        given = [g.to(device) for g in gradients_like(params, t)]
        for p, g in zip(params, given, strict=True):
            p.grad = g
        optimizer.step(loss=a_loss(params, given))
    return [p.detach().cpu() for p in params]


def gradients_like(params, t):
    return gradients([torch.empty(p.shape, dtype=p.dtype) for p in params], t)


def on(device, shapes=TENSORS, dtype=torch.float32):
    return [torch.nn.Parameter(p.detach().to(device)) for p in parameters(shapes, dtype)]


def made(method, params, fuse, **values):
    chain_of_it = build(method, parameters(((2, 2),)), fuse="eager", **values).chains[0]
    return Optimizer(params, chain_of_it, fuse=fuse)


@pytest.mark.parametrize("name", ON_GRADIENTS)
def test_every_method_steps_as_on_the_cpu(name):
    method = METHODS[name]
    ends = {}
    for device, fuse in (("cpu", "eager"), ("cuda", "eager"), ("cuda", "auto")):
        params = on(device, SQUARE, torch.float64) if name == "soap" else on(device)
        ends[device, fuse] = stepped(made(method, params, fuse), params, range(1, 5), device)
    reference = ends.pop(("cpu", "eager"))
    for where, found in ends.items():
        assert same(found, reference, 2e-3 if method.reach == Reach.MATRIX else 1e-4), where


@pytest.mark.parametrize("name", ON_GRADIENTS)
def test_a_step_reads_nothing_back(name):
    method = METHODS[name]
    params = on("cuda")
    products_alone = {"solver": "newton"} if name == "shampoo" else {}  # eigenvalues are waited for, every tenth step
    optimizer = made(method, params, "auto", **products_alone)
    stepped(optimizer, params, range(1, 3), "cuda")
    given = [[g.cuda() for g in gradients_like(params, t)] for t in range(3, 15)]
    torch.cuda.synchronize()
    loss = torch.ones((), device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        for grads in given:
            for p, g in zip(params, grads, strict=True):
                p.grad = g
            optimizer.step(loss=loss)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("make", [adamw, lamb, prodigy], ids=lambda m: m.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_dtypes(make, dtype):
    ends = []
    for device, fuse in (("cpu", "eager"), ("cuda", "flat")):
        params = on(device, ((150, 151), (7, 3), (1,)), dtype)
        optimizer = Optimizer(params, chain(clip_by_global_norm(1.0), make()), fuse=fuse)
        assert device == "cpu" or "kernels for all tensors at once" in optimizer.explain()
        ends.append([p.float() for p in stepped(optimizer, params, (1, 2, 3), device)])
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-6, torch.bfloat16: 0.02, torch.float16: 4e-3}[dtype]
    assert same(*ends, tolerance)


@pytest.mark.parametrize("fuse", ["eager", "leaf", "flat"])
def test_a_refused_step_changes_nothing(fuse):
    params = on("cuda", ((40, 50), (6,)))
    optimizer = Optimizer(params, adamw(0.01), fuse=fuse)
    stepped(optimizer, params, (1, 2), "cuda")
    before = [x.clone() for p in params for x in (p.detach(), *optimizer.state[p].values())]
    for p, g in zip(params, gradients_like(params, 3), strict=True):
        p.grad = g.cuda()
    params[1].grad[0] = float("inf")
    optimizer.step()
    after = [x for p in params for x in (p.detach(), *optimizer.state[p].values())]
    assert all(map(torch.equal, before, after))
    assert optimizer.num_skipped == 1


def test_patience_ends_with_the_parameters_name():
    params = on("cuda", ((40, 50), (6,)))
    optimizer = Optimizer([("first", params[0]), ("second", params[1])], adamw(0.01), nonfinite="raise")
    for p in params:
        p.grad = torch.ones_like(p)
    params[1].grad[0] = float("nan")
    with pytest.raises(NotFiniteError, match="second"):
        optimizer.step()


def test_a_checkpoint_goes_to_the_cpu_and_back():
    params = on("cuda")
    optimizer = Optimizer(params, adamw(0.01))
    stepped(optimizer, params, (1, 2), "cuda")
    file = io.BytesIO()
    torch.save({"p": [p.detach() for p in params], "o": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, map_location="cpu")
    ends = []
    for device in ("cpu", "cuda"):
        again = [torch.nn.Parameter(p.clone().to(device)) for p in saved["p"]]
        fresh = Optimizer(again, adamw(0.01))
        fresh.load_state_dict(saved["o"])
        ends.append(stepped(fresh, again, (3, 4), device))
    ends.append(stepped(optimizer, params, (3, 4), "cuda"))
    assert same(ends[0], ends[2], 1e-5)
    assert same(ends[1], ends[2], 0.0)


def test_gradient_scaler_and_autocast():
    model = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 10)).cuda()
    optimizer = Optimizer(model, chain(clip_by_global_norm(1.0), adamw(1e-2)))
    scaler = torch.amp.GradScaler("cuda", init_scale=2.0**40)  # too large: the first steps are skipped
    x, y = torch.randn(128, 64, device="cuda"), torch.randint(10, (128,), device="cuda")
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        with torch.autocast("cuda", dtype=torch.float16):
            loss = torch.nn.functional.cross_entropy(model(x), y)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(float(loss))
    assert losses[-1] < 0.5 * losses[0]
    assert int(next(iter(optimizer.state.values()))["step"]) < 60


def test_stepping_inside_backward():
    ends = []
    for inside in (False, True):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(64, 300), torch.nn.Tanh(), torch.nn.Linear(300, 10)).cuda()
        optimizer = Optimizer(model, adamw(1e-2))
        if inside:
            optimizer.step_in_backward()
        x = torch.ones(8, 64, device="cuda")
        for _ in range(4):
            model(x).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        ends.append([p.detach().cpu() for p in model.parameters()])
    assert same(*ends, 1e-5)


def test_a_step_is_captured_in_a_graph():
    ends = []
    for captured in (False, True):
        params = on("cuda", ((150, 151), (7, 3)))
        optimizer = Optimizer(params, adamw(0.01), fuse="flat")
        for p, g in zip(params, gradients_like(params, 1), strict=True):
            p.grad = g.cuda()
        optimizer.step()
        torch.cuda.synchronize()
        if captured:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                optimizer.step()
            for _ in range(3):
                graph.replay()
        else:
            for _ in range(3):
                optimizer.step()
        ends.append([p.detach().cpu() for p in params])
    assert same(*ends, 1e-6)


def test_stacked_matrices_step_as_one_by_one():
    ends = []
    for fuse in ("eager", "blocks"):
        params = on("cuda", ((96, 64),) * 6 + ((64, 96),) * 3 + ((64,),))
        optimizer = Optimizer(params, muon(0.02), fuse=fuse)
        ends.append(stepped(optimizer, params, (1, 2, 3), "cuda"))
    assert same(*ends, 2e-3)


def test_a_population_trains_as_runs_by_themselves():
    task = on_device(load("digits-mlp"), "cuda")
    specs = [
        RunSpec("digits-mlp", "adamw", (("lr", lr),), seed, 30, "tune") for lr in (1e-3, 1e-2) for seed in (0, 1, 2)
    ]
    together = train_population(task, specs, room=None)
    on_the_cpu = [train(load("digits-mlp"), spec) for spec in specs]
    alone = train(task, specs[0])
    for ours, theirs in zip(together, on_the_cpu, strict=True):
        assert ours["initial_parameters"] == theirs["initial_parameters"]
        assert ours["final"] == pytest.approx(theirs["final"], abs=0.02)
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=2e-3)
    assert alone["train_loss"] == pytest.approx(together[0]["train_loss"], rel=2e-3)
