"""From a study's runs to its results: a pure function, with every number that the report prints (schema 1)."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import statistics as plain
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from fallline import __version__
from fallline.lab import design, environment, tunability
from fallline.lab.batch_sizes import base_of, label
from fallline.lab.comparison import comparisons, worst_last
from fallline.lab.entries import entry_of
from fallline.lab.run import DIVERGED_FACTOR, DIVERGED_FRACTION, WARMUP_FRACTION, RunSpec
from fallline.lab.scores import MISS, ranking
from fallline.lab.statistics import ALPHA, interval_of_mean
from fallline.lab.study import ANCHOR, BASELINES, TUNING_SEED, StudySpec, best_trial
from fallline.lab.targets import SHARES, hit, ratio, targets, to_share, to_target
from fallline.lab.verdict import verdict, what_would_change
from fallline.tasks import Task

__all__ = ["SCHEMA", "summarise", "write_results"]

SCHEMA = 1
RANKED = 0.95
"""The share whose target the scores over tasks are about."""

Results = Mapping[str, Mapping[str, Any]]


def summarise(
    spec: StudySpec, tasks: Mapping[str, Task], results: Results, facts: Mapping[str, Any], folder: str
) -> dict[str, Any]:
    """The results of a study, complete or not; pure apart from the description of the machine."""
    found = [_task(spec, name, task, results) for name, task in tasks.items()]
    runs = [r for t in found for m in t["methods"] for r in _runs_of(m)]
    runs += [t["noise_scale"]["run"] for t in found if t.get("noise_scale")]
    statuses = [r["status"] for r in runs]
    planned = sum(_planned(spec, m, _anchor(t)) for t in found for m in t["methods"])
    ranked, times = _ranking(spec, found), clock(facts)
    for t in found:
        there = sum(len(_runs_of(m)) for m in t["methods"]) + bool(t.get("noise_scale"))
        missing = sum(_planned(spec, m, _anchor(t)) for m in t["methods"]) - there
        t["what_would_change"] = what_would_change(t, spec.num_seeds, missing, f"fallline resume {folder}", times)
    for t in found:
        for m in t["methods"]:
            del m["complete"]
    return {
        "schema": SCHEMA,
        "fallline": __version__,
        "study": {
            "id": Path(folder).name,
            "command": spec.command,
            "resume": f"fallline resume {folder}",
            "budget": {
                "name": spec.budget,
                "trials": spec.plan.trials,
                "step_fraction": spec.plan.step_fraction,
                "tuned_hyperparameters": spec.plan.num_tuned,
            },
            "tuning_seed": TUNING_SEED,
            "seeds": list(spec.seeds),
            "complete": len(runs) == planned,
            "runs": {
                "planned": planned,
                "done": statuses.count("done"),
                "diverged": statuses.count("diverged"),
                "failed": 0,
                **({"pruned": statuses.count("pruned")} if spec.prune else {}),
            },
            "started": facts["started"],
            "finished": facts["finished"],
            "total_seconds": math.fsum(r["train_seconds"] for r in runs),
        },
        "protocol": protocol(spec),
        "environment": {
            **environment.describe(),
            "load_start": _number(facts["load_start"]),
            "load_end": _number(facts["load_end"]),
        },
        "tasks": found,
        **({"ranking": ranked} if ranked else {}),
        "clock": times,
    }


def clock(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Whether times are to be trusted: not where more wanted to run than there are cores, or where nobody knows."""
    cores = os.cpu_count() or 1
    loads = [x for x in (_number(facts.get(k)) for k in ("load_start", "load_most", "load_end")) if x is not None]
    if not loads:
        return {"trusted": False, "why": "The load of the machine is not known."}
    if max(loads) > CROWDED * cores:
        return {
            "trusted": False,
            "why": f"The machine was contended: a load of {max(loads):g} on {cores} core{'s' * (cores > 1)}. Times of such runs are not comparable.",
        }
    return {"trusted": True, "why": f"The load stayed at {max(loads):g} on {cores} core{'s' * (cores > 1)}."}


CROWDED = 1.25
"""Load for each core from which on times are not to be trusted; up to 1 is the doing of the study itself."""


def _runs_of(m: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Everything that was trained for a method."""
    extras = [m["tunability"]["default"], m["tunability"]["transfer"]]
    return [*m["trials"], *m["runs"], *(r for r in extras if r)]


def _anchor(t: Mapping[str, Any]) -> Mapping[str, Any]:
    return next(m for m in t["methods"] if m["name"] == ANCHOR)


def _planned(spec: StudySpec, m: Mapping[str, Any], anchor: Mapping[str, Any]) -> int:
    """Runs to be had for a method: after trials that all diverged, none follow."""
    confirmed, anchored = (x["best"] is not None or not x["complete"] for x in (m, anchor))
    return spec.num_runs_of(m["name"], confirmed, anchored)


def protocol(spec: StudySpec) -> list[dict[str, str]]:
    """The rules of the study, as printed in every report."""
    plan = spec.plan
    rules = {
        "Search": f"{plan.trials} trials for every method: points of one scrambled Sobol sequence, taken by index, the same "
        f"points of the unit cube for every method, mapped into its declared space.",
        "Tuned": f"The first {plan.num_tuned} hyperparameter{'s' * (plan.num_tuned > 1)} of each space; all others at their defaults.",
        "Budget": f"{100 * plan.step_fraction:g} % of each task's steps, the same for tuning and for the final runs.",
        **(
            {
                "Batch sizes": f"Every method is tuned anew at {', '.join(map(str, spec.batch_sizes))} examples a batch, for as many samples at each: "
                f"steps change by the inverse factor. Beside them stands the gradient noise scale before and after the best trial of {ANCHOR}."
            }
            if spec.batch_sizes
            else {}
        ),
        **(
            {
                "Pruning": "EXPLORATORY: the worse half of the trials is given up at a quarter of the steps, and again at half of them. That favours "
                "methods and rates that are quick at first."
            }
            if spec.prune
            else {}
        ),
        "Schedule": f"{100 * WARMUP_FRACTION:g} % linear warm-up, then cosine decay to zero at the last step, for every method.",
        "Fresh seeds": f"The best point of each method is run again on seeds {spec.seeds[0]} to {spec.seeds[-1]}; the tuning "
        f"seed {TUNING_SEED} is never used again. All results below are from fresh seeds.",
        **(
            {
                "Defaults and transfer": f"On the tuning seed every method also trains at its defaults and at the best learning rate of {ANCHOR}: "
                f"what tuning is worth. Neither run is a candidate for the best."
            }
            if spec.extras
            else {}
        ),
        "Targets": f"{', '.join(f'{100 * s:g}' for s in SHARES)} % of the gap between the initial metric and the median final of tuned {ANCHOR} "
        f"in this study, beside the task's own target.",
        "Baselines": f"{' and '.join(BASELINES)} are always included and tuned like all others.",
        "Randomness": "Four independent counter-based streams for initialisation, data order, noise and dropout; methods share them, "
        "so differences are paired by seed.",
        "Evaluation": "The whole validation set at evenly spaced steps, the last one included; no stopping on validation.",
        "Divergence": f"A run has diverged when its loss is not finite, or stays above {DIVERGED_FACTOR:g} times its first "
        f"value for {100 * DIVERGED_FRACTION:g} % of the steps. It counts as worse than every finite result.",
        "Intervals": "95 % over seeds, by inversion of the exact sign-flip test: its coverage is exact for symmetric noise. Below six seeds, "
        "which cannot reject anything, Student's.",
        "Tests": "Exact paired sign-flip tests, two-sided, with Holm's correction over all pairs of a task. Two methods are told "
        f"apart only if the corrected p is at most {ALPHA:g}; the interval of their difference then excludes zero.",
        "Edges": "While the worse of two methods is best on the edge of its space, and its curve there could close the difference within a "
        "decade, the verdict on the two is withheld.",
        "Time": "CPU seconds of the training process on one thread, evaluation excluded; gradient evaluations are counted, "
        "so that methods which take several a step pay for them.",
    }
    return [{"rule": rule, "setting": setting} for rule, setting in rules.items()]


def _task(spec: StudySpec, name: str, task: Task, results: Results) -> dict[str, Any]:
    carried = _best_of(spec, name, task, ANCHOR, results)
    methods = [_method(spec, name, task, method, results, carried) for method in spec.methods]
    anchor = _anchor({"methods": methods})
    for m in methods:
        hits, theirs = ([r["to_target"] for r in x["runs"]] for x in (m, anchor))
        m["to_target"]["ratio_to_adamw"] = {c: ratio(hits, theirs, c) for c in ("steps", "seconds")}
    initial = _middle([r["initial"] for r in next((m["runs"] for m in (anchor, *methods) if m["runs"]), [])])
    finished = len(anchor["runs"]) == spec.num_seeds
    goals = targets(anchor["final"]["median"] if finished else None, initial, task.metric.minimize)
    for m in methods:
        m["to_targets"] = [to_share(task.metric.minimize, m, anchor, goal["value"]) for goal in goals]
    compared = [m for m in methods if m["best"] is not None and len(m["runs"]) == spec.num_seeds]
    with torch.random.fork_rng(devices=[]):
        parameters = sum(p.numel() for p in task.model().parameters())
    steps = spec.steps(task)
    record = {
        "name": label(name, task),
        "reference": name,
        "summary": task.summary,
        "parameters": parameters,
        "batch_size": task.batch_size,
        "steps": steps,
        "samples": steps * task.batch_size,
        "eval_every": steps / min(task.num_evals, steps),
        "metric": {"name": task.metric.name, "unit": task.metric.unit, "minimize": task.metric.minimize},
        "target": task.target,
        "target_note": task.target_note,
        "initial": initial,
        "targets": goals,
        "data": [
            {"name": s.name, "licence": s.licence, "origin": s.origin, "sha256": s.sha256, "synthetic": s.synthetic}
            for s in task.sources
        ],
        "methods": methods,
        "exploratory": spec.prune,
    }
    if spec.batch_sizes:
        record["noise_scale"] = _noise(spec.noise(name, task, carried), results)
    alone = spec.command_for(name)
    record["comparisons"] = comparisons(record, compared, alone)
    return {**record, "verdict": verdict(record, spec.num_seeds, alone)}


def _noise(runs: Sequence[RunSpec], results: Results) -> dict[str, Any] | None:
    """The gradient noise scale of AdamW's best trial, initially and trained, in examples."""
    if not runs or runs[0].id not in results:
        return None
    record = results[runs[0].id]
    found = record["noise_scale"]
    return {
        **{when: x["value"] if x else None for when, x in found.items()},
        "detail": found,
        "run": {
            "run": runs[0].id,
            **{k: record[k] for k in ("status", "final", "train_seconds")},
            "command": runs[0].command,
        },
    }


def _best_of(spec: StudySpec, name: str, task: Task, method: str, results: Results) -> RunSpec | None:
    """The best trial, once all are there."""
    trials = spec.trials(name, task, method)
    return best_trial(task, trials, results) if all(r.id in results for r in trials) else None


def _method(
    spec: StudySpec, name: str, task: Task, method: str, results: Results, carried: RunSpec | None
) -> dict[str, Any]:
    entry, space = entry_of(method), spec.space(task, method)
    trials = spec.trials(name, task, method)
    there = [r for r in trials if r.id in results]
    complete = len(there) == len(trials)
    best = _best_of(spec, name, task, method, results)
    runs = [r for r in spec.confirmations(name, task, method, dict(best.hypers)) if r.id in results] if best else []
    tuned = design.tuned_names(space, spec.plan.num_tuned)
    fixed = {k: v for k, v in entry.defaults.items() if k not in tuned}
    everything = [results[r.id] for r in (*there, *runs)]
    return {
        "name": method,
        "label": entry.label,
        "summary": entry.summary,
        "family": entry.family,
        "baseline": method in BASELINES,
        "paper": {
            "title": entry.card.title,
            "arxiv": entry.card.arxiv,
            "doi": entry.card.doi,
            "year": entry.card.year,
            "source": entry.card.source,
        },
        "reach": entry.reach.name.lower(),
        "state_bytes_per_parameter": entry.state_bytes(),
        "space": {k: str(v) for k, v in space.items()},
        "tuned": list(tuned),
        "fixed": fixed,
        "trials": [_trial(r, i, results[r.id], len(tuned)) for i, r in enumerate(trials) if r.id in results],
        "best": None if best is None else _best(best, trials, space, method),
        "runs": [_run(r, results[r.id]) for r in runs],
        "final": _final(task, [results[r.id]["final"] for r in runs]),
        "to_target": to_target([results[r.id]["to_target"] for r in runs]),
        "cost": {
            "step_ms": _median([r["step_ms"] for r in everything]),
            "optimizer_ms": _median([r["optimizer_ms"] for r in everything]),
            "state_bytes_per_parameter": _median([r["state_bytes_per_parameter"] for r in everything]),
        },
        "tunability": {
            **_tuning(task, there, results, len(tuned), spec.prune),
            "default": _extra(task, spec.default(name, task, method), best, results),
            "transfer": _extra(task, spec.transfer(name, task, method, carried), best, results),
        },
        "complete": complete,
    }


def _tuning(task: Task, trials: Sequence[RunSpec], results: Results, num_tuned: int, pruned: bool) -> dict[str, Any]:
    """What the trials say about tuning itself; only what it cost where some were given up before their end."""
    sign, records = 1 if task.metric.minimize else -1, [results[r.id] for r in trials]
    costs = worst_last([r["final"] for r in records], task.metric.minimize)
    kind, curve = tunability.best_of([] if pruned else costs)
    initial = _middle([r.get("initial") for r in records])
    rates = [dict(r.hypers).get("lr") for r in trials]
    known = [x for x in rates if x is not None]
    return {
        "expected_best": [[k, sign * value] for k, value in curve],
        "expected_best_is": kind,
        "basin": tunability.basin(known, costs, None if initial is None else sign * initial, num_tuned == 1)
        if trials and not pruned and len(known) == len(rates)
        else None,
        "cost": {
            "trials": len(records),
            "gradient_evaluations": sum(r["gradient_evaluations"] for r in records),
            "seconds": math.fsum(r["train_seconds"] for r in records),
        },
    }


def _extra(task: Task, runs: Sequence[RunSpec], best: RunSpec | None, results: Results) -> dict[str, Any] | None:
    """A run that is no candidate for the best; ``gap`` is by how much it is worse than the best trial, on the same seed."""
    if not runs or runs[0].id not in results:
        return None
    run, record = runs[0], results[runs[0].id]
    hyper, defaults = dict(run.hypers), entry_of(run.method).defaults
    cost, than = worst_last([record["final"], results[best.id]["final"] if best else None], task.metric.minimize)
    return {
        "run": run.id,
        "lr": hyper.get("lr", _plain(defaults["lr"])),
        "hyper": hyper or {k: _plain(v) for k, v in defaults.items()},
        "status": record["status"],
        "final": record["final"],
        "gap": cost - than if math.isfinite(cost) and math.isfinite(than) else None,
        "train_seconds": record["train_seconds"],
        "command": run.command,
    }


def _plain(value: Any) -> Any:
    return value if isinstance(value, float | int | bool | str | None) else str(value)


def _trial(run: RunSpec, index: int, record: Mapping[str, Any], num_tuned: int) -> dict[str, Any]:
    return {
        "run": run.id,
        "point": index,
        "unit": list(design.point(index)[:num_tuned]),
        "hyper": dict(run.hypers),
        "status": record["status"],
        "final": record["final"],
        "train_seconds": record["train_seconds"],
        "command": run.command,
    }


def _best(best: RunSpec, trials: Sequence[RunSpec], space: Mapping[str, Any], method: str) -> dict[str, Any]:
    found = design.edges(space, [dict(t.hypers) for t in trials], dict(best.hypers))
    edges = [
        {
            "name": e.name,
            "side": e.side,
            "value": e.value,
            "range": str(space[e.name]),
            "widen": f'--space "{method}.{e.name}={e.widened}"',
        }
        for e in found
    ]
    return {"run": best.id, "hyper": dict(best.hypers), "edges": edges}


def _run(run: RunSpec, record: Mapping[str, Any]) -> dict[str, Any]:
    kept = (
        "status",
        "diverged_at",
        "final",
        "steps",
        "metric",
        "train_loss",
        "to_target",
        "train_seconds",
        "step_ms",
        "optimizer_ms",
        "initial_parameters",
    )
    found = {"run": run.id, "seed": run.seed, **{k: record[k] for k in kept}, "command": run.command}
    return {**found, "initial": record.get("initial"), "gradient_evaluations": record["gradient_evaluations"]}


def _final(task: Task, finals: Sequence[float | None]) -> dict[str, Any]:
    finite = [x for x in finals if x is not None]
    interval = interval_of_mean(finite) if len(finite) == len(finals) else None
    return {
        "n": len(finals),
        "mean": plain.fmean(finite) if interval else None,
        "median": _median_final(finals, task.metric.minimize),
        "low": interval.low if interval else None,
        "high": interval.high if interval else None,
        "sd": plain.stdev(finite) if len(finite) > 1 else None,
        "diverged": len(finals) - len(finite),
    }


def _median_final(finals: Sequence[float | None], minimize: bool) -> float | None:
    middle = plain.median(worst_last(finals, minimize)) if finals else math.inf
    return (middle if minimize else -middle) if math.isfinite(middle) else None


def _ranking(spec: StudySpec, found: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Scores over tasks, from gradient evaluations to the target of RANKED; None with fewer than two tasks that have one."""
    times: dict[str, dict[str, list[float]]] = {method: {} for method in spec.methods}
    budgets, bases = {}, set()
    for t in found:
        finished = all(len(m["runs"]) == spec.num_seeds or (m["best"] is None and m["complete"]) for m in t["methods"])
        value = next((x["value"] for x in t["targets"] if x["share"] == RANKED), None)
        if not finished or value is None:
            continue
        bases.add(base_of(t["reference"]))
        budgets[t["name"]] = float(t["steps"])
        for m in t["methods"]:
            hits = [hit(t["metric"]["minimize"], r, value) for r in m["runs"]] or [None] * spec.num_seeds
            times[m["name"]][t["name"]] = [math.inf if x is None else x["gradient_evaluations"] for x in hits]
    if len(bases) < 2:  # batch sizes of one task are not several tasks
        return None
    basis = (
        f"gradient evaluations until {100 * RANKED:g} % of the gap that tuned {ANCHOR} closes, median over seeds, on "
        f"{len(budgets)} tasks; a miss counts as {MISS:g} budgets; intervals resample tasks and seeds"
    )
    return {"basis": basis, **ranking(times, ANCHOR, budgets)}


def _middle(values: Sequence[float | None]) -> float | None:
    """The median, if all are known."""
    known = [x for x in values if x is not None]
    return plain.median(known) if known and len(known) == len(values) else None


def _median(values: Sequence[float]) -> float | None:
    return plain.median(values) if values else None


def _number(text: str | None) -> float | None:
    return None if text in (None, "None") else float(text)


# -- files --------------------------------------------------------------------------------------------------------------


def write_results(results: Mapping[str, Any], folder: Path) -> None:
    """results.json, summary.csv (a row per task and method) and runs.csv (a row per run), each replaced atomically."""
    _replace(folder / "results.json", json.dumps(results, indent=1, allow_nan=False))
    summary, runs = [], []
    for t in results["tasks"]:
        for m in t["methods"]:
            hit = m["to_target"]
            steps = hit["steps"]["median"] if hit["steps"] else None
            summary.append(
                {"task": t["name"], "method": m["name"], **(m["best"]["hyper"] if m["best"] else {}), **m["final"],
                 "reached": hit["reached"], "steps_to_target": steps, **m["cost"]}
            )  # fmt: skip
            extras = {kind: [r] for kind in ("default", "transfer") if (r := m["tunability"][kind])}
            for kind, some in {"trial": m["trials"], "run": m["runs"], **extras}.items():
                for r in some:
                    hyper = r.get("hyper") or m["best"]["hyper"]
                    runs.append(
                        {"task": t["name"], "method": m["name"], "kind": kind, "run": r["run"],
                         "seed": r.get("seed", TUNING_SEED), **hyper, "status": r["status"], "final": r["final"],
                         "train_seconds": r["train_seconds"], "command": r["command"]}
                    )  # fmt: skip
    _replace(folder / "summary.csv", _csv(summary))
    _replace(folder / "runs.csv", _csv(runs))


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(dict.fromkeys(k for row in rows for k in row)))
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _replace(path: Path, text: str) -> None:
    """Write to a temporary file beside it, flush to disk, rename: a reader sees the old file or the new one."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
