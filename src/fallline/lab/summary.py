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
from fallline.core.method import METHODS
from fallline.lab import design, environment, tunability
from fallline.lab.run import DIVERGED_FACTOR, DIVERGED_FRACTION, WARMUP_FRACTION, RunSpec
from fallline.lab.scores import MISS, ranking
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
from fallline.lab.study import ANCHOR, BASELINES, TUNING_SEED, StudySpec, best_trial
from fallline.lab.verdict import sentence, verdict
from fallline.tasks import Task

__all__ = ["SCHEMA", "summarise", "write_results"]

SCHEMA = 1
SHARES = (0.8, 0.95, 1.0)
"""Targets: shares of the gap between the initial metric and tuned AdamW's median final."""

RANKED = 0.95
"""The share whose target the scores over tasks are about."""

_COUNTS = ("steps", "samples", "gradient_evaluations", "seconds")
Results = Mapping[str, Mapping[str, Any]]


def summarise(
    spec: StudySpec, tasks: Mapping[str, Task], results: Results, facts: Mapping[str, Any], folder: str
) -> dict[str, Any]:
    """The results of a study, complete or not; pure apart from the description of the machine."""
    found = [_task(spec, name, task, results) for name, task in tasks.items()]
    runs = [r for t in found for m in t["methods"] for r in _runs_of(m)]
    statuses = [r["status"] for r in runs]
    planned = sum(_planned(spec, m, _anchor(t)) for t in found for m in t["methods"])
    for t in found:
        for m in t["methods"]:
            del m["complete"]
    ranked = _ranking(spec, found)
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
        **({"ranking": ranked} if ranked else {}),
        "clock": clock(facts),
    }


def clock(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Whether times are to be trusted: not where more wanted to run than there are cores, or where nobody knows."""
    cores = os.cpu_count() or 1
    loads = [x for x in (_number(facts.get(k)) for k in ("load_start", "load_most", "load_end")) if x is not None]
    if not loads:
        return {"trusted": False, "why": "The load of the machine is not known."}
    if max(loads) > cores + IDLE:
        return {
            "trusted": False,
            "why": f"The machine was contended: a load of {max(loads):g} on {cores} core{'s' * (cores > 1)}. Times of such runs are not comparable.",
        }
    return {"trusted": True, "why": f"The load stayed at {max(loads):g} on {cores} core{'s' * (cores > 1)}."}


IDLE = 0.5
"""Load of the parent process and the system itself, beside the workers."""


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
        "Intervals": "95 %, BCa bootstrap over seeds (9,999 resamples). With so few seeds they tend to be short; no verdict rests on them alone.",
        "Tests": "Exact paired sign-flip tests, two-sided, with Holm's correction over all pairs of a task. Two methods are told "
        f"apart only if the corrected p is at most {ALPHA:g} and the interval of their difference excludes zero.",
        "Time": "CPU seconds of the training process on one thread, evaluation excluded; steps count one gradient evaluation each.",
    }
    return [{"rule": rule, "setting": setting} for rule, setting in rules.items()]


def _task(spec: StudySpec, name: str, task: Task, results: Results) -> dict[str, Any]:
    carried = _best_of(spec, name, task, ANCHOR, results)
    methods = [_method(spec, name, task, method, results, carried) for method in spec.methods]
    anchor = _anchor({"methods": methods})
    for m in methods:
        hits, theirs = ([r["to_target"] for r in x["runs"]] for x in (m, anchor))
        m["to_target"]["ratio_to_adamw"] = {c: _ratio(hits, theirs, c) for c in ("steps", "seconds")}
    initial = _middle([r["initial"] for r in anchor["runs"]])
    targets = _targets(spec, task, anchor, initial)
    for m in methods:
        m["to_targets"] = [_to_share(task, m, anchor, target["value"]) for target in targets]
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
        "initial": initial,
        "targets": targets,
        "data": [
            {"name": s.name, "licence": s.licence, "origin": s.origin, "sha256": s.sha256, "synthetic": s.synthetic}
            for s in task.sources
        ],
        "methods": methods,
        "comparisons": comparisons,
    }
    return {**record, "verdict": verdict(record, spec.num_seeds, spec.command)}


def _best_of(spec: StudySpec, name: str, task: Task, method: str, results: Results) -> RunSpec | None:
    """The best trial, once all are there."""
    trials = spec.trials(name, task, method)
    return best_trial(task, trials, results) if all(r.id in results for r in trials) else None


def _method(
    spec: StudySpec, name: str, task: Task, method: str, results: Results, carried: RunSpec | None
) -> dict[str, Any]:
    entry, space = METHODS[method], spec.space(task, method)
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
        "to_target": _to_target([results[r.id]["to_target"] for r in runs]),
        "cost": {
            "step_ms": _median([r["step_ms"] for r in everything]),
            "optimizer_ms": _median([r["optimizer_ms"] for r in everything]),
            "state_bytes_per_parameter": _median([r["state_bytes_per_parameter"] for r in everything]),
        },
        "tunability": {
            **_tuning(task, there, results, len(tuned)),
            "default": _extra(task, spec.default(name, task, method), best, results),
            "transfer": _extra(task, spec.transfer(name, task, method, carried), best, results),
        },
        "complete": complete,
    }


def _tuning(task: Task, trials: Sequence[RunSpec], results: Results, num_tuned: int) -> dict[str, Any]:
    """What the trials say about tuning itself."""
    sign, records = 1 if task.metric.minimize else -1, [results[r.id] for r in trials]
    costs = worst_last([r["final"] for r in records], task.metric.minimize)
    kind, curve = tunability.best_of(costs)
    initial = _middle([r.get("initial") for r in records])
    rates = [dict(r.hypers).get("lr") for r in trials]
    known = [x for x in rates if x is not None]
    return {
        "expected_best": [[k, sign * value] for k, value in curve],
        "expected_best_is": kind,
        "basin": tunability.basin(known, costs, None if initial is None else sign * initial, num_tuned == 1)
        if trials and len(known) == len(rates)
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
    hyper = dict(run.hypers)
    cost, than = worst_last([record["final"], results[best.id]["final"] if best else None], task.metric.minimize)
    return {
        "run": run.id,
        "lr": hyper.get("lr", _plain(METHODS[run.method].defaults["lr"])),
        "hyper": hyper or {k: _plain(v) for k, v in METHODS[run.method].defaults.items()},
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


def worst_last(finals: Sequence[float | None], minimize: bool) -> list[float]:
    """Finals as costs, lower better; a diverged run is infinitely costly."""
    return [math.inf if x is None else x if minimize else -x for x in finals]


def _median_final(finals: Sequence[float | None], minimize: bool) -> float | None:
    middle = plain.median(worst_last(finals, minimize)) if finals else math.inf
    return (middle if minimize else -middle) if math.isfinite(middle) else None


def _targets(spec: StudySpec, task: Task, anchor: Mapping[str, Any], initial: float | None) -> list[dict[str, float]]:
    """Values of the metric, from how far tuned AdamW comes; none before it is known, or where it does not improve the metric."""
    final = anchor["final"]["median"]
    if len(anchor["runs"]) < spec.num_seeds or initial is None or final is None:
        return []
    gap = final - initial
    if gap == 0 or (gap < 0) != task.metric.minimize:
        return []
    # the last one itself, not a sum that rounds: the median run has to reach it
    return [{"share": s, "value": final if s == 1 else initial + s * gap} for s in SHARES]


def _hit(minimize: bool, run: Mapping[str, Any], target: float) -> dict[str, float] | None:
    """The first evaluation at or beyond a target; none for a run that diverged."""
    if run["status"] != "done":
        return None
    sign = 1 if minimize else -1
    steps = next((t for t, x in zip(run["steps"], run["metric"], strict=True) if sign * x <= sign * target), None)
    if steps is None:
        return None
    return {"steps": steps, "gradient_evaluations": steps * run["gradient_evaluations"] / run["steps"][-1]}


def _to_share(task: Task, m: Mapping[str, Any], anchor: Mapping[str, Any], target: float) -> dict[str, Any]:
    """As ``to_target``, and by calibrated time: steps times the method's median time of a step."""
    hits, theirs = ([_timed(_hit(task.metric.minimize, r, target), x) for r in x["runs"]] for x in (m, anchor))
    counts = ("steps", "gradient_evaluations", "calibrated_seconds")
    return {**_to_target(hits, counts), "ratio_to_adamw": {c: _ratio(hits, theirs, c) for c in counts}}


def _timed(hit: Mapping[str, float] | None, m: Mapping[str, Any]) -> dict[str, float] | None:
    return None if hit is None else {**hit, "calibrated_seconds": hit["steps"] * m["cost"]["step_ms"] / 1e3}


def _to_target(hits: Sequence[Mapping[str, float] | None], counts: Sequence[str] = _COUNTS) -> dict[str, Any]:
    """Medians over seeds, a miss counting as infinite; the interval is that of the median's order statistics."""
    reached = [hit for hit in hits if hit is not None]
    out: dict[str, Any] = {"reached": len(reached), "of": len(hits)}
    for count in counts:
        values = sorted(hit[count] for hit in reached) + [math.inf] * (len(hits) - len(reached))
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


def _ratio(
    ours: Sequence[Mapping[str, float] | None], theirs: Sequence[Mapping[str, float] | None], count: str
) -> dict[str, float] | None:
    """Geometric mean over seeds of the ratio to tuned AdamW, where both reached the target on every seed."""
    if not ours or len(ours) != len(theirs):
        return None
    logs = []
    for a, b in zip(ours, theirs, strict=True):
        if a is None or b is None or a[count] <= 0 or b[count] <= 0:
            return None
        logs.append(math.log(a[count] / b[count]))
    interval = interval_of_mean(logs)
    assert interval is not None
    return {"estimate": math.exp(interval.estimate), "low": math.exp(interval.low), "high": math.exp(interval.high)}


def _ranking(spec: StudySpec, found: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Scores over tasks, from gradient evaluations to the target of RANKED; None with fewer than two tasks that have one."""
    times: dict[str, dict[str, list[float]]] = {method: {} for method in spec.methods}
    budgets = {}
    for t in found:
        finished = all(len(m["runs"]) == spec.num_seeds or (m["best"] is None and m["trials"]) for m in t["methods"])
        value = next((x["value"] for x in t["targets"] if x["share"] == RANKED), None)
        if not finished or value is None:
            continue
        budgets[t["name"]] = float(t["steps"])
        for m in t["methods"]:
            hits = [_hit(t["metric"]["minimize"], r, value) for r in m["runs"]] or [None] * spec.num_seeds
            times[m["name"]][t["name"]] = [math.inf if h is None else h["gradient_evaluations"] for h in hits]
    if len(budgets) < 2:
        return None
    basis = (
        f"gradient evaluations until {100 * RANKED:g} % of the gap that tuned {ANCHOR} closes, median over seeds, on "
        f"{len(budgets)} tasks; a miss counts as {MISS:g} budgets; intervals resample tasks and seeds"
    )
    return {"basis": basis, **ranking(times, ANCHOR, budgets)}


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
