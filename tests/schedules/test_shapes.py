"""Shapes of schedules: closed forms, torch's schedulers as reference, composition, and errors that say what to do."""

import math
import re

import pytest
import torch
from torch.optim import lr_scheduler

from fallline.core.errors import FalllineError
from fallline.schedules import (
    constant,
    cosine,
    cosine_restarts,
    exponential,
    exponential_warmup,
    from_torch,
    half_life,
    inverse_sqrt,
    multi_step,
    one_cycle,
    one_minus_sqrt,
    parse,
    piecewise,
    polynomial,
    step_decay,
    tabulated,
    triangular,
    untuned_warmup,
    warmup,
    wsd,
)

STEPS = 60


def values(schedule, steps=STEPS):
    return [schedule(t) for t in range(1, steps + 1)]


TORCH = {
    "step": (step_decay(7, 0.5), lambda o: lr_scheduler.StepLR(o, 7, 0.5)),
    "multi_step": (multi_step((10, 25, 40), 0.3), lambda o: lr_scheduler.MultiStepLR(o, [10, 25, 40], 0.3)),
    "exponential": (exponential(0.97), lambda o: lr_scheduler.ExponentialLR(o, 0.97)),
    "polynomial": (polynomial(STEPS, 2.0), lambda o: lr_scheduler.PolynomialLR(o, STEPS, 2.0)),
    "cosine": (cosine(STEPS, 0.1), lambda o: lr_scheduler.CosineAnnealingLR(o, STEPS, 0.1)),
    "restarts": (cosine_restarts(10, 2), lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 10, 2)),
    "triangular": (triangular(8, 0.1), lambda o: lr_scheduler.CyclicLR(o, 0.1, 1.0, 8)),
    "triangular2": (triangular(8, 0.1, 0.5), lambda o: lr_scheduler.CyclicLR(o, 0.1, 1.0, 8, mode="triangular2")),
    "one_cycle": (one_cycle(STEPS), lambda o: lr_scheduler.OneCycleLR(o, 1.0, STEPS)),
    "one_cycle linear": (
        one_cycle(STEPS, 0.45, 0.1, 0.01, "linear"),
        lambda o: lr_scheduler.OneCycleLR(
            o, 1.0, STEPS, pct_start=0.45, anneal_strategy="linear", div_factor=10, final_div_factor=10
        ),
    ),
}


@pytest.mark.parametrize("name", TORCH)
def test_shapes_equal_torchs(name):
    ours, theirs = TORCH[name]
    assert values(ours) == pytest.approx(values(from_torch(theirs, STEPS)), abs=1e-12)


def test_wsd_is_its_three_phases():
    assert wsd(100, 0.3, warm=10) == warmup(10) >> constant(60) >> polynomial(30)
    assert wsd(100, 0.3, shape="sqrt") == constant(70) >> one_minus_sqrt(30)
    assert wsd(100, 1.0) == polynomial(100)
    assert wsd(100, 0.0) == constant(100)


def test_one_minus_sqrt():
    assert values(one_minus_sqrt(4, 0.2), 4) == pytest.approx([0.2 + 0.8 * (1 - math.sqrt(k / 4)) for k in range(4)])


def test_warmup_and_inverse_root_are_the_transformers_schedule():
    s, ours = 100, warmup(100) >> inverse_sqrt(100)
    theirs = [min(t**-0.5, t * s**-1.5) * s**0.5 for t in range(1, 1000)]
    assert values(ours, 100) == pytest.approx(theirs[:100])
    assert values(ours, 1000)[100:] == pytest.approx(
        theirs[99:]
    )  # the peak is held for one step more, as before any decay


def test_untuned_warmup_exponential():
    assert untuned_warmup(0.9, "exponential")(7) == pytest.approx(1 - math.exp(-0.7))


def test_points():
    lines = piecewise((5, 1.0), (10, 2.0), (20, 0.0))
    assert [lines(t) for t in (1, 5, 7, 10, 15, 20, 99)] == pytest.approx([1.0, 1.0, 1.4, 2.0, 1.0, 0.0, 0.0])
    assert lines.length == 20
    assert values(tabulated([3, 2, 1]), 5) == [3, 2, 1, 1, 1]


# -- composition -----------------------------------------------------------------------------------------------------------


def test_sums_and_products_run_both_at_once():
    both = warmup(10) + 0.5 * cosine(20)
    assert both.length == 20
    assert both(5) == pytest.approx(0.5 + 0.5 * cosine(20)(5))
    assert both(15) == pytest.approx(1.0 + 0.5 * cosine(20)(15))  # a warm-up that has ended holds its 1
    assert (exponential_warmup(5) * cosine(20))(8) == pytest.approx(exponential_warmup(5)(8) * cosine(20)(8))
    assert (0.1 + 0.9 * warmup(10))(5) == pytest.approx(0.55)
    assert (warmup(10) + 1)(10) == 2.0


def test_the_operators_bind_as_in_python():
    assert parse("warmup(2) >> 0.5 * cosine(3) + 0.1") == warmup(2) >> (0.1 + 0.5 * cosine(3))


def test_what_cannot_be_combined_is_a_type_error():
    for wrong in ("x", None, True):
        with pytest.raises(TypeError):
            warmup(2) + wrong
        with pytest.raises(TypeError):
            warmup(2) * wrong


# -- text ------------------------------------------------------------------------------------------------------------------

SOME = [
    3e-4 * (warmup(200) >> cosine(5000)),
    1 / 3 * constant(),
    0.1 + (warmup(5) >> constant(3)),
    (warmup(3) + cosine(9)) >> 0.5 * step_decay(4),
    untuned_warmup(0.99, "exponential") * wsd(100, 0.2, 10),
    piecewise((1, 0.0), (5, 1.0)) * -2,
    multi_step((3, 5)),
    one_cycle(100, shape="linear") + triangular(5),
    tabulated([1.0, 0.25]) >> half_life(0.9, 0.99, 10),
]


@pytest.mark.parametrize("schedule", SOME, ids=str)
def test_what_is_printed_is_read_back(schedule):
    assert parse(repr(schedule)) == schedule


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("warmpu(200)", "Unknown schedule 'warmpu'. Did you mean warmup"),
        ("zzz(2)", "Known: constant, cosine"),
        ("cosine", r"Write for example cosine\(1000\)"),
        ("warmup(200", "is no schedule.*Known: constant, cosine"),
        ("3 * 4", "not a schedule"),
        ("__import__('os').system('ls')", "cannot stand in a schedule"),
        ("cosine.__class__(3)", "cannot stand in a schedule"),
        ("warmup(*[1])", "cannot stand in a schedule"),
        ("warmup(**x)", "cannot stand in a schedule"),
        ("[x for x in (1,)]", "cannot stand in a schedule"),
        ("cosine(3) ** 2", "means nothing here"),
        ("2 >> cosine(3)", "means nothing here"),
        ("1 / cosine(3)", "means nothing here"),
        ("cosine(3) / 0", "has no value"),
        ("'a' * cosine(3)", "beside an operator"),
        ("cosine(3, 4, 5)", "does not fit cosine"),
        ("exponential('a')", "does not fit exponential"),
        ("cosine('a')", "has no length"),
        ("constant() >> cosine(3)", "never ends"),
        ("warmup(2) if True else 3", "cannot stand in a schedule"),
        ("(" * 1500 + ")" * 400, "is no schedule"),
        ("1" * 3000, "at most 2000 characters"),
        ("cosine(3)\0", "is no schedule"),
        ("9" * 1000 + " * cosine(3)", "has no value"),
        (3, "Expected a text"),
    ],
)
def test_what_cannot_be_read_is_explained(text, message):
    with pytest.raises(FalllineError, match=re.compile(message, re.DOTALL)):
        parse(text)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: multi_step((5, 3)), "Expected rising step numbers"),
        (lambda: multi_step((0.5,)), "Expected a whole number"),
        (lambda: multi_step(()), "at least one"),
        (lambda: polynomial(0), "num_steps=0"),
        (lambda: polynomial(10, power=-1), "power=-1"),
        (lambda: polynomial(10, floor=2), r"Expected a number in \[0, 1\]"),
        (lambda: polynomial(10, floor="a"), r"Expected a number in \[0, 1\]"),
        (lambda: polynomial(10, power="a"), "Expected a number above 0"),
        (lambda: one_minus_sqrt(True), "num_steps=True"),
        (lambda: inverse_sqrt(0), "scale=0"),
        (lambda: exponential_warmup(-1), "scale=-1"),
        (lambda: untuned_warmup(1.0), "Pass Adam's b2"),
        (lambda: untuned_warmup(0.9, "round"), "shape of untuned_warmup"),
        (lambda: wsd(100, 0.9, 20), "needs 110 steps"),
        (lambda: wsd(100, shape="round"), "shape of wsd"),
        (lambda: triangular(0), "half=0"),
        (lambda: one_cycle(100, rise=0.0), "no rise or no fall"),
        (lambda: one_cycle(100, shape="round"), "shape of one_cycle"),
        (lambda: piecewise((1, 2)), "at least two points"),
        (lambda: piecewise((2, 1), (1, 2)), "whose steps rise"),
        (lambda: piecewise(1, 2), "at least two points"),
        (lambda: piecewise((0, 1), (1, 2)), "step=0"),
        (lambda: tabulated([]), "for each step, at least one"),
        (lambda: tabulated([1.0, "a"]), "a finite number for each step"),
        (lambda: tabulated(3), "got 3"),
        (lambda: piecewise((1, 2), (3, math.inf)), "at least two points"),
        (lambda: piecewise((1, 2), (3, "a")), "at least two points"),
    ],
)
def test_arguments_out_of_range_are_explained(make, message):
    with pytest.raises(FalllineError, match=message):
        make()


def test_every_known_schedule_is_documented():
    from fallline.schedules.parse import KNOWN

    for name, made in KNOWN.items():
        assert made.__doc__, name
        assert not made.__doc__.startswith(f"{name}("), name  # not the one that dataclasses write


def test_values_stay_finite():
    for schedule in SOME:
        assert all(math.isfinite(v) for v in values(schedule, 500)), schedule
    assert torch.tensor(values(constant())).sum() == STEPS
