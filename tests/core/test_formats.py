"""State formats: closed forms of the maps, brute force for the nearest number, properties of a round trip, traces."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.fx.experimental.proxy_tensor import make_fx

from fallline import METHODS
from fallline.core.execute import compiler_available
from fallline.core.formats import FORMATS, Blockwise
from fallline.core.gradients import HessianDiagonal
from fallline.core.rounding import random_bits, stream_key
from fallline.core.transform import named_steps
from fallline.core.types import At, Reach

EIGHT = FORMATS["8bit"]
signs = pytest.mark.parametrize("signed", [True, False], ids=["signed", "unsigned"])
blocks = pytest.mark.parametrize("block_size", [256, 2048])

seeds = st.integers(0, 2**31 - 1)
lengths = st.integers(1, 1500)
flags = st.booleans()


def sample(seed: int, n: int, signed: bool, spread: float = 3.0) -> torch.Tensor:
    """Numbers over many orders of magnitude."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, generator=generator) * 10 ** (spread * torch.randn(n, generator=generator))
    return x if signed else x.abs()


def the_map(signed: bool) -> torch.Tensor:
    """The 256 numbers, by decoding every code at scale 1."""
    return EIGHT.decode((torch.arange(256, dtype=torch.uint8), torch.ones(1)), signed)


def by_definition(signed: bool) -> list[float]:
    """The dynamic data type from its bits: e leading zeros, an indicator bit, the rest a linear fraction of [0.1, 1]."""
    numbers = {0.0, 1.0}
    for zeros in range(7):
        bits = 6 - zeros + (not signed)  # the unsigned map has the sign bit for its fraction
        for fraction in range(2**bits):
            x = 10.0**-zeros * (0.1 + 0.9 * (fraction + 0.5) / 2**bits)
            numbers |= {x, -x} if signed else {x}
    return sorted(numbers)


def scales(x: torch.Tensor, block_size: int = 256) -> torch.Tensor:
    return torch.cat([b.abs().max().expand(len(b)) for b in x.split(block_size)])


@signs
def test_the_map_is_the_papers(signed):
    values = by_definition(signed)
    assert len(values) == 256
    torch.testing.assert_close(the_map(signed), torch.tensor(values), rtol=1e-6, atol=0)
    assert the_map(signed)[127 if signed else 0] == 0


@signs
@blocks
@settings(max_examples=25, deadline=None)
@given(seed=seeds, n=lengths, spread=st.floats(0, 3))
def test_a_round_trip_picks_the_nearest_number(signed, block_size, seed, n, spread):
    x = sample(seed, n, signed, spread)
    fmt = Blockwise(block_size=block_size)
    code, scale = fmt.encode(x, signed)
    assert (code.shape, code.dtype, scale.dtype) == (x.shape, torch.uint8, torch.float32)
    assert len(scale) == -(-n // block_size)
    s = scale.repeat_interleave(block_size)[:n].double()
    distance = (torch.tensor(by_definition(signed), dtype=torch.float64) - (x / s)[:, None]).abs()
    best = distance.min(1).values
    mine = distance.gather(1, code.long()[:, None])[:, 0]
    raised = (code == 1) & (x > 0) if not signed else torch.zeros(n, dtype=torch.bool)  # never down to zero
    assert bool((mine <= best + 2e-7 * (x / s).abs() + 1e-12)[~raised].all())
    error = (fmt.decode((code, scale), signed) - x).abs()
    assert bool((error <= (0.0071 if signed else 0.0036) * scales(x, block_size)).all())


@signs
@settings(max_examples=25, deadline=None)
@given(seed=seeds, n=lengths)
def test_coding_again_what_was_decoded_changes_nothing(signed, seed, n):
    stored = EIGHT.encode(sample(seed, n, signed), signed)
    for a, b in zip(stored, EIGHT.encode(EIGHT.decode(stored, signed), signed), strict=True):
        assert torch.equal(a, b)


@signs
@settings(max_examples=25, deadline=None)
@given(seed=seeds, n=st.integers(2, 256))
def test_order_is_kept(signed, seed, n):
    x = sample(seed, n, signed).sort().values
    assert bool((EIGHT.decode(EIGHT.encode(x, signed), signed).diff() >= 0).all())


@signs
@settings(max_examples=25, deadline=None)
@given(seed=seeds, power=st.integers(-40, 40))
def test_powers_of_two_only_scale(signed, seed, power):
    x = sample(seed, 600, signed, 1.0)
    (code, scale), (code_2, scale_2) = EIGHT.encode(x, signed), EIGHT.encode(x * 2.0**power, signed)
    assert torch.equal(code, code_2)
    assert torch.equal(scale * 2.0**power, scale_2)


@settings(max_examples=25, deadline=None)
@given(seed=seeds, n=lengths)
def test_the_largest_of_a_block_is_exact_on_either_side(seed, n):
    x = sample(seed, n, True)
    largest = x.abs() == scales(x)
    for y in (x, -x):
        assert torch.equal(EIGHT.decode(EIGHT.encode(y))[largest], y[largest])


def test_a_second_moment_never_vanishes():
    x = torch.cat([torch.ones(1), 10.0 ** torch.linspace(-37.9, 0, 5000)]).float()
    x = torch.cat([x, torch.zeros(10)])
    for noise in (None, torch.zeros(len(x), dtype=torch.int32)):
        v = EIGHT.decode(EIGHT.encode(x, False, noise), False)
        assert bool((v[x > 0] > 0).all())
        assert bool((v[x == 0] == 0).all())
        # sqrt(v) at the bottom of a block: no smaller than this part of the largest, so that steps are not longer
        assert float(v[1] / v[0]) == pytest.approx(3.25e-7)
    tiny = torch.tensor([1e-31, 1e-38])
    assert bool((EIGHT.decode(EIGHT.encode(tiny, False), False) > 0).all())
    assert float(EIGHT.decode(EIGHT.encode(torch.tensor([-1.0, 2.0]), False), False)[0]) == 0


@signs
def test_a_block_of_zeros_stays_zero(signed):
    x = torch.cat([torch.zeros(256), torch.ones(44)])
    assert torch.equal(EIGHT.decode(EIGHT.encode(x, signed), signed), x)


@signs
def test_what_is_not_finite_stays_in_its_element(signed):
    x = sample(0, 512, signed, 0.5)
    bad = {3: torch.inf, 7: torch.nan, 300: -torch.inf if signed else torch.inf}
    y = x.clone()
    y[list(bad)] = torch.tensor(list(bad.values()))
    clean = x.clone()
    clean[list(bad)] = 0
    decoded = EIGHT.decode(EIGHT.encode(y, signed), signed)
    expected = EIGHT.decode(EIGHT.encode(clean, signed), signed)
    _, scale = EIGHT.encode(clean, signed)
    keep = torch.ones(512, dtype=torch.bool)
    keep[list(bad)] = False
    assert torch.equal(decoded[keep], expected[keep])
    assert decoded[7] == (0 if signed else scale[0])
    torch.testing.assert_close(decoded[[3, 300]].abs(), scale.abs(), rtol=0.0071, atol=0)
    assert bool(EIGHT.decode(EIGHT.encode(torch.full((300,), torch.nan), signed), signed).isfinite().all())


@signs
def test_blocks_are_those_of_the_flat_tensor(signed):
    x = sample(1, 8 * 512, signed)
    flat, (code, scale) = EIGHT.encode(x, signed), EIGHT.encode(x.view(8, 512), signed)
    odd = EIGHT.encode(x.view(512, 8), signed)
    assert torch.equal(flat[0], code.view(-1))
    assert torch.equal(flat[1], scale)
    assert torch.equal(flat[0], odd[0].view(-1))
    assert torch.equal(EIGHT.decode((code, scale), signed).view(-1), EIGHT.decode(odd, signed).view(-1))


@signs
def test_stochastic_codes_are_right_on_average(signed):
    x = torch.cat([sample(2, 63, signed, 0.5), torch.tensor([7.0])])
    noises = torch.arange(64, 2**16, 128, dtype=torch.int32)  # evenly over [0, 2^16)
    mean = sum(EIGHT.decode(EIGHT.encode(x, signed, k.expand(64)), signed).double() for k in noises) / len(noises)
    gap = 0.0141 if signed else 0.00704
    assert bool(((mean - x).abs() <= gap / len(noises) * x.abs().max()).all())


@pytest.mark.parametrize("name", ["bfloat16", "8bit"])
def test_slow_averages_need_stochastic_rounding(name):
    """v falls by 0.1 % a step where the gradient is gone: nearest rounding never lets go, stochastic rounding does."""
    fmt, n = FORMATS[name], 512
    index = torch.arange(n)
    squares = torch.zeros(n)
    squares[::256] = 1.0  # one element of every block keeps its size

    def run(noisy: bool) -> torch.Tensor:
        stored = fmt.encode(torch.ones(n), signed=False)
        for t in range(700):
            v = fmt.decode(stored, signed=False).lerp(squares, 0.001)
            stored = fmt.encode(v, signed=False, noise=random_bits(stream_key(0, "v"), t, index) if noisy else None)
        return fmt.decode(stored, signed=False)[squares == 0]

    assert float(run(noisy=False).mean()) > 0.99
    assert float(run(noisy=True).mean()) == pytest.approx(0.999**700, rel=0.03)


def test_bytes_per_parameter_of_adam():
    n = 2**16

    def num_bytes(name: str) -> float:
        stored = FORMATS[name].encode(torch.randn(n)) + FORMATS[name].encode(torch.rand(n), signed=False)
        return sum(part.numel() * part.element_size() for part in stored) / n

    assert {name: num_bytes(name) for name in FORMATS} == {"float32": 8, "bfloat16": 4, "8bit": 2 + 2 * 4 / 256}


def test_what_formats_apply_to():
    big = torch.zeros(4096)
    for name, fmt in FORMATS.items():
        assert fmt.name == name
        assert fmt.applies(big)
        assert not any(fmt.applies(x) for x in (big.double(), big.long(), torch.zeros(())))
        assert fmt.applies(big[1:]) == (name != "8bit")
        assert len(fmt.parts("adam.v")) == len(fmt.encode(big))
    assert EIGHT.parts("adam.v") == ("adam.v", "adam.v.scale")


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_plain_formats_under_vmap(name):
    fmt = FORMATS[name]
    x = torch.randn(4, 7)
    assert torch.equal(torch.func.vmap(lambda r: fmt.decode(fmt.encode(r)))(x), x.to(fmt.dtype).float())


def test_nonnegative_slots_are_and_the_others_are_not():
    """Every slot that starts at zeros shaped like p is declared if, and only if, it stays above zero."""
    for name, method in METHODS.items():
        for _, step in named_steps(method().steps):
            assert step.nonnegative <= set(step.slots), name
            p = torch.linspace(-1, 1, 64)  # what starts as a copy of it does not start at zeros
            slots = {s: init(step, p) for s, init in step.slots.items()}
            lowest = dict.fromkeys(slots, 0.0)
            plain = {s for s, x in slots.items() if x.shape == p.shape and not x.any() and s not in step.gradients}
            if not plain:
                continue
            generator = torch.Generator().manual_seed(0)
            for t in range(1, 20):
                g = torch.randn(64, generator=generator)
                at = At(p, g, t, torch.ones(()))
                for s, asked in step.gradients.items():
                    if isinstance(asked, HessianDiagonal):  # curvature of either sign
                        slots[s] = torch.randn(64, generator=generator)
                if step.reach == Reach.GROUP:
                    total = step.measure(g, at, **slots)
                    at = at._replace(totals=tuple(total)) if total.dim() else at._replace(total=total)
                _, new = step.update(g, at, **slots)
                slots |= new
                lowest = {s: min(low, float(slots[s].min())) for s, low in lowest.items()}
            for s in plain:
                assert (lowest[s] >= 0) == (s in step.nonnegative), f"{name}: {s} reached {lowest[s]}"


def round_trip(x, noise):
    m, v = EIGHT.encode(x), EIGHT.encode(x * x, False, noise)
    (half,) = FORMATS["bfloat16"].encode(x, noise=noise)
    return (*m, *v, EIGHT.decode(m), EIGHT.decode(v, False), half)


def inputs(n):
    return sample(n, n, True, 1.0), random_bits(3, 1, torch.arange(n))


def test_traced_equals_eager_at_other_lengths():
    traced = make_fx(round_trip, tracing_mode="symbolic")(*inputs(5000))
    for n in (5000, 4096, 4999, 5120, 9001):
        for a, b in zip(traced(*inputs(n)), round_trip(*inputs(n)), strict=True):
            assert torch.equal(a, b)


@pytest.mark.skipif(not compiler_available(), reason="no C++ compiler on this machine")
def test_compiled_equals_eager():
    compiled = torch.compile(round_trip, dynamic=True, fullgraph=True)
    for n in (5000, 4999, 9001):
        for a, b in zip(compiled(*inputs(n)), round_trip(*inputs(n)), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1 if a.dtype == torch.uint8 else 0)
