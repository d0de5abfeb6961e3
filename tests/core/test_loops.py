"""Loops and the grids of a GPU, here emulated: every word means what torch means by it, sums do not depend on threads, and nothing else about a tensor changes."""

import math
import weakref

import pytest
import torch
from torch._decomp import core_aten_decompositions
from torch.fx.experimental.proxy_tensor import make_fx

import emulated
import fallline
from fallline import Optimizer, chain
from fallline.core import bundle, native
from fallline.core.bundle import CHUNK, Function, Table
from fallline.core.grid_bundle import GridFunction, GridTable
from fallline.core.kernel import KEPT_WHOLE, _looped, as_number, compiler_available
from fallline.core.loops import NotExpressible
from fallline.core.types import Reach
from fallline.core.words import RULES
from fallline.methods import adamw, lamb, prodigy
from fallline.testing.harness import drive, parameters, same
from fallline.transforms import clip_by_global_norm, descend

pytestmark = pytest.mark.skipif(not compiler_available(), reason="no C++ compiler on this machine")

SPECIAL = [0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 3.0, 1e-30, -1e30, math.inf, -math.inf, math.nan]


class EmulatedGrids(GridFunction):
    def module(self, device):
        return emulated.build(self.loops.source, self.loops.kernels, 0)


LOOPS, GRIDS = (Function, Table), (EmulatedGrids, lambda sizes: GridTable(sizes, torch.device("cpu")))
WAYS = pytest.mark.parametrize("way", [LOOPS, GRIDS], ids=["loops", "grids"])


def looped(functions, arrays, *numbers, way=LOOPS):
    """What ``functions`` make of tensors and numbers; every array is a list of tensors, so is every result."""
    made, laid_out = way
    keys = [f"x{i}" for i in range(len(arrays))]
    outs = [[torch.zeros_like(t) for t in arrays[0]] for _ in functions]
    lists = {**dict(zip(keys, arrays, strict=True)), **{f"y{i}": out for i, out in enumerate(outs)}}
    samples = {k: torch.zeros(() if ts[0].dim() == 0 else (64,), dtype=ts[0].dtype) for k, ts in lists.items()}

    def traced(values, given, _):
        found = [function(*values[: len(keys)], *given) for function in functions]
        return {f"y{i}": out.to(values[0].dtype).expand(values[0].shape).clone() for i, out in enumerate(found)}

    loops = _looped(traced, samples, [as_number(1.0).clone() for _ in numbers], [], False, made.dialect)
    table = laid_out([t.numel() for t in arrays[0]])
    for key, tensors in lists.items():
        table.put(key, [t.data_ptr() for t in tensors])
    known = tuple(f"n{i}" for i in range(len(numbers)))
    made(loops, known)(table, dict(zip(known, numbers, strict=True)), ())
    return outs


WORDS = {
    "add": lambda x, y: x + y,
    "scaled add": lambda x, y: torch.add(x, y, alpha=0.3),
    "subtract": lambda x, y: x - y,
    "reverse subtract": lambda x, y: 2 - x * y,
    "multiply": lambda x, y: x * y * 0.7,
    "divide": lambda x, y: x / y,
    "divide by a number": lambda x, y: x / 3.0 + y / 7,
    "floor division": lambda x, y: x.div(y, rounding_mode="floor"),
    "cut division": lambda x, y: x.div(y, rounding_mode="trunc"),
    # of infinities torch's own form makes NaN, ours does not
    "lerp": lambda x, y: x.nan_to_num(0).clamp(-4, 4).lerp(y.nan_to_num(0).clamp(-4, 4), 0.3),
    "lerp by elements": lambda x, y: x.nan_to_num(0).clamp(-4, 4).lerp(y.nan_to_num(0).clamp(-4, 4), y.sigmoid()),
    "powers": lambda x, y: x**2 + y**3 + x.abs() ** 0.5,
    "inverse powers": lambda x, y: x**-1 - (y * y) ** -0.5,
    "power of elements": lambda x, y: x.abs() ** y,
    "power of a number": lambda x, y: 0.9**x + y,
    "clamp": lambda x, y: x.clamp(-1, 2) + y.clamp(min=0.5),
    "clamp by elements": lambda x, y: torch.clamp(x, -y.abs(), y.abs()),
    "larger, smaller": lambda x, y: torch.maximum(x, y) - torch.minimum(x, 2 * y),
    "sign, size": lambda x, y: x.sign() + y.abs() - (-x),
    "copysign": lambda x, y: torch.copysign(x, y),
    "roots": lambda x, y: x.sqrt() + y.abs().rsqrt() + x.reciprocal(),
    "exponentials": lambda x, y: x.exp() - y.expm1() + x.tanh() * y.sigmoid(),
    "logarithms": lambda x, y: x.log() + y.abs().log1p(),
    "angles": lambda x, y: x.sin() * y.cos(),
    "rounding": lambda x, y: x.floor() + y.ceil() * x.round(),
    "remainder": lambda x, y: x.clamp(-9, 9).remainder(1.5) + x.clamp(-9, 9).remainder(y.sign() * 0.7),
    "comparisons": lambda x, y: torch.where(x <= y, x, y) + torch.where(x > 0.5, 1.0, 0.0) + (x == y) - (x != 1) * 2,
    "logic": lambda x, y: torch.where(((x < y) & (x >= 0)) | ~(y < 0), x, -y),
    "finite": lambda x, y: torch.where(x.isfinite(), x, y.nan_to_num(1.0)),
    "constants": lambda x, y: torch.full_like(x, 2.5) + torch.zeros_like(y) + torch.ones_like(x),
    "bits": lambda x, y: (x.float().view(torch.int32) & -0x10000).view(torch.float32).to(x.dtype) + y,
    "places": lambda x, y: torch.arange(x.numel()) * x + y,
    "sum": lambda x, y: x.nan_to_num(0).clamp(-4, 4).sum() + y,
    "mean": lambda x, y: x - y.nan_to_num(0).clamp(-4, 4).mean(),
    "sums of sums": lambda x, y: (
        (x.sigmoid() - x.sigmoid().nan_to_num(0).sum() * y.tanh()).nan_to_num(0).abs().sum() + y
    ),
    "norms": lambda x, y: x / x.nan_to_num(0).clamp(-4, 4).norm() + y.nan_to_num(0).clamp(-4, 4).norm(1),
    "largest": lambda x, y: (
        x
        + y.nan_to_num(0).clamp(-5, 5).amax()
        - x.nan_to_num(0).clamp(-5, 5).amin()
        + y.nan_to_num(0).clamp(-5, 5).abs().max()
    ),
    "variance": lambda x, y: x.nan_to_num(0).clamp(-4, 4).var() + y.nan_to_num(0).clamp(-4, 4).std(correction=0),
    "any, all": lambda x, y: torch.where((x > 3).any(), x, y) + torch.where((x > 3).all(), 1.0, 0.0),
}


@WAYS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_words_mean_what_torch_means(dtype, way):
    grid = torch.tensor([[a, b] for a in SPECIAL for b in SPECIAL], dtype=torch.float64).to(dtype)
    x, y = grid[:, 0].clone(), grid[:, 1].clone()
    eps = torch.finfo(dtype).eps
    wrong = {}
    for (word, function), (found,) in zip(WORDS.items(), looped(WORDS.values(), ([x], [y]), way=way), strict=True):
        wanted = function(x, y).to(dtype).expand(x.shape)
        if not torch.allclose(found, wanted, rtol=8 * eps, atol=eps, equal_nan=True):
            wrong[word] = [(x[i], y[i], found[i], wanted[i]) for i in (found != wanted).nonzero()[:3]]
    assert wrong == {}


def test_every_word_is_tried():
    """But those that torch decomposes before they reach us, or that only stand for a copy, a view or 0-d tensors."""
    used = set()
    for function in WORDS.values():
        table = {k: v for k, v in core_aten_decompositions().items() if k not in KEPT_WHOLE}
        graph = make_fx(function, tracing_mode="symbolic", decomposition_table=table)(torch.ones(9), torch.ones(9))
        used |= {n.target.overloadpacket for n in graph.graph.nodes if hasattr(n.target, "overloadpacket")}
    names = {str(packet).removeprefix("aten.") for packet in used}
    aside = "square rsub contiguous reshape alias detach squeeze _unsafe_view lift_fresh_copy expand unsqueeze view new_zeros "
    aside += (
        "scalar_tensor full zeros_like ones_like clamp_min clamp_max logical_and logical_or logical_not isinf max min "
    )
    aside += "bitwise_xor bitwise_right_shift __rshift__ _to_copy clone"
    assert {str(rule).split(".")[1] for rule in RULES} - names - set(aside.split()) == set()


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_sums_do_not_depend_on_threads(threads):
    sizes = [1, 5, CHUNK, CHUNK + 1, 3 * CHUNK + 7, 300]
    torch.manual_seed(0)
    given = [[torch.randn(n) for n in sizes] for _ in range(2)]

    def function(x, y, a):
        return a * x * x.norm() - y.mean() / (x - x.mean()).abs().sum()

    wanted = [function(x.double(), y.double(), 0.3) for x, y in zip(*given, strict=True)]
    before = torch.get_num_threads()
    ends = []
    try:
        for count in (1, threads):
            torch.set_num_threads(count)
            ends += looped([function], given, 0.3)
    finally:
        torch.set_num_threads(before)
    assert all(map(torch.equal, *ends))
    for found, exact in zip(ends[0], wanted, strict=True):
        torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-6)


def test_what_loops_cannot_express_runs_another_way():
    @fallline.transform
    class Accumulate(fallline.Transform):
        reach = Reach.TENSOR

        def update(self, u, at):
            return u.reshape(-1).cumsum(0).view(u.shape), {}

    ends = []
    for fuse in ("flat", "eager"):
        params = parameters(((40, 5), (3,)))
        optimizer = Optimizer(params, chain(Accumulate(), descend(0.1)), fuse=fuse)
        assert "native" not in optimizer.explain()
        drive(optimizer, (1, 2))
        ends.append([p.detach() for p in params])
    assert same(*ends, 1e-5)
    with pytest.raises(NotExpressible, match="cumsum"):
        looped([lambda x: x.cumsum(0)], [[torch.ones(4)]])


@pytest.mark.parametrize("method", [adamw, lamb, prodigy], ids=lambda m: m.name)
def test_large_tensors_and_half_precision_as_eagerly(method):
    for dtype, tolerance in (
        (torch.float64, 1e-12),
        (torch.float32, 1e-5),
        (torch.bfloat16, 0.02),
        (torch.float16, 4e-3),
    ):
        ends = []
        for fuse in ("flat", "eager"):
            params = parameters(((150, 151), (7, 3), (2, CHUNK), (1,)), dtype)
            optimizer = Optimizer(params, chain(clip_by_global_norm(1.0), method()), fuse=fuse)
            assert ("native" in optimizer.explain()) == (fuse == "flat")
            drive(optimizer, (1, 2, 3))
            ends.append([p.detach().float() for p in params])
        assert same(*ends, tolerance)


@WAYS
def test_sums_over_several_chunks_are_those_of_the_whole_tensor(way):
    sizes = [1, 5, CHUNK, CHUNK + 1, 3 * CHUNK + 7, 300]
    torch.manual_seed(0)
    given = [[torch.randn(n) for n in sizes] for _ in range(2)]

    def function(x, y):
        return x * x.norm() - y.mean() / (x - x.mean()).abs().sum() + y.abs().amax() * (x > 2.5).any()

    (found,) = looped([function], given, way=way)
    for x, y, ours in zip(*given, found, strict=True):
        wanted = function(x.double(), y.double())
        torch.testing.assert_close(ours.double(), wanted, rtol=0, atol=1e-6 * float(wanted.abs().max()))


def test_autograd_sees_that_parameters_have_changed():
    w = torch.nn.Parameter(torch.ones(3, 3))
    optimizer = Optimizer([w], adamw(), fuse="flat")
    loss = (w * w).sum()
    loss.backward(retain_graph=True)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_gradients_can_go_after_the_step():
    for fuse in ("flat", "leaf", "eager"):
        params = parameters(((30, 3), (4,)))
        optimizer = Optimizer(params, adamw(), fuse=fuse)
        for p in params:
            p.grad = torch.ones_like(p)
        held = [weakref.ref(p.grad) for p in params]
        optimizer.step()
        optimizer.zero_grad()
        assert [ref() for ref in held] == [None, None]


def test_gradients_of_other_strides_are_laid_out_first():
    ends = []
    for transposed in (False, True):
        (p,) = parameters(((6, 4),))
        optimizer = Optimizer([p], adamw(0.1), fuse="flat")
        g = torch.arange(24.0).view(6, 4)
        p.grad = g.t().contiguous().t() if transposed else g
        optimizer.step()
        ends.append([p.detach()])
        assert torch.equal(p.grad, g)
    assert same(*ends, 0.0)


# -- building -----------------------------------------------------------------------------------------------------------

SOURCE = 'extern "C" int answer() { return %d; }'


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FALLLINE_CACHE", str(tmp_path / "cache"))
    native.build.cache_clear()
    yield tmp_path / "cache"
    native.build.cache_clear()


def test_what_was_built_is_kept(own_cache, monkeypatch):
    assert native.build(SOURCE % 41).answer() == 41
    assert [f.suffix for f in (own_cache / "native").iterdir()] == [".so"]
    native.build.cache_clear()
    monkeypatch.setattr(native, "_call", lambda _: pytest.fail("built again"))
    assert native.build(SOURCE % 41).answer() == 41


def test_a_compiler_that_fails_is_complained_about_and_done_without(own_cache, monkeypatch):
    with pytest.warns(UserWarning, match=r"(?s)could not build an optimizer step.*It said: .*Set CXX to a working"):
        assert native.build("this is no C++") is None
    monkeypatch.setattr(bundle, "_PLANS", {})
    monkeypatch.setattr(bundle, "build", lambda _: None)
    params = parameters(((9, 9), (3,)))
    optimizer = Optimizer(params, adamw(), fuse="flat")
    drive(optimizer, (1,))
    assert "native" not in optimizer.explain()


def test_a_folder_that_cannot_be_written_to_is_done_without(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("FALLLINE_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(native.tempfile, "gettempdir", lambda: str(tmp_path))
    native.build.cache_clear()
    assert native.build(SOURCE % 43).answer() == 43
    native.build.cache_clear()


def test_without_a_home_the_folder_for_temporary_files_serves(tmp_path, monkeypatch):
    for name in ("FALLLINE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(native.Path, "home", homeless)
    monkeypatch.setattr(native.tempfile, "gettempdir", lambda: str(tmp_path))
    native.build.cache_clear()
    assert native.build(SOURCE % 47).answer() == 47
    native.build.cache_clear()


def test_prepare_builds_what_the_first_step_needs(monkeypatch):
    optimizer = Optimizer(parameters(((30, 3), (4,))), lamb(), fuse="flat")
    optimizer.prepare()
    monkeypatch.setattr(bundle, "build", lambda _: pytest.fail("built in a step"))
    drive(optimizer, (1, 2))
