"""Numbers in words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fallline.report import words


@pytest.mark.parametrize(
    ("x", "digits", "text"),
    [
        (2.34567, 3, "2.35"), (0, 3, "0"), (-0.0123, 2, "−0.012"), (12345.6, 3, "12346"), (1e-7, 3, "1.00e-7"),
        (9.996, 3, "10.0"), (None, 3, "–"), (1.5e9, 2, "1.5e9"), (99.95, 3, "100"), (-0.0, 3, "0"),
    ],
)  # fmt: skip
def test_number_keeps_that_many_digits(x, digits, text):
    assert words.number(x, digits) == text


@pytest.mark.parametrize(("x", "text"), [(8.0, "8"), (4.900, "4.9"), (100.0, "100"), (0.0, "0"), (1e-9, "1.00e-9")])
def test_brief_drops_trailing_zeros(x, text):
    assert words.brief(x) == text


@pytest.mark.parametrize(
    ("triple", "texts"),
    [
        ((2.31234, 2.25, 2.404), ("2.312", "2.250", "2.404")),
        ((97.1, 91.0, 99.0), ("97.1", "91.0", "99.0")),
        ((1234.5, 1100.0, 1400.0), ("1234", "1100", "1400")),
        ((-0.001, -0.3, 0.3), ("0.00", "−0.30", "0.30")),
        ((3.0, 3.0, 3.0), ("3.000", "3.000", "3.000")),
        ((None, None, None), ("–", "–", "–")),
    ],
)
def test_interval_rounds_to_two_digits_of_its_half_width(triple, texts):
    assert words.interval(*triple) == texts


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.003, "0.003"), (3.1622776e-5, "3.16e-5"), (True, "True"), ("exact", "exact"), (0.9, "0.9"), (None, "–"), (1500, "1500")],
)  # fmt: skip
def test_hyperparameters_read_as_on_the_command_line(value, text):
    assert words.hyper(value) == text


@pytest.mark.parametrize(
    ("p", "text"), [(0.0004, "<0.001"), (0.015625, "0.016"), (0.36, "0.36"), (1.0, "1"), (None, "–")]
)
def test_probability(p, text):
    assert words.probability(p) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.24, "4.2 s"), (43.4, "43 s"), (59.9, "60 s"), (725, "12 min 5 s"), (12000, "3 h 20 min"), (None, "–")]
)  # fmt: skip
def test_duration(seconds, text):
    assert words.duration(seconds) == text


def test_count_separates_thousands():
    assert words.count(1234567) == "1\u2009234\u2009567"
    assert words.count(None) == "–"


def test_hypers_and_exact():
    assert words.hypers({"lr": 0.01, "b1": 0.9}) == "lr=0.01 b1=0.9"
    assert float(words.exact(0.1 + 0.2)) == 0.1 + 0.2


@given(st.floats(1e-300, 1e300), st.integers(2, 6))
def test_number_is_within_half_a_unit_of_the_last_digit(x, digits):
    back = float(words.number(x, digits))
    assert abs(back - x) <= 0.5001 * 10.0 ** (1 - digits) * max(x, back)
