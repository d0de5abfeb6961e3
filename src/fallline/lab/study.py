"""A study: the declared protocol, its plan of runs, and their execution. Resumable; the same numbers however it runs."""

from __future__ import annotations

import shlex
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from types import FrameType
from typing import Any

from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass as validated

from fallline.core.errors import FalllineError, unknown
from fallline.core.hyper import check_hyper
from fallline.core.space import Range
from fallline.lab import design, environment
from fallline.lab.batch_sizes import load_entry
from fallline.lab.engines import EngineChoice, RunQueue
from fallline.lab.entries import METHODS, STEP_METHODS, entry_of
from fallline.lab.entries import names as all_names
from fallline.lab.run import RunSpec
from fallline.lab.statistics import default_num_seeds
from fallline.lab.store import Store, check_writable, now
from fallline.tasks import Task

__all__ = [
    "BASELINES",
    "Event",
    "Interrupted",
    "StudySpec",
    "engine_of",
    "expand",
    "load_study",
    "make_spec",
    "run_study",
]

BASELINES = ("adamw", "nesterov")
"""Tuned like all others and always part of a study, so that no method is compared with an untuned baseline."""

ANCHOR = "adamw"
"""The method that others are compared with: its ratios are 1, its learning rate is the one carried over."""

POPULATION = 16
"""Runs that are handed to a worker together, at most. They are cut from the plan, not from what is missing: rounding may depend on
the company in which a run trains, and an interrupted study must give the numbers of an undisturbed one."""

_HIGHER_ORDER = frozenset({"curvature"})
"""Families whose methods take second derivatives."""

TUNING_SEED = 0
"""The seed of all trials; the fresh seeds 1, 2, ... never include it."""


@validated(frozen=True, config=ConfigDict(extra="forbid"))
class StudySpec:
    """Everything that decides a study's numbers. ``spaces``: method -> hyperparameter -> range as text.

    With ``extras`` every method also trains on the tuning seed at its defaults and at AdamW's best learning rate. (Fields with a
    value by default are left out of the store where they have it: they came after the first studies.) With ``batch_sizes`` every task is
    compared at each of them, for as many samples; with ``prune`` the study only explores.
    """

    tasks: tuple[str, ...]
    methods: tuple[str, ...]
    budget: str
    num_seeds: int
    spaces: Mapping[str, Mapping[str, str]]
    extras: bool = False
    batch_sizes: tuple[int, ...] = ()
    prune: bool = False

    @property
    def declared(self) -> dict[str, Any]:
        """As it is stored."""
        defaults = {f.name: f.default for f in fields(self) if f.default is not MISSING}
        return {k: v for k, v in asdict(self).items() if k not in defaults or v != defaults[k]}

    @property
    def command(self) -> str:
        """The command that makes this study."""
        tasks = " ".join(shlex.quote(t) for t in self.tasks)
        ranges = [
            f"--space {shlex.quote(f'{m}.{n}={r}')}" for m, space in self.spaces.items() for n, r in space.items()
        ]
        options = [
            f"--methods {','.join(self.methods)}",
            f"--budget {self.budget}",
            f"--seeds {self.num_seeds}",
            *([] if self.extras else ["--no-extras"]),
            *([f"--batch-size {','.join(map(str, self.batch_sizes))}"] if self.batch_sizes else []),
            *(["--prune"] if self.prune else []),
            *ranges,
        ]
        return f"fallline compare {tasks} {' '.join(options)}"

    def command_for(self, entry: str) -> str:
        """The command for one of the entries by itself, at all batch sizes if there are several."""
        task = next((t for t in self.tasks if entry == t or entry.startswith(f"{t}@")), None)
        return self.command if task is None else replace(self, tasks=(task,)).command

    @property
    def entries(self) -> tuple[str, ...]:
        """What methods are compared on: the tasks, or the tasks at every batch size."""
        return tuple(f"{t}@{size}" for t in self.tasks for size in self.batch_sizes) or self.tasks

    @property
    def plan(self) -> design.Budget:
        return design.BUDGETS[self.budget]

    @property
    def seeds(self) -> tuple[int, ...]:
        """The fresh seeds."""
        return tuple(range(TUNING_SEED + 1, TUNING_SEED + 1 + self.num_seeds))

    @property
    def num_runs(self) -> int:
        """Planned runs: trials, fresh seeds, defaults and AdamW's rate for every method on every task."""
        return len(self.entries) * sum(self.num_runs_of(method) for method in self.methods)

    def num_runs_of(self, method: str, confirmed: bool = True, anchored: bool = True) -> int:
        """Planned runs of a method on a task; without those that a best trial, of its own or of AdamW, has to come before."""
        extras = self.extras * (1 + (anchored and method != ANCHOR))
        noise = bool(self.batch_sizes) and method == ANCHOR and confirmed
        return self.plan.trials + confirmed * self.num_seeds + extras + noise

    def space(self, task: Task, method: str) -> dict[str, Range]:
        """A method's search space on a task: its own, with the task's and then the user's ranges in place of it."""
        given = {name: Range.parse(text) for name, text in self.spaces.get(method, {}).items()}
        return {**entry_of(method).space, **task.spaces.get(method, {}), **given}

    def steps(self, task: Task) -> int:
        """Training steps of every run on a task: the budget's share of the task's full budget."""
        return max(1, round(self.plan.step_fraction * task.steps))

    def trials(self, name: str, task: Task, method: str) -> list[RunSpec]:
        """The tuning runs: the design's points in the method's space."""
        space = self.space(task, method)
        settings = [design.setting(space, self.plan.num_tuned, i) for i in range(self.plan.trials)]
        purpose = "prune" if self.prune else "tune"
        return [self._run(name, task, method, s, TUNING_SEED, purpose) for s in settings]

    def confirmations(self, name: str, task: Task, method: str, best: Mapping[str, float]) -> list[RunSpec]:
        """The best setting on fresh seeds."""
        return [self._run(name, task, method, best, seed, "confirm") for seed in self.seeds]

    def default(self, name: str, task: Task, method: str) -> list[RunSpec]:
        """The method at its defaults, on the tuning seed; never a candidate for the best."""
        return [self._run(name, task, method, {}, TUNING_SEED, "default")] if self.extras else []

    def transfer(self, name: str, task: Task, method: str, anchor: RunSpec | None) -> list[RunSpec]:
        """The method at AdamW's best learning rate, on the tuning seed; never a candidate for the best."""
        if not self.extras or anchor is None or method == ANCHOR:
            return []
        lr = dict(anchor.hypers)["lr"]
        return [self._run(name, task, method, {"lr": lr}, TUNING_SEED, "transfer")]

    def noise(self, name: str, task: Task, anchor: RunSpec | None) -> list[RunSpec]:
        """AdamW's best trial once more, for the noise of its gradients; where batch sizes are compared."""
        if not self.batch_sizes or anchor is None:
            return []
        return [self._run(name, task, ANCHOR, dict(anchor.hypers), TUNING_SEED, "noise")]

    def _run(
        self, name: str, task: Task, method: str, setting: Mapping[str, float], seed: int, purpose: Any
    ) -> RunSpec:
        return RunSpec(name, method, tuple(sorted(setting.items())), seed, self.steps(task), purpose)


def make_spec(
    tasks: Sequence[str],
    methods: Sequence[str],
    budget: str = "quick",
    num_seeds: int | None = None,
    spaces: Mapping[str, Mapping[str, str]] | None = None,
    extras: bool = True,
    batch_sizes: Sequence[int] = (),
    prune: bool = False,
) -> StudySpec:
    """A validated specification: baselines added, names and ranges checked, the number of seeds chosen if not given.

    ``methods`` holds names of methods and of sets of them, as ``expand`` takes them. Raises FalllineError or ValueError with
    the nearest known names.
    """
    if not tasks:
        raise FalllineError(
            "No task was given. Expected at least one. Choose from 'fallline tasks', or pass my_module:make_task."
        )
    if budget not in design.BUDGETS:
        raise unknown("budget", budget, design.BUDGETS)
    chosen = tuple(dict.fromkeys([*BASELINES, *expand(methods)]))
    if num_seeds is not None and num_seeds < 1:
        raise FalllineError(
            f"{num_seeds} seeds cannot be run. Expected at least 1; a proof needs 6 or more. Pass --seeds 7."
        )
    spaces = {m: dict(s) for m, s in (spaces or {}).items()}
    for method, ranges in spaces.items():
        entry_of(method)
        if method not in chosen:
            raise FalllineError(
                f"A search range was given for {method}, which is not in the study. Expected one of {', '.join(chosen)}. "
                f"Add it to --methods, or drop the range."
            )
        for name, text in ranges.items():
            _check_range(method, name, text, design.BUDGETS[budget].num_tuned)
    seeds = num_seeds or default_num_seeds(len(chosen))
    return StudySpec(tuple(dict.fromkeys(tasks)), chosen, budget, seeds, spaces, extras, _sizes(batch_sizes), prune)


def _sizes(given: Sequence[int]) -> tuple[int, ...]:
    for size in given:
        if size < 1:
            raise FalllineError(f"A batch of {size} examples is empty. Expected at least 1. Write --batch-size 32,128.")
    return tuple(dict.fromkeys(given))


def expand(names: Sequence[str]) -> list[str]:
    """Methods by name. ``all`` stands for every one, ``all-first-order`` for those that take no second derivatives,
    ``all-adaptive`` or ``adaptive`` for a family; a method goes before a family that is called like it. ``second_order`` stands for
    the solvers, which ``all`` leaves out."""
    families: dict[str, list[str]] = {}
    for name, entry in METHODS.items():
        families.setdefault(entry.family, []).append(name)
    sets = {
        "all": list(METHODS),
        "all-first-order": [m for f, ms in families.items() if f not in _HIGHER_ORDER for m in ms],
    }
    sets.update({f"all-{family}": members for family, members in families.items()})
    sets.update({family: members for family, members in families.items() if family not in METHODS})
    sets["second_order"] = list(STEP_METHODS)
    found: list[str] = []
    for name in filter(None, map(str.strip, names)):
        if name not in sets and name not in all_names():
            raise unknown("method", name, [*all_names(), *sets])
        found += sets.get(name, [name])
    return list(dict.fromkeys(found))


def _check_range(method: str, name: str, text: str, num_tuned: int) -> None:
    entry, parsed = entry_of(method), Range.parse(text)
    if name not in entry.hypers:
        raise unknown(f"hyperparameter of {method}", name, entry.hypers)
    for end in (parsed.low, parsed.high):
        check_hyper(method, name, end, entry.domain(name))
    tuned = design.tuned_names(entry.space, num_tuned)
    if name not in tuned:
        raise FalllineError(
            f"A search range was given for {name} of {method}, which this budget does not tune. It tunes "
            f"{', '.join(tuned)}. Use a larger --budget, or drop the range."
        )


@dataclass(frozen=True)
class Event:
    """News for a progress display. ``kind``: planned, finished, dropped (a method whose every trial diverged), alone (the runs of a
    method train one by one; ``status`` says why)."""

    kind: str
    planned: int
    done: int
    repeated: int = 0  # runs that were there already
    task: str = ""
    method: str = ""
    purpose: str = ""
    status: str = ""
    final: float | None = None
    seconds: float = 0.0  # since this session of the study began


class Interrupted(FalllineError):
    """A study was stopped by a signal; everything finished is kept."""

    def __init__(self, folder: Path, number: int) -> None:
        self.exit_code = 128 + number
        super().__init__(f"Interrupted. Finished runs are kept in {folder}. Go on with: fallline resume {folder}")


def run_study(
    spec: StudySpec,
    folder: Path,
    num_workers: int | None = None,
    progress: Callable[[Event], None] = lambda event: None,
    *,
    engine: str = "local",
    address: str | None = None,
) -> dict[str, Any]:
    """Run what is not there yet, and return the results (schema 1 of results.json).

    ``engine`` is ``local`` (``num_workers`` processes, 2 by default) or ``ray`` (at ``address``, on all CPUs by default).

    Raises FalllineError for a folder that cannot be used or a task that does not train, Interrupted on SIGINT or SIGTERM.
    """
    choice = EngineChoice(engine, num_workers, address)
    tasks = {name: load_entry(name) for name in spec.entries}
    for task in tasks.values():
        task.check()
    chosen = choice.make(tasks)
    check_writable(folder)
    with _exclusive(folder), Store(folder, spec.declared) as store:
        load_start = environment.load_average()
        store.put_meta("engine", choice.to_text())  # for resuming; no part of what the study is
        with _signals(folder), chosen as workers, _watched(store) as watch:
            _Execution(spec, tasks, store, RunQueue(workers), progress, watch).run()
        if store.meta("finished") is None:
            store.put_meta("finished", now())
            store.put_meta("load_start", str(load_start))
            store.put_meta("load_end", str(environment.load_average()))
        return results_of(spec, tasks, store)


def load_study(folder: Path) -> tuple[StudySpec, dict[str, Any]]:
    """The specification and results of a study on disk, complete or not. Raises FalllineError if there is none."""
    with Store(folder) as store:
        spec = TypeAdapter(StudySpec).validate_python(store.meta("spec"))
        return spec, results_of(spec, {name: load_entry(name) for name in spec.entries}, store)


def engine_of(folder: Path) -> EngineChoice:
    """How the study in a folder was last run. Raises FalllineError if there is none."""
    with Store(folder) as store:
        return EngineChoice.from_text(store.meta("engine"))


def results_of(spec: StudySpec, tasks: Mapping[str, Task], store: Store) -> dict[str, Any]:
    from fallline.lab.summary import summarise  # here, because it needs StudySpec

    facts = {key: store.meta(key) for key in ("started", "finished", "load_start", "load_most", "load_end")}
    return summarise(spec, tasks, store.results(), facts, str(store.path.parent))


@dataclass
class _Execution:
    """The plan, carried out: all trials, and as soon as a method's trials are done, its best setting on fresh seeds."""

    spec: StudySpec
    tasks: Mapping[str, Task]
    store: Store
    queue: RunQueue
    progress: Callable[[Event], None]
    watch: Callable[[], None] = lambda: None  # called after each run
    began: float = field(default_factory=time.monotonic)

    def run(self) -> None:
        self.results = self.store.results()
        self.planned, self.done = self.spec.num_runs, 0
        self.missing: dict[tuple[str, str], int] = {}
        self.repeated = 0
        self.there: set[str] = set()
        self.told: set[tuple[str, str]] = set()
        self._tell(Event("planned", self.planned, 0))
        for name, task in self.tasks.items():
            for method in self.spec.methods:
                trials = self.spec.trials(name, task, method)
                self.missing[name, method] = len(trials)
                self._plan(trials)
                self._plan(self.spec.default(name, task, method))
        for run, record in self.queue:
            self._tell_alone()
            self.watch()
            if run.id in self.there:  # of a population that was interrupted half-way into the store
                continue
            self.store.record(run.id, asdict(run), record)
            self.results[run.id] = record
            self._finished(run, record)

    def _plan(self, runs: Sequence[RunSpec]) -> None:
        there = [run for run in runs if run.id in self.results]
        self.there.update(run.id for run in there)
        size = len(runs) if runs and runs[0].purpose == "prune" else POPULATION  # halving has to see all of them
        groups = [runs[i : i + size] for i in range(0, len(runs), max(1, size))]
        self.queue.submit([group for group in groups if any(run.id not in self.results for run in group)])
        self.repeated += len(there)
        for run in there:
            self._finished(run, self.results[run.id])

    def _finished(self, run: RunSpec, record: Mapping[str, Any]) -> None:
        self.done += 1
        self._tell(
            Event("finished", self.planned, self.done, self.repeated, run.task, run.method, run.purpose,
                  record["status"], record["final"])
        )  # fmt: skip
        if run.purpose not in ("tune", "prune"):
            return
        self.missing[run.task, run.method] -= 1
        if self.missing[run.task, run.method] == 0:
            task = self.tasks[run.task]
            best = best_trial(task, self.spec.trials(run.task, task, run.method), self.results)
            if best is None:
                self._drop(run)
            else:
                self._plan(self.spec.confirmations(run.task, task, run.method, dict(best.hypers)))
            if run.method == ANCHOR:
                self._plan(self.spec.noise(run.task, task, best))
                for method in self.spec.methods:
                    self._plan(self.spec.transfer(run.task, task, method, best))

    def _drop(self, run: RunSpec) -> None:
        """Every trial diverged: nothing can follow from them."""
        self.planned -= self.spec.num_runs_of(run.method) - self.spec.num_runs_of(run.method, confirmed=False)
        if run.method == ANCHOR:
            self.planned -= self.spec.extras * (len(self.spec.methods) - 1)
        self._tell(Event("dropped", self.planned, self.done, self.repeated, run.task, run.method))

    def _tell_alone(self) -> None:
        for (task, method), reason in self.queue.alone.items():
            if (task, method) not in self.told:
                self.told.add((task, method))
                self._tell(Event("alone", self.planned, self.done, self.repeated, task, method, status=reason))

    def _tell(self, event: Event) -> None:
        self.progress(Event(**{**asdict(event), "seconds": time.monotonic() - self.began}))


def best_trial(task: Task, trials: Sequence[RunSpec], results: Mapping[str, Mapping[str, Any]]) -> RunSpec | None:
    """The trial with the best final metric; the earlier one on a tie; None if every trial diverged."""
    sign = 1 if task.metric.minimize else -1
    finals = [(sign * results[r.id]["final"], i) for i, r in enumerate(trials) if results[r.id]["final"] is not None]
    return trials[min(finals)[1]] if finals else None


@contextmanager
def _watched(store: Store) -> Iterator[Callable[[], None]]:
    """A function that looks at the load of the machine; the most seen, in this session or before, is kept in the store."""
    held = store.meta("load_most")
    seen = [] if held is None else [float(held)]

    def look() -> None:
        load = environment.load_average()
        seen.extend([] if load is None else [load])

    try:
        yield look
    finally:
        if seen:
            store.put_meta("load_most", str(max(seen)))


@contextmanager
def _signals(folder: Path) -> Iterator[None]:
    """SIGINT and SIGTERM become Interrupted, so that workers are stopped and the store is closed on the way out."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise Interrupted(folder, number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    """One process at a time per folder; the lock goes with its process, however that ends."""
    try:
        import fcntl
    except ImportError:  # no such locks on this system: runs are recorded once in any case
        yield
        return
    with (folder / "lock").open("w") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unlike flock's, this lock is not inherited by workers
        except OSError:
            raise FalllineError(
                f"Another process is working on {folder}. One study, one process. Wait for it, or choose another folder with --out."
            ) from None
        yield
