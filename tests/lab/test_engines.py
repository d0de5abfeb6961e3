"""Engines: what the queue does with lost groups, and a Ray cluster that gives the local engine's numbers, also when a machine dies."""

import signal
import subprocess
import sys
import threading
import time

import pytest
from test_study import HERE, _some_runs, stripped, study, task

from fallline.cli import main
from fallline.core.errors import FalllineError, UnknownNameError
from fallline.lab import Interrupted, RunSpec, load_study, make_spec, run_study
from fallline.lab.engines import EngineChoice, Reply, RunFailed, RunQueue
from fallline.lab.engines.engine import train_group
from fallline.lab.engines.ray import RayEngine, _signals_passed_on, _train, _users_modules, _versions
from fallline.lab.study import engine_of

try:
    import ray
    from ray.cluster_utils import Cluster
except ImportError:
    ray = None
needs_ray = pytest.mark.skipif(ray is None, reason="Ray is not installed: pip install 'fallline[ray]'")


# -- the queue, with an engine that follows a script ---------------------------------------------------------------------


class Scripted:
    """One group at a time; ``fate(group)`` is the kind and content of its reply."""

    attempts = 3
    advice = "Buy memory"

    def __init__(self, fate):
        self.fate, self.busy, self.seen = fate, [], []

    def num_free(self):
        return 1 - len(self.busy)

    def num_busy(self):
        return len(self.busy)

    def start(self, group):
        self.busy.append(group)
        self.seen.append([spec.seed for spec in group])

    def wait(self):
        group = self.busy.pop()
        return [Reply(group, *self.fate(group))]


def specs(*seeds, method="lion"):
    return [RunSpec("small", method, (), seed, 4, "tune") for seed in seeds]


def done(group):
    return "done", [{"seed": spec.seed} for spec in group]


def test_a_lost_group_is_tried_again_before_all_others():
    losses = iter([("lost", "gone")])
    engine = Scripted(lambda group: next(losses, None) or done(group))
    queue = RunQueue(engine)
    queue.submit([specs(1, 2), specs(3)])
    assert [(spec.seed, record["seed"]) for spec, record in queue] == [(1, 1), (2, 2), (3, 3)]
    assert engine.seen == [[1, 2], [1, 2], [3]]


def test_a_group_that_is_lost_too_often_goes_one_by_one():
    engine = Scripted(lambda group: ("lost", "gone") if len(group) > 1 else done(group))
    queue = RunQueue(engine)
    queue.submit([specs(1, 2)])
    assert [spec.seed for spec, _ in queue] == [1, 2]
    assert engine.seen == [[1, 2]] * 3 + [[1], [2]]


def test_a_run_that_is_lost_too_often_ends_the_study_and_says_what_to_do():
    engine = Scripted(lambda group: ("lost", "node n1 died") if group[0].seed == 2 else done(group))
    queue = RunQueue(engine)
    queue.submit([specs(1), specs(2)])
    found = []
    with pytest.raises(
        RunFailed, match=r"'fallline run small .* --seed 2 .*' died 3 times \(node n1 died\).*Buy memory"
    ):
        found.extend(spec.seed for spec, _ in queue)
    assert found == [1]
    assert engine.seen == [[1], [2], [2], [2]]


def test_what_cannot_train_together_trains_one_by_one_from_then_on():
    engine = Scripted(lambda group: ("alone", "too large") if len(group) > 1 else done(group))
    queue = RunQueue(engine)
    queue.submit([specs(1, 2), specs(8, 9, method="sgd")])
    queue.submit([specs(3)])
    found = []
    for spec, _ in queue:
        found.append(spec.seed)
        if spec.seed == 3:
            queue.submit([specs(4, 5)])
    assert found == [1, 2, 8, 9, 3, 4, 5]
    assert queue.alone == {("small", "lion"): "too large", ("small", "sgd"): "too large"}


def test_what_is_done_is_kept_before_an_error_is_raised():
    engine = Scripted(done)
    engine.wait = lambda: [Reply(engine.busy.pop(), "error", "Traceback"), Reply(tuple(specs(7)), *done(specs(7)))]
    queue = RunQueue(engine)
    queue.submit([specs(1)])
    found = []
    with pytest.raises(RunFailed, match=r"(?s)--seed 1 .*error in the task's code:\nTraceback"):
        found.extend(spec.seed for spec, _ in queue)
    assert found == [7]


def test_an_error_of_the_users_code_is_a_reply():
    def missing():
        raise KeyError("no such data")

    kind, content = train_group(missing, tuple(specs(1)))
    assert kind == "error"
    assert content.endswith("KeyError: 'no such data'")


# -- which engine ------------------------------------------------------------------------------------------------------


def test_without_ray_the_user_is_told_how_to_install_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)  # makes "import ray" fail
    monkeypatch.chdir(tmp_path)
    assert main(["compare", task(), "--engine", "ray"]) == 2
    error = capsys.readouterr().err
    assert "pip install 'fallline[ray]'" in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir()), "a refused command left something behind"


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: EngineChoice("rey"), r"Unknown engine 'rey'\. Did you mean ray"),
        (lambda: EngineChoice("ray", 0), r"0 workers cannot train"),
        (lambda: EngineChoice("local", 2, "auto"), r"address \(auto\) was given for the local engine.*--engine ray"),
    ],
)
def test_engines_that_cannot_be(make, text):
    with pytest.raises((FalllineError, UnknownNameError), match=text):
        make()


def test_resume_goes_on_as_the_study_was_run_unless_told_otherwise(tmp_path, monkeypatch, capsys):
    out = str(tmp_path / "s")
    assert main(["compare", task(), "--seeds", "1", "--workers", "3", "--out", out]) == 0
    assert engine_of(tmp_path / "s") == EngineChoice("local", 3)
    assert main(["resume", out]) == 0
    assert "3 at a time" in capsys.readouterr().out
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["resume", out, "--engine", "ray"]) == 2
    assert "fallline[ray]" in capsys.readouterr().err
    assert main(["resume", out, "--workers", "1"]) == 0
    assert engine_of(tmp_path / "s") == EngineChoice("local", 1)


def test_a_choice_changes_in_part_or_as_a_whole():
    before = EngineChoice("ray", 8, "10.0.0.5:6379")
    assert before.changed(None, None, None) == before
    assert before.changed("ray", 4, None) == EngineChoice("ray", 4, "10.0.0.5:6379")
    assert before.changed(None, None, "auto") == EngineChoice("ray", 8, "auto")
    assert before.changed("local", None, None) == EngineChoice("local")
    assert EngineChoice.from_text(before.to_text()) == before
    assert EngineChoice.from_text(None) == EngineChoice("local")


def test_the_engine_is_no_part_of_the_study(tmp_path):
    run_study(study(seeds=1), tmp_path, 1)
    run_study(study(seeds=1), tmp_path, 2)  # another study would be refused
    assert load_study(tmp_path)[0] == study(seeds=1)


# -- Ray, without a cluster --------------------------------------------------------------------------------------------


def test_a_worker_with_other_versions_is_refused():
    kind, content = _train([None], tuple(specs(1)), {**_versions(), "torch": "1.0"})
    assert kind == "error"
    assert "not 1.0" in content
    assert "Install the same versions" in content


def test_what_a_signal_handler_raises_inside_ray_is_passed_on():
    with pytest.raises(Interrupted), _signals_passed_on():
        raise SystemError("returned a result with an exception set") from Interrupted(HERE, 15)
    with pytest.raises(SystemError), _signals_passed_on():
        raise SystemError("something else")


def test_modules_beside_a_users_task_are_his(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "beside_the_task.py").write_text("x = 1")
    import beside_the_task
    import numpy

    found = _users_modules(f"{tmp_path / 'mine.py'}:make")
    assert beside_the_task in found
    assert numpy not in found
    assert not any(module.__name__.startswith("fallline.") for module in found)
    assert beside_the_task in _users_modules("beside_the_task:make"), "also where it is not in the working directory"
    assert _users_modules("digits-mlp") == []


# -- a Ray cluster of two machines on this one ---------------------------------------------------------------------------

QUICK = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 4}


@pytest.fixture(scope="module")
def cluster():
    found = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 1,
            "include_dashboard": False,
            "_system_config": QUICK,
            "object_store_memory": 10**8,
        },
    )
    found.second = found.add_node(num_cpus=1, object_store_memory=10**8)
    yield found
    found.shutdown()


def on_ray(cluster, spec, folder, *args):
    return run_study(spec, folder, *args, engine="ray", address=cluster.address)


USERS = """
import os, threading
from helper_of_the_user import Net
from fallline.tasks import Task, Metric, Tensors
import torch
import torch.nn.functional as F

LOCK = {lock}

def loss(model, batch):
    LOCK
    return F.mse_loss(model(batch[0]).squeeze(1), batch[1])

def make():
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    data = Tensors(x, x.sum(1))
    return Task("mine", "", Net, loss, data, data, Metric("MSE", loss), 0.5, batch_size=8, steps=10, num_evals=2)
"""
HELPER = """
from torch import nn

class Net(nn.Linear):
    def __init__(self):
        super().__init__(4, 1)
"""


def users_task(folder, lock="None"):
    (folder / "helper_of_the_user.py").write_text(HELPER)
    (folder / "task_of_the_user.py").write_text(USERS.format(lock=lock))
    return f"{folder / 'task_of_the_user.py'}:make"


@needs_ray
def test_a_cluster_gives_the_local_engines_numbers_bit_for_bit(cluster, tmp_path, monkeypatch):
    users_task(tmp_path)
    monkeypatch.chdir(tmp_path)
    spec = make_spec([task("noisy"), task("branching"), "task_of_the_user:make"], ["lion"], "quick", 2)
    local = run_study(spec, tmp_path / "local", 2)
    remote = on_ray(cluster, spec, tmp_path / "ray")
    assert stripped(remote) == stripped(local)
    assert engine_of(tmp_path / "ray") == EngineChoice("ray", None, cluster.address)
    assert main(["resume", str(tmp_path / "ray"), "--engine", "local"]) == 0  # any engine goes on with any study
    assert not ray.is_initialized()


@needs_ray
def test_errors_of_a_task_are_shown_as_with_the_local_engine(cluster, tmp_path, monkeypatch):
    with pytest.raises(
        RunFailed, match=r"(?s)fallline run .*broken.*RuntimeError: the user's bug.*finished runs are kept"
    ):
        on_ray(cluster, study("broken"), tmp_path / "a")
    monkeypatch.setattr(RayEngine, "attempts", 1)  # a new worker takes seconds to start
    with pytest.raises(RunFailed, match=r"(?s)suicidal.*died once \(WorkerCrashedError.*\).*smaller model"):
        on_ray(cluster, study("suicidal"), tmp_path / "b", 1)
    with pytest.raises(
        FalllineError, match=r"task_of_the_user.py:make cannot be sent to workers \(TypeError: cannot pickle.*lock"
    ):
        on_ray(cluster, make_spec([users_task(tmp_path, "threading.Lock()")], ["lion"], "quick", 1), tmp_path / "c")


@needs_ray
def test_an_address_where_nothing_answers(tmp_path):
    with pytest.raises(FalllineError, match=r"No Ray cluster answers at '127.0.0.1:1'.*ray start --head"):
        run_study(study(), tmp_path, engine="ray", address="127.0.0.1:1")


@needs_ray
@pytest.mark.slow
def test_a_machine_that_dies_in_mid_run_changes_no_number(cluster, tmp_path, monkeypatch):
    marks, lost = tmp_path / "marks", []
    marks.mkdir()
    monkeypatch.setenv("FALLLINE_TEST_MARKS", str(marks))
    may_go_on = RunQueue._may_go_on
    monkeypatch.setattr(RunQueue, "_may_go_on", lambda self, reply: lost.append(reply) or may_go_on(self, reply))

    def kill():
        mark, deadline = marks / cluster.second.node_id, time.monotonic() + 120
        while not mark.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        cluster.remove_node(cluster.second, allow_graceful=False)

    spec = make_spec([f"{HERE / 'marking.py'}:make_task"], ["lion"], "quick", 2)
    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    disturbed = on_ray(cluster, spec, tmp_path / "ray", 2)
    killer.join()
    cluster.second = cluster.add_node(num_cpus=1, object_store_memory=10**8)
    assert lost, "no group was on the machine that died"
    assert {reply.kind for reply in lost} == {"lost"}
    assert disturbed["study"]["complete"]
    assert stripped(disturbed) == stripped(run_study(spec, tmp_path / "local", 2))


@needs_ray
@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_leave_a_study_that_resumes(cluster, tmp_path, number, code):
    out = tmp_path / "s"
    argv = [sys.executable, "-m", "fallline", "compare", task("lasting"), "--methods", "lion", "--seeds", "1"]
    argv += ["--out", str(out), "--engine", "ray", "--address", cluster.address]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not _some_runs(out) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == code, stderr
    assert "Go on with: fallline resume" in stderr
    assert "Traceback" not in stderr
    spec, partial = load_study(out)
    assert not partial["study"]["complete"]
    assert engine_of(out).address == cluster.address
    resumed = on_ray(cluster, spec, out)
    assert stripped(resumed) == stripped(run_study(spec, tmp_path / "straight", 2))
