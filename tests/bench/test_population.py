"""The benchmark of populations: what it times, what it says, what it refuses."""

import sys
from pathlib import Path

import pytest

import fallline.bench.population as bench
from fallline.bench.population import CASES, Case, Speedup, chosen_cases, measure_population
from fallline.cli.main import main
from fallline.core.errors import FalllineError

sys.path.insert(0, str(Path(__file__).parents[1] / "lab"))

TINY = Case("small", 2, 2, 6, 1, 2.0)


@pytest.fixture
def tiny(monkeypatch):
    import small

    monkeypatch.setattr(bench, "load", lambda name: small.make_task())


def test_both_are_timed_in_every_round(tiny):
    found = measure_population(TINY, 3, 1, cpu=True)
    assert len(found.alone) == len(found.together) == 3
    assert min(*found.alone, *found.together) > 0
    assert found.reason == ""


def test_workers_say_what_trains_one_by_one(tiny, monkeypatch):
    import small

    monkeypatch.setattr(bench, "load", lambda name: small.branching())
    assert "data-dependent control flow" in measure_population(TINY, 1, 1).reason


def test_the_median_of_ratios_decides():
    found = Speedup(TINY, (4.0, 9.0, 4.0), (2.0, 1.0, 1.0), "")
    assert found.ratios == [2.0, 9.0, 4.0]
    assert (found.median, found.met) == (4.0, True)
    assert not Speedup(TINY, (1.0,), (1.0,), "").met


def test_every_case_has_as_many_runs_as_rates_times_seeds():
    assert [len(case.specs) for case in CASES.values()] == [64, 4, 4]
    assert len({spec.id for spec in CASES["digits-mlp"].specs}) == 64


def test_mistakes_are_found_before_anything_is_timed():
    with pytest.raises(FalllineError, match=r"Unknown task of this benchmark 'digit-mlp'\. Did you mean digits-mlp"):
        chosen_cases("digit-mlp")
    with pytest.raises(FalllineError, match=r"rounds=0 and workers=2\. Expected at least 1 of each"):
        measure_population(TINY, 0, 2)


def test_the_command_prints_a_table(monkeypatch, capsys):
    import fallline.cli.population as command

    monkeypatch.setattr(
        command, "measure_population", lambda case, *_, **__: Speedup(case, (0.002,), (0.001,), "of a reason")
    )
    assert main(["bench", "population", "--tasks", "fashion-cnn", "--rounds", "1"]) == 0
    shown = capsys.readouterr().out
    assert "1.5 met" in shown
    assert "fashion-cnn: one by one in every process, since of a reason" in shown
