"""The search for a learning rate: known optima, honest words where there is none, and the best rate of real sweeps."""

import dataclasses
import json
import math

import pytest
import small

from fallline.cli import main
from fallline.core.errors import FalllineError
from fallline.lab import Bracket, find_rate, sweep

BRACKET = Bracket(
    low=1e-3, high=0.8, edges=(1.0, 1.0, 1.1), loss=2.0, noise=0.1, gradient_evaluations=100, loss_evaluations=9
)


def bowl(best, seen=None, diverges=math.inf, noise=0.0):
    """A run whose result is a parabola in the logarithm of the rate, 1 at ``best``."""

    def run(rate, seed, share):
        if seen is not None:
            seen.append((rate, seed, share))
        noisy = 1 + math.log10(rate / best) ** 2 + noise * (seed - 1)
        return None if rate > diverges else noisy

    return run


@pytest.mark.parametrize("best", [1e-4, 1e-3, 0.03, 0.1, 0.3, 1.0, 10.0, 100.0])
def test_the_best_rate_is_found_inside_and_beyond_the_bracket(best):
    found = sweep(bowl(best), BRACKET)
    assert best / 3.4 < found.rate < best * 3.4
    assert found.closed == (True, True)
    assert found.basin == (found.rate, found.rate)  # half a decade off costs 25 %
    assert found.confidence == "sure"


def test_the_walk_ends_two_decades_beyond_the_bracket_and_says_so():
    found = sweep(bowl(1e-7), BRACKET)
    assert found.rate == 1e-5
    assert found.closed == (False, True)
    assert found.confidence == "fairly sure"
    assert found.reasons == ("an end of the basin was not found",)


def test_a_metric_to_maximise_and_a_cliff():
    def run(rate, seed, share):
        value = bowl(0.1, diverges=0.2)(rate, seed, share)
        return None if value is None else -value

    found = sweep(run, BRACKET, minimise=False)
    assert found.rate == 0.1
    assert found.closed == (True, True)


def test_a_flat_basin_has_its_width_and_seeds_that_differ_are_said():
    def run(rate, seed, share):
        inside = 0.0029 < rate < 0.31
        return 1.0 + 0.001 * ((7 * seed + round(2 * math.log10(rate))) % 3) if inside else 2.0

    found = sweep(run, BRACKET)
    assert found.basin == (0.003, 0.3)
    assert found.decades == pytest.approx(2.0)
    assert found.confidence == "fairly sure"
    assert "seeds differ on the best rate of the basin" in found.reasons


def test_noise_widens_the_basin():
    assert sweep(bowl(0.1, noise=0.5), BRACKET).decades > sweep(bowl(0.1), BRACKET).decades


def test_the_rounds_cost_what_they_should():
    seen = []
    found = sweep(bowl(0.03, seen), BRACKET)
    first = [rate for rate, _, share in seen if share == 0.25]
    assert first == [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0]
    assert {seed for _, seed, share in seen if share == 1.0} == {0, 1, 2}
    assert found.runs == pytest.approx(sum(share for *_, share in seen))
    assert found.runs < 16


def test_an_end_that_is_not_found_is_said():
    found = sweep(lambda rate, seed, share: 1.0, BRACKET)
    assert found.closed == (False, False)
    assert "an end of the basin was not found" in found.reasons


def test_nothing_is_recommended_where_all_diverge_or_the_bracket_is_unclear():
    found = sweep(bowl(1.0, diverges=0.0), BRACKET)
    assert (found.rate, found.confidence, found.reasons) == (None, "cannot tell", ("every run diverged",))
    unclear = dataclasses.replace(BRACKET, low=None, high=None, unclear="flat")
    assert sweep(bowl(1.0), unclear).reasons == ("flat",)


def test_runs_that_end_no_better_than_they_began_are_no_answer():
    for minimise, sign in ((True, 1), (False, -1)):

        def run(*given, sign=sign):
            return sign * bowl(0.1, noise=0.01)(*given)

        for untrained in (0.9, 1.0, 1.01):  # two standard errors are 0.012
            found = sweep(run, BRACKET, minimise=minimise, untrained=sign * untrained)
            assert found.rate is None
            assert "no better than before training, at" in found.reasons[0]
        assert sweep(run, BRACKET, minimise=minimise, untrained=sign * 1.03).rate == 0.1


def test_the_basin_is_no_wider_than_a_part_of_the_progress():
    def run(rate, seed, share):
        return 10 + 0.01 * bowl(0.1)(rate, seed, share)

    assert sweep(run, BRACKET).basin[0] < 0.03
    assert sweep(run, BRACKET, untrained=10.05).basin == (0.1, 0.1)


def test_probes_that_differ_are_said():
    found = sweep(bowl(0.1), dataclasses.replace(BRACKET, edges=(0.1, 1.0, 1.0)))
    assert found.confidence == "fairly sure"
    assert "edges run from 0.1 to 1" in found.reasons[0]


def test_a_rate_that_is_given_is_an_error():
    with pytest.raises(FalllineError, match=r"got lr=0\.1\. The rate is what it looks for.*Leave lr out"):
        find_rate(small.make_task(), "adamw", {"lr": 0.1})
    with pytest.raises(FalllineError, match=r"got steps=0\. Expected at least 1"):
        find_rate(small.make_task(), "adamw", steps=0)
    with pytest.raises(FalllineError, match=r"Unknown method 'adamv'"):
        find_rate(small.make_task(), "adamv")


SMALL = f"{small.__file__}:make_task"


def test_the_command(tmp_path, capsys):
    path = tmp_path / "lr.json"
    assert main(["lr", SMALL, "--method", "sgd", "--set", "momentum=0.5", "--steps", "40", "--json", str(path)]) == 0
    text = capsys.readouterr().out
    written = json.loads(path.read_text())
    for line in (
        "edge         of divergence",
        "basin ",
        "confidence ",
        "cost ",
        f"--set momentum=0.5 --set lr={written['rate']:g} --steps 40",
    ):
        assert line in text
    low, high = written["basin"]
    assert low <= written["rate"] <= high < written["bracket"]["edges"][0] * 3
    assert main(["lr", SMALL, "--set", "lr=1"]) == 2
    assert "Leave lr out" in capsys.readouterr().err
    assert main(["lr", SMALL, "--json", str(tmp_path / "none" / "x")]) == 2
    assert "is no folder" in capsys.readouterr().err


def flat():
    return small.make_task(name="flat", loss=lambda model, batch: 0 * small.mse(model, batch) + 1.0)


def test_a_flat_loss_is_said_and_exits_with_1(capsys):
    assert main(["lr", f"{__file__}:flat", "--method", "sgd"]) == 1
    text = capsys.readouterr().out
    assert "cannot tell: the loss does not move beyond its noise" in text
    assert "fallline run" not in text
