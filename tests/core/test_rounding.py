"""Rounding into half precision: neighbours by brute force, unbiasedness over all noise, the compensated pair, the stream."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.fx.experimental.proxy_tensor import make_fx

from fallline.core.errors import FalllineError
from fallline.core.execute import compiler_available
from fallline.core.rounding import ROUNDED, kahan, random_bits, stochastic, stream_key

halves = pytest.mark.parametrize("dtype", ROUNDED, ids=["bfloat16", "float16"])
floats = st.floats(width=32, allow_nan=True, allow_infinity=True)
ALL = torch.arange(2**16, dtype=torch.int32)


def every(dtype: torch.dtype) -> torch.Tensor:
    """All numbers of a 16-bit dtype, NaN included."""
    return torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)


@halves
def test_what_is_representable_stays(dtype):
    x = every(dtype)
    for noise in (0, 1, 2**15, 2**16 - 1):
        y = stochastic(x.float(), dtype, torch.tensor(noise, dtype=torch.int32))
        same = (y.view(torch.int16) == x.view(torch.int16)) | (x.isnan() & y.isnan())
        assert bool(same.all())


@halves
@settings(max_examples=60, deadline=None)
@given(x=floats)
def test_the_mean_over_all_noise_is_x_and_only_neighbours_occur(dtype, x):
    exact = torch.tensor(x, dtype=torch.float32)
    y = stochastic(exact.expand(2**16), dtype, ALL)
    info = torch.finfo(dtype)
    if not bool(exact.isfinite()):
        assert torch.equal(y[0].float().nan_to_num(1.5), exact.nan_to_num(1.5))
        return
    near = exact.to(dtype)
    assert len(y.unique()) <= 2
    if abs(x) > info.max:
        assert bool((y.abs().float() >= info.max).all())
        return
    around = torch.stack(
        [near, torch.nextafter(near, near * 0 - torch.inf), torch.nextafter(near, near * 0 + torch.inf)]
    )
    assert bool(torch.isin(y, around).all())
    assert bool(torch.equal(y.float().sign(), exact.sign().expand(2**16)) or bool((y == 0).any()))
    # bfloat16 keeps 16 bits of fraction, all of float32's; float16 below its normal numbers has more than the noise
    assert abs(y.double().mean().item() - exact.double().item()) <= (
        2.0**-40 if dtype == torch.float16 and abs(x) < info.smallest_normal else 0
    )


@halves
def test_the_mean_of_common_numbers_is_exact(dtype):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, generator=generator)
    mean = torch.stack([stochastic(a.expand(2**16), dtype, ALL).double().mean() for a in x])
    assert torch.equal(mean, x.double())


def test_other_dtypes_are_refused():
    x = torch.zeros(2)
    with pytest.raises(FalllineError, match=r"stochastic\(\) got torch.float32. It rounds .* Write p - u into wider"):
        stochastic(x, torch.float32, torch.zeros(2, dtype=torch.int32))
    with pytest.raises(FalllineError, match=r"kahan\(\) got torch.float64"):
        kahan(x.double(), x.double(), x)


@halves
@settings(max_examples=60, deadline=None)
@given(p=st.floats(-1e4, 1e4, width=32), c=st.floats(-0.5, 0.5, width=32), u=st.floats(-1e4, 1e4, width=32))
def test_the_pair_holds_the_exact_difference(dtype, p, c, u):
    info = torch.finfo(dtype)
    p_0 = torch.tensor(p).to(dtype)
    c_0 = (c * p_0.float().abs() * info.eps).to(dtype)
    p_1, c_1 = kahan(p_0, c_0, torch.tensor(u))
    exact = p_0.double() + c_0.double() - torch.tensor(u).double()
    spacing = p_1.double().abs() * info.eps + info.smallest_normal * info.eps
    largest = max(abs(float(p_0)), abs(u))
    assert (p_1.double() - exact).abs() <= spacing + 2**-23 * largest
    assert c_1.double().abs() <= spacing
    rounding = spacing * info.eps / 2 + info.smallest_normal * info.eps / 2 + 2**-23 * largest
    assert (p_1.double() + c_1.double() - exact).abs() <= rounding


@halves
def test_the_first_compensated_step_rounds_to_nearest(dtype):
    u = -torch.cat([every(dtype).float() * (1 + 2.0**-12), torch.randn(1000)])
    u = u[u.isfinite()]
    zero = torch.zeros(len(u), dtype=dtype)
    assert torch.equal(kahan(zero, zero, u)[0], (-u).to(dtype))


@halves
def test_overflow_leaves_no_nan_behind(dtype):
    info = torch.finfo(dtype)
    p, c = torch.tensor([info.max, 1.0]).to(dtype), torch.zeros(2, dtype=dtype)
    p, c = kahan(p, c, torch.tensor([-float(info.max), torch.nan]))
    assert p[0] == torch.inf
    assert p[1].isnan()
    assert torch.equal(c, torch.zeros(2, dtype=dtype))


def descend(step, p, num_steps=2000):
    """Gradient descent on 1/2 |p - 1|^2 scaled so that every update is below half the spacing of bfloat16."""
    state = (p.to(torch.bfloat16), torch.zeros_like(p, dtype=torch.bfloat16))
    for t in range(num_steps):
        w = state[0].float() + state[1].float()
        state = step(*state, 2e-4 * (w - 1.0), t)
    return state[0].float() + state[1].float()


def test_compensated_descent_follows_float32_where_naive_stalls():
    start = torch.linspace(2.0, 4.0, 50).to(torch.bfloat16).float()
    exact = start.clone()
    for _ in range(2000):
        exact = exact - 2e-4 * (exact - 1.0)
    travelled = (start - exact).abs()
    compensated = descend(lambda p, c, u, t: kahan(p, c, u), start)
    naive = descend(lambda p, c, u, t: ((p.float() - u).to(torch.bfloat16), c), start)
    assert bool(((compensated - exact).abs() < 0.01 * travelled).all())
    assert bool(((naive - start).abs() < 0.1 * travelled).all())


def test_stochastic_descent_follows_float32_on_average():
    n = 2000
    exact = torch.tensor(3.0)
    for _ in range(500):
        exact = exact - 2e-4 * (exact - 1.0)
    index = torch.arange(n)
    end = descend(
        lambda p, c, u, t: (stochastic(p.float() - u, torch.bfloat16, random_bits(1, t, index)), c),
        torch.full((n,), 3.0),
        num_steps=500,
    )
    # one element strays by the spacing 2^-6 times sqrt(500 * 0.026) = 0.056; 5 standard errors of the mean
    assert abs(float(end.mean() - exact)) < 5 * 0.056 / n**0.5 < 0.04 * (3 - float(exact))


def test_the_stream_is_uniform():
    bits = random_bits(stream_key(0, "w"), 1, torch.arange(2**18))
    assert bits.dtype == torch.int32
    assert int(bits.min()) >= 0
    assert int(bits.max()) < 2**16
    for part in (bits >> 8, bits & 0xFF):  # 255 degrees of freedom: mean 255, sd 22.6; 5 sd
        counts = torch.bincount(part, minlength=256).double()
        chi2 = float(((counts - 2**10) ** 2 / 2**10).sum())
        assert abs(chi2 - 255) < 5 * (2 * 255) ** 0.5


@pytest.mark.parametrize("other", ["index", "step", "name", "seed", "one bit of the key", "far index"])
def test_neighbours_in_the_stream_are_independent(other):
    n = 2**17
    key, i = stream_key(0, "w"), torch.arange(n)
    a = random_bits(key, 1, i)
    b = {
        "index": lambda: random_bits(key, 1, i + 1),
        "step": lambda: random_bits(key, 2, i),
        "name": lambda: random_bits(stream_key(0, "v"), 1, i),
        "seed": lambda: random_bits(stream_key(1, "w"), 1, i),
        "one bit of the key": lambda: random_bits(key ^ (1 << 40), 1, i),
        "far index": lambda: random_bits(key, 1, i + 2**32),
    }[other]()
    correlation = float(torch.corrcoef(torch.stack([a, b]).double())[0, 1])
    assert abs(correlation) < 5 / n**0.5
    flips = torch.stack([((a ^ b) >> k & 1).double().mean() for k in range(16)])
    assert bool(((flips - 0.5).abs() < 5 * 0.5 / n**0.5).all())
    assert int((a == b).sum()) < n / 2**16 + 5 * (n / 2**16) ** 0.5 + 5


@pytest.mark.parametrize("key", [0, 5, stream_key(0, "w")])
def test_every_element_has_its_own_uniform_sequence_of_steps(key):
    index = torch.cat([torch.arange(62), torch.tensor([key >> 32, key & 0xFFFFFFFF])])
    n = 2**14
    draws = random_bits(key, torch.arange(n)[:, None], index[None]).double()
    z = (draws.mean(0) / 2**16 - 0.5) * (12 * n) ** 0.5
    assert bool((z.abs() < 5).all())


def test_the_stream_depends_on_nothing_else():
    before = torch.get_rng_state()
    key, i = stream_key(3, "blocks.0.weight"), torch.arange(1000)
    alone = random_bits(key, 7, i)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(random_bits(key, torch.tensor(7.0), i[300:400]), alone[300:400])
    # an arena of two parameters: keys and steps by element
    keys = torch.tensor([key, stream_key(3, "bias")]).repeat_interleave(torch.tensor([1000, 10]))
    steps = torch.tensor([7, 9]).repeat_interleave(torch.tensor([1000, 10]))
    arena = random_bits(keys, steps, torch.cat([i, torch.arange(10)]))
    assert torch.equal(arena[:1000], alone)
    assert torch.equal(arena[1000:], random_bits(stream_key(3, "bias"), 9, torch.arange(10)))


def test_the_stream_is_the_same_everywhere():
    # values of this file's first version: a change would break the resumption of saved runs
    assert stream_key(0, "w") == 8352727114539930846
    assert random_bits(stream_key(0, "w"), 1, torch.arange(4)).tolist() == [15282, 61797, 7867, 5063]


def written(pairs, u, index, t, key):
    noise = random_bits(key, t, index)
    both = [f for p, c in pairs for f in kahan(p, c, u)]
    return (*both, *(stochastic(u, dtype, noise) for dtype in ROUNDED), noise)


def inputs(n):
    generator = torch.Generator().manual_seed(n)
    p = torch.randn(n, generator=generator)
    c, u = (torch.randn(n, generator=generator) * 1e-3 for _ in range(2))
    pairs = [(p.to(dtype), c.to(dtype)) for dtype in ROUNDED]
    return pairs, u, torch.arange(n), torch.tensor(n), torch.tensor(stream_key(n, "w"))


def test_traced_equals_eager_at_other_lengths():
    traced = make_fx(written, tracing_mode="symbolic")(*inputs(300))
    for n in (300, 256, 1001):
        for a, b in zip(traced(*inputs(n)), written(*inputs(n)), strict=True):
            assert torch.equal(a, b)


@pytest.mark.skipif(not compiler_available(), reason="no C++ compiler on this machine")
def test_compiled_equals_eager():
    """Bit for bit: a compiler that folds a cast down and up would make the compensation zero."""
    compiled = torch.compile(written, dynamic=True, fullgraph=True)
    for n in (300, 1001):
        for a, b in zip(compiled(*inputs(n)), written(*inputs(n)), strict=True):
            assert torch.equal(a, b)


def test_under_vmap():
    p, c, u = torch.randn(3, 64).bfloat16(), torch.zeros(3, 64).bfloat16(), torch.randn(3, 64) * 1e-3
    for a, b in zip(torch.func.vmap(kahan)(p, c, u), kahan(p, c, u), strict=True):
        assert torch.equal(a, b)
