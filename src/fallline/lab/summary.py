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
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fallline import __version__
from fallline.lab import design, environment
from fallline.lab.entries import entry_of
from fallline.lab.run import DIVERGED_FACTOR, DIVERGED_FRACTION, WARMUP_FRACTION, RunSpec
from fallline.lab.statistics import (
    ALPHA,
    Interval,
    differences,
    holm,
    interval_of_mean,
    seeds_needed,
    sign_flip,
    smallest_p,
)
from fallline.lab.study import BASELINES, TUNING_SEED, StudySpec, best_trial
from fallline.lab.verdict import sentence, verdict
from fallline.tasks import Task

__all__ = ["SCHEMA", "summarise", "write_results"]

SCHEMA = 1
ANCHOR = "adamw"
_COUNTS = ("steps", "samples", "gradient_evaluations", "seconds")
Results = Mapping[str, Mapping[str, Any]]


def summarise(
    spec: StudySpec, tasks: Mapping[str, Task], results: Results, facts: Mapping[str, Any], folder: str
) -> dict[str, Any]:
    """The results of a study, complete or not; pure apart from the description of the machine."""
    found = [_task(spec, name, task, results) for name, task in tasks.items()]
    runs = [r for t in found for m in t["methods"] for r in (*m["trials"], *m["runs"])]
    statuses = [r["status"] for r in runs]
    planned = sum(
        spec.plan.trials + (m["best"] is not None or not m["complete"]) * spec.num_seeds
        for t in found
        for m in t["methods"]
    )
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
    }


def protocol(spec: StudySpec) -> list[dict[str, str]]:
    """The rules of the study, as printed in every report."""
    plan = spec.plan
    rules = {
        "Search": f"{plan.trials} trials for every method: points of one scrambled Sobol sequence, taken by index, the same "
        f"points of the unit cube for every method, mapped into its declared space.",
        "Tuned": f"The first {plan.num_tuned} hyperparameter{'s' * (plan.num_tuned > 1)} of each space; all others at their defaults.",
        "Budget": f"{100 * plan.step_fraction:g} % of each task's steps, the same for tuning and for the final runs.",
        "Schedule": f"{100 * WARMUP_FRACTION:g} % linear warm-up, then cosine decay to zero at the last step, for every method.",
        "Fresh seeds": f"The best point of each method is run again on seeds {spec.seeds[0]} to {spec.seeds[-1]}; the tuning "
        f"seed {TUNING_SEED} is never used again. All results below are from fresh seeds.",
        "Baselines": f"{' and '.join(BASELINES)} are always included and tuned like all others.",
        "Randomness": "Four independent counter-based streams for initialisation, data order, noise and dropout; methods share them, "
        "so differences are paired by seed.",
        "Evaluation": "The whole validation set at evenly spaced steps, the last one included; no stopping on validation.",
        "Divergence": f"A run has diverged when its loss is not finite, or stays above {DIVERGED_FACTOR:g} times its first "
        f"value for {100 * DIVERGED_FRACTION:g} % of the steps. It counts as worse than every finite result.",
        "Intervals": "95 %, BCa bootstrap over seeds (9,999 resamples). With so few seeds they tend to be short; no verdict rests on them alone.",
        "Tests": "Exact paired sign-flip tests, two-sided, with Holm's correction over all pairs of a task. Two methods are told "
        f"apart only if the corrected p is at most {ALPHA:g} and the interval of their difference excludes zero.",
        "Time": "CPU seconds of the training process on one thread, evaluation excluded; steps count one gradient evaluation each.",
    }
    return [{"rule": rule, "setting": setting} for rule, setting in rules.items()]


def _task(spec: StudySpec, name: str, task: Task, results: Results) -> dict[str, Any]:
    methods = [_method(spec, name, task, method, results) for method in spec.methods]
    anchor = next(m for m in methods if m["name"] == ANCHOR)
    for m in methods:
        m["to_target"]["ratio_to_adamw"] = {c: _ratio(m, anchor, c) for c in ("steps", "seconds")}
    compared = [m for m in methods if m["best"] is not None and len(m["runs"]) == spec.num_seeds]
    comparisons = _comparisons(task, compared)
    with torch.random.fork_rng(devices=[]):
        parameters = sum(p.numel() for p in task.model().parameters())
    steps = spec.steps(task)
    record = {
        "name": task.name,
        "reference": name,
        "summary": task.summary,
        "parameters": parameters,
        "batch_size": task.batch_size,
        "steps": steps,
        "eval_every": steps / min(task.num_evals, steps),
        "metric": {"name": task.metric.name, "unit": task.metric.unit, "minimize": task.metric.minimize},
        "target": task.target,
        "target_note": task.target_note,
        "data": [
            {"name": s.name, "licence": s.licence, "origin": s.origin, "sha256": s.sha256, "synthetic": s.synthetic}
            for s in task.sources
        ],
        "methods": methods,
        "comparisons": comparisons,
    }
    return {**record, "verdict": verdict(record, spec.num_seeds, spec.command)}


def _method(spec: StudySpec, name: str, task: Task, method: str, results: Results) -> dict[str, Any]:
    entry, space = entry_of(method), spec.space(task, method)
    trials = spec.trials(name, task, method)
    there = [r for r in trials if r.id in results]
    complete = len(there) == len(trials)
    best = best_trial(task, trials, results) if complete else None
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
        "to_target": _to_target([results[r.id] for r in runs]),
        "cost": {
            "step_ms": _median([r["step_ms"] for r in everything]),
            "optimizer_ms": _median([r["optimizer_ms"] for r in everything]),
            "state_bytes_per_parameter": _median([r["state_bytes_per_parameter"] for r in everything]),
        },
        "complete": complete,
    }


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
    return {"run": run.id, "seed": run.seed, **{k: record[k] for k in kept}, "command": run.command}


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


def worst_last(finals: Sequence[float | None], minimize: bool) -> list[float]:
    """Finals as costs, lower better; a diverged run is infinitely costly."""
    return [math.inf if x is None else x if minimize else -x for x in finals]


def _median_final(finals: Sequence[float | None], minimize: bool) -> float | None:
    middle = plain.median(worst_last(finals, minimize)) if finals else math.inf
    return (middle if minimize else -middle) if math.isfinite(middle) else None


def _to_target(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Medians over seeds, a miss counting as infinite; the interval is that of the median's order statistics."""
    reached = [r["to_target"] for r in records if r["to_target"] is not None]
    out: dict[str, Any] = {"reached": len(reached), "of": len(records)}
    for count in _COUNTS:
        values = sorted(hit[count] for hit in reached) + [math.inf] * (len(records) - len(reached))
        middle = plain.median(values) if values else math.inf
        low, high = _median_interval(values)
        out[count] = (
            {"median": middle, "low": low, "high": high if math.isfinite(high) else None}
            if math.isfinite(middle)
            else None
        )
    return out


def _median_interval(ordered: Sequence[float]) -> tuple[float, float]:
    """The narrowest symmetric order statistics that cover the median with 95 %, or the extremes where n is too small."""
    n = len(ordered)
    if n == 0:
        return math.inf, math.inf
    k = 0
    while k + 1 < n / 2 and 1 - 2 * sum(math.comb(n, i) for i in range(k + 2)) / 2**n >= 0.95:
        k += 1
    return ordered[k], ordered[n - 1 - k]


def _ratio(m: Mapping[str, Any], anchor: Mapping[str, Any], count: str) -> dict[str, float] | None:
    """Geometric mean over seeds of the ratio to tuned AdamW, where both reached the target on every seed."""
    pairs = [(a["to_target"], b["to_target"]) for a, b in zip(m["runs"], anchor["runs"], strict=False)]
    if (
        not pairs
        or len(m["runs"]) != len(anchor["runs"])
        or any(a is None or b is None or b[count] <= 0 or a[count] <= 0 for a, b in pairs)
    ):
        return None
    interval = interval_of_mean([math.log(a[count] / b[count]) for a, b in pairs])
    assert interval is not None
    return {"estimate": math.exp(interval.estimate), "low": math.exp(interval.low), "high": math.exp(interval.high)}


def _comparisons(task: Task, methods: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """All pairs: difference of finals a - b in the metric's unit, exact test, Holm over the task's pairs."""
    minimize = task.metric.minimize
    pairs = list(combinations(methods, 2))
    costs = {m["name"]: worst_last([r["final"] for r in m["runs"]], minimize) for m in methods}
    diffs = [differences(costs[a["name"]], costs[b["name"]]) for a, b in pairs]
    ps = [sign_flip(d) for d in diffs]
    rows = []
    for (a, b), d, p, adjusted in zip(pairs, diffs, ps, holm(ps), strict=True):
        interval = interval_of_mean(d if minimize else -d)
        apart = adjusted <= ALPHA and (interval is None or interval.excludes(0.0))
        ahead = a if _leads(d) else b
        wins = int((d < 0).sum()) if ahead is a else int((d > 0).sum())
        row: dict[str, Any] = {
            "a": a["name"],
            "b": b["name"],
            "difference": _interval(interval),
            "p": p,
            "p_holm": adjusted,
            "smallest_p": min(1.0, len(pairs) * smallest_p(len(d))),
            "told_apart": apart,
            "better": ahead["name"] if apart else None,
            "leads": ahead["name"] if np.any(d != 0) else None,
            "wins": [wins, len(d)],
            "n": len(d),
            "seeds_needed": None if apart else seeds_needed(d, len(pairs)),
            "correlation": _correlation(costs[a["name"]], costs[b["name"]]),
        }
        rows.append({**row, "text": sentence(row, task.name, task.metric.unit)})
    return rows


def _leads(d: np.ndarray) -> bool:
    """Whether a leads: by the mean difference, or by the number of seeds where one is infinite."""
    return bool(d.mean() < 0) if np.isfinite(d).all() else bool((d < 0).sum() > (d > 0).sum())


def _correlation(x: Sequence[float], y: Sequence[float]) -> float | None:
    a, b = np.asarray(x), np.asarray(y)
    if len(a) < 3 or not np.isfinite([a, b]).all() or a.std() == 0 or b.std() == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def _interval(interval: Interval | None) -> dict[str, float] | None:
    return None if interval is None else {"estimate": interval.estimate, "low": interval.low, "high": interval.high}


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
            for kind in ("trials", "runs"):
                for r in m[kind]:
                    hyper = r.get("hyper") or m["best"]["hyper"]
                    runs.append(
                        {"task": t["name"], "method": m["name"], "kind": kind[:-1], "run": r["run"],
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
