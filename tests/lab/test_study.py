"""The engine: plans, resumes, survives, refuses; its numbers do not depend on how it ran."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import small

from fallline import METHODS
from fallline.core.errors import FalllineError
from fallline.lab import Event, RunSpec, load_study, make_spec, run_study, train, write_results
from fallline.lab.store import Store
from fallline.lab.summary import clock
from fallline.lab.workers import RunFailed

HERE = Path(__file__).parent


def task(name="make_task"):
    return f"{HERE / 'small.py'}:{name}"


def study(name="make_task", seeds=3, methods=("lion",)):
    return make_spec([task(name)], methods, "quick", seeds)


def stripped(x):
    """Results without what the clock decides."""
    if isinstance(x, dict):
        drop = (
            "seconds", "started", "finished", "environment", "cost", "id", "resume", "clock", "calibrated_seconds",
            "what_would_change",
        )  # fmt: skip
        return {k: stripped(v) for k, v in x.items() if not k.endswith(("_seconds", "_ms")) and k not in drop}
    return [stripped(v) for v in x] if isinstance(x, list) else x


def test_a_study_has_equal_trials_fresh_seeds_and_a_verdict(tmp_path):
    events: list[Event] = []
    results = run_study(study(), tmp_path, 2, events.append)
    (t,) = results["tasks"]
    assert [m["name"] for m in t["methods"]] == ["adamw", "nesterov", "lion"]
    for m in t["methods"]:
        assert len(m["trials"]) == 8
        assert [r["seed"] for r in m["runs"]] == [1, 2, 3]
        assert all("--seed 0" in r["command"] for r in m["trials"])
    units = [[x["unit"] for x in m["trials"]] for m in t["methods"]]
    assert units[0] == units[1] == units[2]
    assert results["study"]["complete"]
    assert results["study"]["runs"]["planned"] == 38 == events[-1].done
    assert len(t["comparisons"]) == 3
    assert t["verdict"]["sentences"]
    json.dumps(results, allow_nan=False)
    initial = {(r["seed"], r["initial_parameters"]) for m in t["methods"] for r in m["runs"]}
    assert len(initial) == 3  # one per seed, shared by the methods


def test_every_method_also_trains_at_its_defaults_and_at_adamws_rate(tmp_path):
    results = run_study(study(), tmp_path)
    methods = {m["name"]: m for m in results["tasks"][0]["methods"]}
    best = {name: min(t["final"] for t in m["trials"] if t["final"] is not None) for name, m in methods.items()}
    carried = methods["adamw"]["best"]["hyper"]["lr"]
    assert methods["adamw"]["tunability"]["transfer"] is None
    for name, m in methods.items():
        default = m["tunability"]["default"]
        assert default["hyper"]["lr"] == METHODS[name].defaults["lr"]
        assert default["gap"] == pytest.approx(default["final"] - best[name])
        assert "--seed 0" in default["command"]
    for name in ("nesterov", "lion"):
        transfer = methods[name]["tunability"]["transfer"]
        assert transfer["lr"] == carried
        assert transfer["gap"] == pytest.approx(transfer["final"] - best[name])
        alone = train(small.make_task(), RunSpec(task(), name, (("lr", carried),), 0, 12, "transfer"))
        assert transfer["final"] == alone["final"]


def test_extra_runs_never_become_the_best(tmp_path):
    spec = make_spec([task()], ["lion"], "quick", 1, {"adamw": {"lr": "1e-8..1e-7"}})  # its default is far better
    (adamw, *_) = run_study(spec, tmp_path)["tasks"][0]["methods"]
    assert adamw["tunability"]["default"]["gap"] < 0
    assert adamw["best"]["hyper"]["lr"] <= 1e-7


def test_without_extras_the_plan_is_shorter_and_the_command_says_so(tmp_path):
    spec = make_spec([task()], ["lion"], "quick", 1, extras=False)
    assert "--no-extras" in spec.command
    assert spec.num_runs == 27
    results = run_study(spec, tmp_path)
    assert results["study"]["complete"]
    assert all(m["tunability"]["default"] is None for m in results["tasks"][0]["methods"])


def test_a_study_from_before_there_were_extras_goes_on_without(tmp_path):
    spec = make_spec([task()], ["lion"], "quick", 1, extras=False)
    assert set(spec.declared) == {"tasks", "methods", "budget", "num_seeds", "spaces"}
    run_study(spec, tmp_path)
    assert load_study(tmp_path)[0] == spec


def test_targets_are_shares_of_the_gap_that_adamw_closes(tmp_path):
    (t,) = run_study(study(seeds=3), tmp_path)["tasks"]
    adamw = t["methods"][0]
    last, first = adamw["final"]["median"], t["initial"]
    assert first == sorted(r["initial"] for r in adamw["runs"])[1]
    assert [x["share"] for x in t["targets"]] == [0.8, 0.95, 1.0]
    assert [x["value"] for x in t["targets"]] == pytest.approx([first + s * (last - first) for s in (0.8, 0.95, 1)])
    assert t["targets"][-1]["value"] == last
    for m in t["methods"]:
        for target, hit in zip(t["targets"], m["to_targets"], strict=True):
            steps = [
                next((s for s, x in zip(r["steps"], r["metric"], strict=True) if x <= target["value"]), math.inf)
                for r in m["runs"]
            ]
            assert hit["reached"] == sum(map(math.isfinite, steps))
            middle = sorted(steps)[1]
            assert (hit["steps"] or {"median": math.inf})["median"] == middle
            if math.isfinite(middle):
                assert hit["calibrated_seconds"]["median"] == pytest.approx(middle * m["cost"]["step_ms"] / 1e3)
    assert adamw["to_targets"][-1]["reached"] == 2, "of three, the median run and the better one"
    ratio = adamw["to_targets"][0]["ratio_to_adamw"]["steps"]
    assert (ratio["estimate"], ratio["low"], ratio["high"]) == (1.0, 1.0, 1.0)


def test_there_are_no_targets_where_adamw_learns_nothing(tmp_path):
    spec = make_spec([task("worsening")], ["lion"], "quick", 1)
    (t,) = run_study(spec, tmp_path)["tasks"]
    assert t["targets"] == []
    assert all(m["to_targets"] == [] for m in t["methods"])


def test_two_tasks_are_ranked(tmp_path):
    spec = make_spec([task(), task("noisy")], ["lion"], "quick", 2)
    results = run_study(spec, tmp_path)
    found = results["ranking"]
    assert set(found["order"]) == {"adamw", "nesterov", "lion"}
    assert found["scores"]["adamw"]["anchored"]["estimate"] == 1.0
    assert set(found["without_task"]) == {"small", "noisy"}
    assert "95 %" in found["basis"]
    json.dumps(results, allow_nan=False)
    assert "ranking" not in run_study(study(), tmp_path / "one")


@pytest.mark.parametrize(
    ("facts", "trusted", "why"),
    [
        ({"load_start": "0.1", "load_most": "99.0", "load_end": "1.0"}, False, "load of 99 on"),
        ({"load_start": "0.1", "load_most": "0.4", "load_end": None}, True, "stayed at 0.4"),
        ({"load_start": "None", "load_end": None}, False, "not known"),
    ],
)
def test_times_of_a_contended_machine_are_not_trusted(facts, trusted, why):
    found = clock(facts)
    assert found["trusted"] is trusted
    assert why in found["why"]


def test_the_command_makes_the_same_study():
    spec = make_spec(["digits-mlp"], ["lion"], "standard", 4, {"lion": {"lr": "0.5..0.6"}})
    assert spec.command == (
        "fallline compare digits-mlp --methods adamw,nesterov,lion --budget standard --seeds 4 --space lion.lr=0.5..0.6"
    )


def test_workers_and_repetition_do_not_change_the_numbers(tmp_path):
    one = run_study(study("noisy"), tmp_path / "one", 1)
    two = run_study(study("noisy"), tmp_path / "two", 2)
    assert stripped(one) == stripped(two)
    events: list[Event] = []
    again = run_study(study("noisy"), tmp_path / "two", 2, events.append)
    assert events[-1].repeated == 38  # nothing was trained again
    assert stripped(again) == stripped(two)


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {here!r})
from test_study import study
from fallline.lab import run_study
run_study(study("slow"), Path({out!r}), 2, lambda e: print(e.done, flush=True))
"""


def start(out):
    code = SCRIPT.format(here=str(HERE), out=str(out))
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("kill_at", [3, 26])
def test_sigkill_loses_at_most_the_runs_in_flight(tmp_path, kill_at):
    process = start(tmp_path / "killed")
    for line in process.stdout:
        if int(line) >= kill_at:
            break
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with Store(tmp_path / "killed") as store:
        kept = len(store.results())
    assert kept >= kill_at
    _, partial = load_study(tmp_path / "killed")
    assert not partial["study"]["complete"]
    events: list[Event] = []
    resumed = run_study(study("slow"), tmp_path / "killed", 2, events.append)
    assert events[-1].repeated >= kept
    assert stripped(resumed) == stripped(run_study(study("slow"), tmp_path / "straight", 2))


def test_workers_end_with_their_parent(tmp_path):
    process = start(tmp_path)
    process.stdout.readline()
    children = _children(process.pid)
    assert len(children) == 2
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 10
    while any(_alive(c) for c in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(_alive(c) for c in children)


def _children(pid):
    path = Path(f"/proc/{pid}/task/{pid}/children")
    if not path.exists():
        pytest.skip("this system does not list a process's children")
    return [int(x) for x in path.read_text().split()]


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_stop_cleanly_and_say_how_to_go_on(tmp_path, number, code):
    argv = [sys.executable, "-m", "fallline", "compare", task("slow"), "--seeds", "3", "--out", str(tmp_path / "s")]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not _some_runs(tmp_path / "s") and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == code, stderr
    assert "Go on with: fallline resume" in stderr
    assert "Traceback" not in stderr


def _some_runs(folder):
    try:
        with Store(folder) as store:
            return len(store.results()) >= 2
    except FalllineError:
        return False


def test_diverged_trials_count_as_infinite_and_never_crash(tmp_path):
    results = run_study(study("diverging"), tmp_path)
    trials = results["tasks"][0]["methods"][1]["trials"]
    assert {t["status"] for t in trials} == {"done", "diverged"}
    assert all((t["final"] is None) == (t["status"] == "diverged") for t in trials)


def test_a_method_whose_every_trial_diverges_is_shown_as_such(tmp_path):
    events: list[Event] = []
    results = run_study(study("always_nan"), tmp_path, 2, events.append)
    (t,) = results["tasks"]
    assert all(m["best"] is None and m["runs"] == [] for m in t["methods"])
    assert t["verdict"]["kind"] == "cannot tell"
    assert any("Every trial of lion diverged" in w for w in t["verdict"]["warnings"])
    assert [e.kind for e in events].count("dropped") == 3
    assert results["study"]["complete"]
    write_results(results, tmp_path)


def test_an_error_in_the_users_code_names_the_run_and_keeps_what_is_done(tmp_path):
    with pytest.raises(
        RunFailed, match=r"(?s)fallline run .*broken.*RuntimeError: the user's bug.*finished runs are kept"
    ) as error:
        run_study(study("broken"), tmp_path, 1)
    assert error.value.exit_code == 1


def test_a_worker_that_dies_is_replaced_once_then_reported(tmp_path):
    with pytest.raises(RunFailed, match=r"died twice \(exit code 9\).*--workers 1"):
        run_study(study("suicidal"), tmp_path, 1)


def test_one_study_one_process(tmp_path):
    process = start(tmp_path)
    process.stdout.readline()
    try:
        with pytest.raises(FalllineError, match="Another process is working on"):
            run_study(study("slow"), tmp_path)
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: make_spec([], ["lion"]), r"No task was given"),
        (lambda: make_spec(["digits-mlp"], ["lionn"]), r"Unknown method 'lionn'\. Did you mean lion"),
        (lambda: make_spec(["digits-mlp"], ["adaptiv"]), r"Unknown method 'adaptiv'\. Did you mean adaptive"),
        (lambda: make_spec(["digits-mlp"], ["all-frist-order"]), r"Did you mean all-first-order"),
        (lambda: make_spec(["digits-mlp"], ["lion"], "quik"), r"Unknown budget 'quik'\. Did you mean quick"),
        (lambda: make_spec(["digits-mlp"], ["lion"], num_seeds=0), r"0 seeds cannot be run"),
        (
            lambda: make_spec(["digits-mlp"], ["lion"], spaces={"sgd": {"lr": "1..2"}}),
            r"sgd, which is not in the study",
        ),
        (
            lambda: make_spec(["digits-mlp"], ["lion"], spaces={"lion": {"lrr": "1..2"}}),
            r"Unknown hyperparameter of lion 'lrr'",
        ),
        (
            lambda: make_spec(["digits-mlp"], ["lion"], spaces={"lion": {"b1": "0.1..0.9"}}),
            r"b1 of lion, which this budget does not",
        ),
        (lambda: make_spec(["digits-mlp"], ["lion"], spaces={"lion": {"lr": "low"}}), r"'low' is not a range"),
        (lambda: make_spec(["digits-mlp"], ["lion"], spaces={"lion": {"lr": "linear -1..1"}}), r"lion got lr=-1"),
        (lambda: run_study(study(), Path("nowhere"), 0), r"0 workers cannot train"),
    ],
)
def test_mistakes_are_found_before_training(make, text):
    with pytest.raises(FalllineError, match=text):
        make()


def test_a_users_range_replaces_the_methods(tmp_path):
    spec = make_spec([task()], ["lion"], "quick", 1, {"lion": {"lr": "0.5..0.6"}})
    results = run_study(spec, tmp_path)
    lion = results["tasks"][0]["methods"][2]
    assert lion["space"]["lr"] == "0.5..0.6"
    assert all(0.5 <= t["hyper"]["lr"] <= 0.6 for t in lion["trials"])


def test_the_files_hold_every_run(tmp_path):
    results = run_study(study(), tmp_path)
    write_results(results, tmp_path)
    assert json.loads((tmp_path / "results.json").read_text()) == results
    assert len((tmp_path / "runs.csv").read_text().splitlines()) == 1 + 38
    assert len((tmp_path / "summary.csv").read_text().splitlines()) == 1 + 3


def test_sets_of_methods_stand_for_their_members():
    signs = [name for name, m in METHODS.items() if m.family == "sign"]
    assert make_spec(["digits-mlp"], ["sign"]).methods == ("adamw", "nesterov", *signs)
    assert make_spec(["digits-mlp"], ["lion", " all-sign", "sgd"]).methods == (
        "adamw", "nesterov", "lion", *[s for s in signs if s != "lion"], "sgd",
    )  # fmt: skip
    assert make_spec(["digits-mlp"], ["sgd"]).methods == ("adamw", "nesterov", "sgd"), "the method, not the family"
    assert "gravity" in make_spec(["digits-mlp"], ["all-sgd"]).methods
    assert set(make_spec(["digits-mlp"], ["all"]).methods) == set(METHODS)
    first_order = {name for name, m in METHODS.items() if m.family != "curvature"}
    assert set(make_spec(["digits-mlp"], ["all-first-order"]).methods) == first_order
