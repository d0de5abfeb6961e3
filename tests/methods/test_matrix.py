"""Matrix preconditioners: roots against scipy, blocks by brute force, methods against torch and against twins in numpy."""

import math
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import nn

from fallline import METHODS, Optimizer
from fallline.core.errors import InvalidTypeError, InvalidValueError
from fallline.core.types import At
from fallline.methods.matrix.muon import ScaleByMuon
from fallline.methods.matrix.psgd import ScaleByPsgd
from fallline.methods.matrix.routing import muon_groups
from fallline.methods.matrix.shampoo import ScaleByShampoo
from fallline.methods.matrix.soap import ScaleBySoap
from fallline.testing.harness import drive, gradients, parameters
from fallline.transforms.kronecker import grid_of, packed, unpacked
from fallline.transforms.orthogonalise import orthogonalise, polar, size_of_step
from fallline.transforms.roots import inverse_root, iterations_for, turn_of, when
from pages import python_blocks, run_blocks

F64 = torch.float64


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def spd(n, condition, seed=0):
    q = torch.linalg.qr(normal(n, n, seed=seed)).Q
    return q * torch.logspace(0, -math.log10(condition), n, dtype=F64) @ q.mT


# -- inverse roots ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("condition", [1.0, 1e3, 1e6, 1e10])
@pytest.mark.parametrize("root", [1, 2, 4, 6])
@pytest.mark.parametrize("solver", ["eigh", "newton"])
def test_inverse_roots_are_scipys(condition, root, solver):
    a = 7.0 * spd(8, condition, seed=root)
    found = inverse_root(a, root, solver=solver, num_iterations=iterations_for(1 / condition / 10, root))
    expected = torch.tensor(scipy.linalg.fractional_matrix_power(a.numpy(), -1 / root).real)
    rtol = 1e-13 * max(condition, 100.0)  # what the smallest eigenvalue is known to
    assert float((found - expected).norm()) <= rtol * float(expected.norm())


@pytest.mark.parametrize("solver", ["eigh", "newton"])
def test_a_ridge_is_relative_to_the_largest_eigenvalue(solver):
    a, eps = 1e-6 * spd(6, 1e8), 1e-4
    largest = float(torch.linalg.eigvalsh(a)[-1]) if solver == "eigh" else float(a.abs().sum(-1).max())
    expected = scipy.linalg.fractional_matrix_power((a + eps * largest * torch.eye(6, dtype=F64)).numpy(), -0.25)
    found = inverse_root(a, 4, eps, solver)
    assert torch.allclose(found, torch.tensor(expected.real), rtol=1e-8, atol=1e-8 * float(found.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("solver", ["eigh", "newton"])
@pytest.mark.parametrize("eps", [0.0, 1e-6])
def test_roots_of_deficient_zero_and_extreme_matrices_are_finite(dtype, solver, eps):
    thin = normal(8, 2).to(dtype)
    extremes = (1e-30, 1e30) if dtype is torch.float32 else (1e-300, 1e300)
    for a in (torch.zeros(4, 4, dtype=dtype), *(s * (thin @ thin.mT) for s in (1.0, *extremes))):
        assert inverse_root(a, 4, eps, solver).isfinite().all()
    assert torch.equal(inverse_root(torch.zeros(4, 4), 4), torch.eye(4))


def test_without_a_ridge_a_null_space_is_left_out():
    thin = normal(6, 2)
    root = inverse_root(thin @ thin.mT, 2)
    expected = torch.linalg.pinv(thin @ thin.mT, hermitian=True)
    assert torch.allclose(root @ root, expected, rtol=1e-9, atol=1e-9)


def test_work_that_is_not_due_is_not_done():
    def fail():
        raise AssertionError

    old = (torch.ones(2),)
    assert when(False, fail, old) is old
    assert torch.equal(when(torch.tensor(False), lambda: (torch.zeros(2),), old)[0], old[0])
    assert torch.equal(when(torch.tensor(True), lambda: (torch.zeros(2),), old)[0], torch.zeros(2))


# -- blocks -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "block", "counts", "sizes"),
    [
        ((6, 4), 8, (1, 1), (6, 4)),
        ((7, 5), 4, (2, 2), (4, 3)),
        ((8, 3, 2, 2), 12, (1, 1), (8, 12)),
        ((8, 5, 3, 3), 12, (1, 1, 1), (8, 5, 9)),
        ((1, 7, 1, 5), 4, (2, 2), (4, 3)),
    ],
)
def test_blocks_go_together_again(shape, block, counts, sizes):
    grid = grid_of(shape, block)
    assert (grid.counts, grid.sizes) == (counts, sizes)
    x = normal(*shape)
    blocks = grid.cut(grid.pad(x))
    assert blocks.shape == (math.prod(counts), *sizes)
    assert torch.equal(grid.crop(grid.join(blocks), x.shape), x)


def test_vectors_have_no_grid():
    assert all(grid_of(shape, 8) is None for shape in ((), (5,), (1, 5), (5, 1, 1), (0, 4)))


def test_products_of_blocks_are_those_of_tensors():
    grid, x = grid_of((4, 3, 5), 6), normal(4, 3, 5)
    factors = [normal(1, n, n, seed=n) for n in (4, 3, 5)]
    blocks = grid.cut(grid.pad(x))
    expected = torch.einsum("abc,xa,yb,zc->xyz", x, *(f[0] for f in factors))
    assert torch.allclose(grid.join(grid.times(blocks, factors)), expected)
    assert torch.allclose(grid.outer(blocks, 1)[0], torch.einsum("abc,adc->bd", x, x))
    assert all(torch.equal(a, b) for a, b in zip(unpacked(packed(factors), grid), factors, strict=True))


@pytest.mark.parametrize(("sides", "axes"), [("both", (0, 1)), ("left", (0,)), ("right", (1,)), ("shorter", (1,))])
def test_sides(sides, axes):
    assert grid_of((6, 4), 8, sides).axes == axes


# -- Newton-Schulz ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(64, 64), (64, 200), (200, 64)])
def test_bfloat16_keeps_singular_values_in_the_published_band(shape):
    for precision, low, high in (("bfloat16", 0.65, 1.2), ("float32", 0.67, 1.15)):
        x = normal(*shape, seed=3).float()
        u, s, vh = torch.linalg.svd(x, full_matrices=False)
        x = u * s.clamp(min=0.03 * s.max()) @ vh
        values = torch.linalg.svdvals(polar(x, 5, precision))
        assert low < float(values.min())
        assert float(values.max()) < high


def test_polar_of_zero_of_rank_one_and_of_extremes():
    assert torch.equal(polar(torch.zeros(3, 5)), torch.zeros(3, 5))
    x = normal(6, 1) @ normal(1, 4, seed=1)
    assert torch.allclose(polar(x), polar(1e-30 * x), rtol=1e-9)
    assert torch.allclose(polar(x.float()), polar(1e30 * x.float()), rtol=1e-3, atol=1e-5)
    assert float(torch.linalg.svdvals(polar(x))[1]) < 1e-12


def test_a_stack_is_as_good_as_its_matrices_whole_or_in_pieces(monkeypatch):
    x = normal(5, 4, 7)
    assert torch.allclose(torch.vmap(polar)(x), torch.stack([polar(y) for y in x]), rtol=1e-12)
    assert torch.allclose(torch.vmap(polar, in_dims=2)(x), torch.stack([polar(y) for y in x.unbind(2)]), rtol=1e-12)
    whole, module = torch.vmap(polar)(x), sys.modules[polar.__module__]
    assert len(module._parts(x)) == 1
    for size, pieces in ((1, 5), (2 * x[0].numel(), 3), (5 * x[0].numel() - 1, 2)):
        monkeypatch.setattr(module, "CACHED", size)
        assert len(module._parts(x)) == pieces
        assert torch.allclose(torch.vmap(polar)(x), whole, rtol=1e-12)


def test_a_vector_is_a_matrix_of_one_column():
    u, _ = orthogonalise("none").update(normal(7), None)
    assert torch.allclose(u / u.norm(), normal(7) / normal(7).norm())


# -- Muon ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ours", "theirs"), [("keller_jordan", "original"), ("moonlight", "match_rms_adamw")])
def test_muon_takes_torchs_steps_up_to_bfloat16(ours, theirs):
    shapes = ((12, 8), (8, 12), (10, 10))
    mine, other = parameters(shapes), parameters(shapes)
    start = [p.detach().clone() for p in mine]
    chain = METHODS["muon"](lr=0.02, weight_decay=0.1, scale=ours, precision="bfloat16")
    drive(Optimizer(mine, chain), range(1, 11))
    drive(torch.optim.Muon(other, lr=0.02, weight_decay=0.1, adjust_lr_fn=theirs), range(1, 11))
    for p, q, s in zip(mine, other, start, strict=True):
        assert float((p - q).norm()) < 0.02 * float((q - s).norm())


def muon_twin(p, grads, lr, momentum, weight_decay):
    m = np.zeros_like(p)
    for g in grads:
        m = momentum * m + (1 - momentum) * g
        x = (1 - momentum) * g + momentum * m
        wide = x if x.shape[0] <= x.shape[1] else x.T
        wide = wide / np.linalg.norm(wide)
        for _ in range(5):
            a = wide @ wide.T
            wide = 3.4445 * wide + (-4.7750 * a + 2.0315 * a @ a) @ wide
        o = wide if x.shape[0] <= x.shape[1] else wide.T
        p = p - lr * (0.2 * math.sqrt(max(p.shape)) * o + weight_decay * p)
    return p


@pytest.mark.parametrize("shape", [(5, 7), (7, 5), (4, 3, 2, 2)])
def test_muon_equals_its_twin(shape):
    (p,), columns = parameters((shape,), F64), (shape[0], -1)
    grads = [gradients([p], t)[0].reshape(columns).numpy() for t in range(1, 9)]
    expected = muon_twin(p.detach().reshape(columns).numpy().copy(), grads, 0.1, 0.9, 0.1)
    drive(Optimizer([p], METHODS["muon"](lr=0.1, momentum=0.9, weight_decay=0.1)), range(1, 9))
    assert np.allclose(p.detach().reshape(columns).numpy(), expected, rtol=1e-9, atol=1e-10)


def test_muon_leaves_vectors_to_adamw_or_refuses_them():
    a, b = parameters(((6,),), F64), parameters(((6,),), F64)
    drive(Optimizer(a, METHODS["muon"](lr=0.1, momentum=0.9, b2=0.99)), range(1, 6))
    drive(Optimizer(b, METHODS["adamw"](lr=0.1, b1=0.9, b2=0.99, weight_decay=0.0)), range(1, 6))
    assert torch.allclose(a[0], b[0], rtol=1e-12)
    with pytest.raises(
        InvalidValueError,
        match=r"muon\(\) got the parameter 'ln.weight' of shape \(6,\)\. It needs matrices\. Put it in",
    ):
        Optimizer([("ln.weight", a[0])], METHODS["muon"](vectors="refuse"))


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("muon", {"scale": "adam"}, r"Unknown scale of muon 'adam'"),
        ("muon", {"precision": "float8"}, r"Unknown precision of muon 'float8'"),
        ("muon", {"num_iterations": 0}, r"muon got num_iterations=0"),
        ("muon", {"vectors": "sgd"}, r"Unknown vectors of muon 'sgd'"),
        ("shampoo", {"graft": "adam"}, r"Unknown graft of shampoo 'adam'"),
        ("shampoo", {"sides": "top"}, r"Unknown sides of shampoo 'top'"),
        ("soap", {"every": 0}, r"soap got every=0"),
        ("psgd", {"block": 1.5}, r"psgd got block=1.5"),
    ],
)
def test_options_are_checked(method, options, message):
    with pytest.raises(ValueError, match=message):
        METHODS[method](**options)


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.conv = nn.Embedding(9, 4), nn.Conv2d(3, 4, 3)
        self.mlp, self.norm = nn.Linear(4, 6), nn.LayerNorm(6)
        self.head = nn.Linear(6, 9, bias=False)


def routed(model, *chains, **options):
    optimizer = Optimizer(model, muon_groups(model, *chains, **options))
    return {group["method"]: set(group["param_names"]) for group in optimizer.param_groups}


def test_muon_groups_leaves_embeddings_head_and_vectors_to_adamw():
    found = routed(Tiny(), METHODS["muon"](vectors="refuse"))
    assert found["muon"] == {"conv.weight", "mlp.weight"}
    assert found["adamw"] == {"embed.weight", "conv.bias", "mlp.bias", "norm.weight", "norm.bias", "head.weight"}
    assert routed(Tiny(), head="mlp*")["muon"] == {"conv.weight", "head.weight"}
    assert "lion" in routed(Tiny(), METHODS["muon"](), METHODS["lion"]())


def test_muon_groups_of_a_tied_head_and_of_nothing_but_matrices():
    model = Tiny()
    model.head = nn.Linear(4, 9, bias=False)
    model.head.weight = model.embed.weight
    assert routed(model)["muon"] == {"conv.weight", "mlp.weight"}
    assert routed(nn.Sequential(nn.Linear(3, 3, bias=False)), head="none") == {"muon": {"0.weight"}}


def test_muon_groups_without_matrices_or_model():
    with pytest.raises(InvalidValueError, match=r"found no hidden matrix among 2 parameters"):
        muon_groups(nn.Linear(3, 2))
    with pytest.raises(InvalidTypeError, match=r"muon_groups\(\) got list instead of a model"):
        muon_groups([])


def test_orthogonalise_checks_its_options():
    with pytest.raises(InvalidValueError, match=r"orthogonalise got scale='adam'\. Expected one of moonlight, keller"):
        orthogonalise("adam")
    with pytest.raises(InvalidValueError, match=r"orthogonalise got precision='float8'\. Expected one of float32, bfl"):
        orthogonalise(precision="float8")


def test_scales():
    assert size_of_step("moonlight", 16, 4) == pytest.approx(0.8)
    assert size_of_step("keller_jordan", 16, 4) == 2.0
    assert size_of_step("keller_jordan", 4, 16) == size_of_step("none", 4, 16) == 1.0


def test_explain_says_how_far_matrices_move():
    text = Optimizer(parameters(((16, 4), (8, 2, 2), (5,))), METHODS["muon"](scale="keller_jordan")).explain()
    assert "steps     16 x 4 by 2 lr in every direction, 0.5 lr in root mean square" in text
    assert "steps     8 x 4 by 1.41 lr" in text
    assert text.count("in every direction") == 2


# -- Shampoo, SOAP and PSGD ---------------------------------------------------------------------------------------------


def power(a, exponent, eps):
    values, vectors = np.linalg.eigh(a)
    return vectors * (np.maximum(values, 0) + eps * values.max()) ** exponent @ vectors.T


def shampoo_twin(p, grads, lr, b1, b2, eps, every, letters="abcd"):
    """One block of any order, written with einsum over the whole tensor; grafting of RMSprop."""
    k, letters = p.ndim, letters[: p.ndim]
    held, v, m = [0.0] * k, np.zeros_like(p), None
    for t, g in enumerate(grads, 1):
        v = b2 * v + (1 - b2) * g * g
        for i in range(k):
            other = letters.replace(letters[i], "z")
            held[i] = b2 * held[i] + (1 - b2) * np.einsum(f"{letters},{other}->{letters[i]}z", g, g)
        if (t - 1) % every == 0:
            roots = [power(h / (1 - b2**t), -1 / (2 * k), eps) for h in held]
        d = np.einsum(f"{letters},{','.join(x.upper() + x for x in letters)}->{letters.upper()}", g, *roots)
        graft = g / (np.sqrt(v / (1 - b2**t)) + 1e-8)
        d = d * np.linalg.norm(graft) / np.linalg.norm(d)
        m = d if m is None else b1 * m + (1 - b1) * d
        p = p - lr * m
    return p


@pytest.mark.parametrize(("shape", "block"), [((5, 4), 8), ((4, 3, 5), 6), ((4, 3, 2, 5), 5)])
def test_shampoo_equals_its_twin(shape, block):
    (p,) = parameters((shape,), F64)
    grads = [gradients([p], t)[0].numpy() for t in range(1, 8)]
    expected = shampoo_twin(p.detach().numpy().copy(), grads, 0.1, 0.8, 0.9, 1e-4, 3)
    chain = METHODS["shampoo"](lr=0.1, b1=0.8, b2=0.9, eps=1e-4, every=3, block=block)
    drive(Optimizer([p], chain), range(1, 8))
    assert np.allclose(p.detach().numpy(), expected, rtol=1e-8, atol=1e-9)


def test_blocks_are_tensors_of_their_own():
    """Without grafting, a matrix in four blocks, some of them filled up, steps as four matrices do."""
    (p,) = parameters(((7, 5),), F64)
    whole = {"lr": 0.1, "b1": 0.5, "graft": "none", "every": 2}
    parts = [
        nn.Parameter(p.detach()[i][:, j].clone()) for i in (slice(4), slice(4, 7)) for j in (slice(3), slice(3, 5))
    ]
    for name, options in (("shampoo", {**whole, "block": 4}), ("soap", {"lr": 0.1, "every": 50, "block": 4})):
        own = {k: v for k, v in options.items() if k != "block"}
        one = [nn.Parameter(p.detach().clone())]
        alone = [nn.Parameter(q.detach().clone()) for q in parts]
        joint, split = Optimizer(one, METHODS[name](**options)), Optimizer(alone, METHODS[name](**own))
        for t in range(1, 6):
            g = gradients([p], t)[0]
            one[0].grad = g
            cut = [g[i][:, j] for i in (slice(4), slice(4, 7)) for j in (slice(3), slice(3, 5))]
            for q, piece in zip(alone, cut, strict=True):
                q.grad = piece.clone()
            joint.step()
            split.step()
        whole_again = torch.cat([torch.cat([alone[0], alone[1]], 1), torch.cat([alone[2], alone[3]], 1)])
        assert torch.allclose(one[0], whole_again, rtol=1e-6, atol=1e-7), name


@pytest.mark.parametrize("solver", ["eigh", "newton"])
def test_shampoos_roots_by_either_solver(solver):
    step = ScaleByShampoo(b2=0.9, eps=1e-3, graft="none", solver=solver)
    g = normal(6, 4)
    slots = {name: init(step, g) for name, init in step.slots.items()}
    from fallline.core.types import At

    u, _ = step.update(g, At(g, g, 1), **slots)
    left = g @ g.mT
    ridge = {"eigh": torch.linalg.matrix_norm(left, 2), "newton": left.abs().sum(-1).max()}[solver]
    right = {"eigh": torch.linalg.matrix_norm(left, 2), "newton": (g.mT @ g).abs().sum(-1).max()}[solver]
    a = scipy.linalg.fractional_matrix_power((left + 1e-3 * ridge * torch.eye(6, dtype=F64)).numpy(), -0.25)
    b = scipy.linalg.fractional_matrix_power((g.mT @ g + 1e-3 * right * torch.eye(4, dtype=F64)).numpy(), -0.25)
    assert np.allclose(u.numpy(), a @ g.numpy() @ b, rtol=1e-7)


def soap_twin(p, grads, lr, b1, b2, eps, every):
    m, v, left, right = np.zeros_like(p), np.zeros_like(p), 0.0, 0.0
    for t, g in enumerate(grads, 1):
        left, right = b2 * left + (1 - b2) * g @ g.T, b2 * right + (1 - b2) * g.T @ g
        if t == 1:
            ql, qr = np.linalg.eigh(left)[1][:, ::-1], np.linalg.eigh(right)[1][:, ::-1]
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * (ql.T @ g @ qr) ** 2
        turned = ql.T @ (m / (1 - b1**t)) @ qr
        p = p - lr * ql @ (turned / (np.sqrt(v / (1 - b2**t)) + eps)) @ qr.T
        if t % every == 0:
            i = np.argsort(-np.diag(ql.T @ left @ ql), kind="stable")
            j = np.argsort(-np.diag(qr.T @ right @ qr), kind="stable")
            v = v[i][:, j]
            ql, qr = np.linalg.qr(left @ ql[:, i])[0], np.linalg.qr(right @ qr[:, j])[0]
    return p


def test_soap_equals_its_twin():
    (p,) = parameters(((5, 5),), F64)
    grads = [gradients([p], t)[0].numpy() for t in range(1, 8)]
    expected = soap_twin(p.detach().numpy().copy(), grads, 0.1, 0.8, 0.9, 1e-8, 2)
    drive(Optimizer([p], METHODS["soap"](lr=0.1, b1=0.8, b2=0.9, every=2)), range(1, 8))
    assert np.allclose(p.detach().numpy(), expected, rtol=1e-6, atol=1e-7)


def test_psgd_rests_where_gradients_are_white():
    """With P = (g g^T)^-1/2 of fixed gradients, one side, the preconditioner stays where it is."""
    from fallline.core.types import At

    g = normal(4, 9)
    g = g / g.square().mean().sqrt()
    second = (g @ g.mT) / 9
    q = inverse_root(second, 4)[None]
    step = ScaleByPsgd(b1=0.0, eps=1e-9, sides="left")
    _, new = step.update(g, At(g, g, 1), m=0 * g, size=torch.ones((), dtype=F64), q=packed([q]))
    assert torch.allclose(new["q"], packed([q]), rtol=1e-8)


def test_psgd_stays_finite_where_there_is_no_gradient():
    """A row without gradient would let P grow for ever; eps bounds it."""
    (p,) = parameters(((4, 3),), torch.float32)
    optimizer = Optimizer([p], METHODS["psgd"](rho=0.5, eps=1e-2))
    for t in range(1, 301):
        p.grad = gradients([p], t)[0]
        p.grad[0] = 0
        optimizer.step()
    assert optimizer.state[p]["psgd.q"].isfinite().all()
    assert float(optimizer.state[p]["psgd.q"].abs().max()) < 100


# -- speed --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["muon", "shampoo", "soap", "psgd"])
def test_tensors_of_one_shape_take_one_product_together(name):
    """The number of calls of operators does not grow with the number of tensors, and a stack steps as its tensors do."""
    counts, ends = [], []
    for fuse, number in (("auto", 20), ("auto", 40), ("eager", 20)):
        params = parameters(((8, 6),) * number, F64)
        optimizer = Optimizer(params, METHODS[name](lr=0.1), fuse=fuse)
        drive(optimizer, (1,))
        for p, g in zip(params, gradients(params, 2), strict=True):
            p.grad = g
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
            optimizer.step()
        products = [e.count for e in found.key_averages() if e.key in ("aten::bmm", "aten::baddbmm", "aten::mm")]
        counts.append(sum(products))
        ends.append(params[7].detach())
    assert counts[0] == counts[1] < counts[2]
    assert torch.allclose(ends[0], ends[2], rtol=1e-9, atol=1e-9)


def test_muons_choices_reach_the_step():
    (step, *_) = METHODS["muon"](scale="none", num_iterations=3, precision="bfloat16").steps
    assert step == ScaleByMuon(0.95, 0.95, "none", 3, "bfloat16", "adamw")


def test_the_pages_examples_run():
    model, x, y = Tiny().mlp, torch.randn(5, 4), torch.randn(5, 6)
    page = (Path(__file__).parents[2] / "docs" / "matrix.md").read_text()
    examples = python_blocks(page)
    assert len(examples) == 3
    for number, code in enumerate(examples):
        names = {"model": Tiny() if number == 0 else model, "x": x, "y": y, "criterion": nn.functional.mse_loss}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch warns of create_graph
            run_blocks(["from fallline import Optimizer", code], names)
        assert isinstance(names["optimizer"], Optimizer)


# -- turns --------------------------------------------------------------------------------------------------------------

SHAPES = [(6, 4), (4, 6), (5, 5), (7, 3), (6, 4)]


def renewals(step, slot, shape, steps):
    """The steps at which a slot of a tensor of this shape changed."""
    p = torch.zeros(shape, dtype=F64)
    held = {s: make(step, p) for s, make in step.slots.items()}
    seen = []
    for t in range(1, steps + 1):
        before = held[slot]
        _, held = step.update(normal(*shape, seed=t), At(p, p, t), **held)
        seen += [t] if not torch.equal(before, held[slot]) else []
    return seen


@pytest.mark.parametrize("every", [1, 4, 7])
def test_spread_over_steps_every_tensor_renews_at_its_interval(every):
    turns = set()
    for shape in SHAPES:
        roots = renewals(ScaleByShampoo(every=every, spread=True), "roots", shape, 4 * every + 1)
        bases = renewals(ScaleBySoap(every=every, spread=True), "bases", shape, 4 * every + 1)
        for seen in (roots, bases):
            assert seen[0] == 1, "the first step has roots"
            gaps = [b - a for a, b in zip(seen[1:], seen[2:], strict=False)]
            assert gaps == [every] * len(gaps)
            assert len(seen) >= 4
            assert seen[1] - 1 <= every
        turns.add(roots[1] % every)
    assert len(turns) > 1 or every == 1, "not all at the same step"


def test_by_default_all_renew_together():
    for shape in SHAPES:
        assert renewals(ScaleByShampoo(every=4), "roots", shape, 9) == [1, 5, 9]
        assert renewals(ScaleBySoap(every=4), "bases", shape, 9) == [1, 4, 8]


def test_the_place_in_the_interval_is_the_shapes():
    assert turn_of((6, 4), 7) == turn_of((6, 4), 7) != turn_of((4, 6), 7)
    assert all(turn_of(shape, 1) == 0 for shape in SHAPES)
