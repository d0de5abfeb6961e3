"""Search ranges: mapping from the unit interval, widening, reading and writing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fallline.core.errors import nearest, unknown
from fallline.core.space import Range, linear, log, one_minus_log

RANGES = [log(1e-5, 1e-1), linear(-2.0, 3.0), one_minus_log(0.5, 0.999)]


@pytest.mark.parametrize("r", RANGES, ids=str)
def test_the_ends_are_reached_and_the_text_reads_back(r):
    assert r.at(0.0) == pytest.approx(r.low)
    assert r.at(1.0) == pytest.approx(r.high)
    assert Range.parse(str(r)) == r


@given(st.floats(0, 1), st.floats(0, 1))
def test_monotone(a, b):
    for r in RANGES:
        assert (r.at(a) <= r.at(b)) or a > b


def test_midpoints():
    assert log(1e-4, 1e-2).at(0.5) == pytest.approx(1e-3)
    assert one_minus_log(0.9, 0.999).at(0.5) == pytest.approx(0.99)


def test_widening_moves_one_end_by_a_decade():
    assert str(log(1e-4, 1e-2).widened("high")) == "0.0001..0.1"
    assert str(log(1e-4, 1e-2).widened("low")) == "1e-05..0.01"
    assert one_minus_log(0.9, 0.99).widened("high").high == pytest.approx(0.999)
    assert linear(0, 2).widened("low") == linear(-2, 2)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: log(1.0, 0.1), r"from 1 to 0\.1 is empty"),
        (lambda: log(0.0, 1.0), r"cannot start at 0"),
        (lambda: one_minus_log(0.5, 1.0), r"cannot reach 1"),
        (lambda: Range.parse("0.1-0.2"), r"'0\.1-0\.2' is not a range\. Expected LOW\.\.HIGH"),
        (lambda: Range.parse("a..b"), r"is not a range"),
        (lambda: log(float("nan"), 1.0), r"is empty"),
    ],
)
def test_errors(make, text):
    with pytest.raises(ValueError, match=text):
        make()


def test_near_matches():
    assert nearest("adamv", ["adam", "adamw", "sgd"])[0] in ("adam", "adamw")
    assert "Known: adam, sgd." in str(unknown("method", "zzz", ["sgd", "adam"]))
