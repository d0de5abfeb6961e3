"""Made-up studies in the form of results.json: synthetic numbers that show what a report has to cope with."""

from __future__ import annotations

import itertools
import json
import math
import random
import statistics
from typing import Any

SPACES = {
    "adamw": {"lr": "0.0001..0.1", "b1": "one_minus_log 0.5..0.99", "weight_decay": "0.0001..1"},
    "nesterov": {"lr": "0.001..3", "momentum": "one_minus_log 0.5..0.99", "weight_decay": "1e-06..0.01"},
    "lion": {"lr": "1e-05..0.01", "b1": "one_minus_log 0.5..0.99", "weight_decay": "0.001..3"},
    "sgd": {"lr": "0.001..3", "momentum": "one_minus_log 0.5..0.99", "weight_decay": "1e-06..0.01"},
    "lamb": {"lr": "0.0001..1", "b1": "one_minus_log 0.5..0.99", "weight_decay": "linear 0..1"},
    "lars": {"lr": "0.1..1000", "momentum": "one_minus_log 0.5..0.99", "weight_decay": "1e-06..0.01"},
}
DEFAULTS = {"lr": 1e-3, "b1": 0.9, "b2": 0.999, "eps": 1e-8, "weight_decay": 0.01, "momentum": 0.9, "centered": False}


def study(
    methods: str = "adamw nesterov lion",
    num_seeds: int = 7,
    num_tuned: int = 1,
    tasks: str = "deep-autoencoder digits-mlp",
    lost: str = "",
    shaky: str = "",
    edge: str = "",
    synthetic: bool = False,
    load: float = 1.9,
    finished: bool = True,
    minimize: bool = True,
) -> dict[str, Any]:
    """Results of schema 1: of ``lost`` every trial diverged, of ``shaky`` a seed did, ``edge`` is best on its edge.

    ``finished=False`` leaves out the final runs and half the trials, as after an interruption.
    """
    rng = random.Random(f"{methods} {num_seeds} {num_tuned} {tasks}")
    seeds = list(range(1, num_seeds + 1))
    names = methods.split()
    made = [
        _task(rng, t, names, seeds, num_tuned, lost.split(), shaky.split(), edge, synthetic, finished, minimize)
        for t in tasks.split()
    ]
    everything = [r for t in made for m in t["methods"] for r in (*m["trials"], *m["runs"])]
    statuses = [r["status"] for r in everything]
    command = (
        f"fallline compare {tasks} --methods {methods.replace(' ', ',')} --budget quick --seeds {num_seeds} --out out"
    )
    return {
        "schema": 1,
        "fallline": "0.1.0",
        "study": {
            "id": "out",
            "command": command,
            "resume": "fallline resume out",
            "budget": {"name": "quick", "trials": 6, "step_fraction": 0.3, "tuned_hyperparameters": num_tuned},
            "tuning_seed": 0,
            "seeds": seeds,
            "complete": finished,
            "runs": {
                "planned": len(everything) if finished else len(made) * len(names) * (6 + num_seeds),
                "done": statuses.count("done"),
                "diverged": statuses.count("diverged"),
                "failed": 0,
            },
            "started": "2026-11-23T09:12:31+00:00",
            "finished": "2026-11-23T09:13:19+00:00" if finished else None,
            "total_seconds": 86.4321,
        },
        "protocol": [
            {"rule": "Search", "setting": "6 trials for every method: points of one scrambled Sobol sequence."},
            {"rule": "Fresh seeds", "setting": "The best point of each method is run again on fresh seeds."},
        ],
        "environment": {
            "fallline": "0.1.0", "python": "3.12.1", "torch": "2.13.0", "numpy": "2.3.1", "cores": 2,
            "threads per run": 1, "processor": "A processor", "load_start": 0.4, "load_end": load,
        },
        "tasks": made,
    }  # fmt: skip


def _task(rng, name, methods, seeds, num_tuned, lost, shaky, edge, synthetic, finished, minimize) -> dict[str, Any]:
    apart = "digits" not in name
    base, gap, noise = (11.0, 3.5, 0.35) if apart else (2.9, 0.12, 0.4)
    shared = {s: rng.gauss(0, noise / 2) for s in seeds}
    steps = [18 * k for k in range(1, 11)]
    made = []
    for i, m in enumerate(methods):
        level = base + gap * i if minimize else 97 - gap * i
        noisy = {s: level + shared[s] + rng.gauss(0, noise / 2) for s in seeds}
        made.append(
            _method(rng, name, m, noisy, num_tuned, steps, m in lost, m in shaky, m == edge, finished, minimize)
        )
    _ratios(made)
    task = {
        "name": name,
        "summary": "Auto-encode Fashion-MNIST through 16 units." if apart else "Classify 8x8 digits with a small network.",
        "parameters": 437_456 if apart else 25_818,
        "batch_size": 128,
        "steps": 180,
        "eval_every": 18,
        "metric": {
            "name": "validation loss" if apart else "validation error", "unit": "" if apart else "%", "minimize": minimize,
        },
        "target": base + 2.0 if minimize else 94.0,
        "target_note": "tuned adamw at the full budget",
        "data": [
            {
                "name": "fashion-mnist" if apart else "digits",
                "licence": "MIT",
                "origin": "the vendored subset of 7,000 images",
                "sha256": "9f" * 32,
                "synthetic": synthetic and apart,
            }
        ],
        "methods": made,
        "comparisons": _comparisons([m for m in made if m["best"] and m["runs"]], name, minimize),
    }  # fmt: skip
    return {**task, "verdict": _verdict(task, len(seeds))}


def _method(rng, task, name, levels, num_tuned, steps, lost, shaky, edge, finished, minimize) -> dict[str, Any]:
    space = SPACES.get(name, {"lr": "0.0001..0.1", "b1": "one_minus_log 0.5..0.99"})
    tuned = list(space)[:num_tuned]
    level = statistics.fmean(levels.values())
    trials = []
    for i in range(6 if finished else 3):
        unit = [(i + 0.5) / 6, *(rng.random() for _ in tuned[1:])]
        hyper = {h: _at(space[h], u) for h, u in zip(tuned, unit, strict=True)}
        away = abs(unit[0] - (0.95 if edge else 0.6))
        final = level * (1 + (4 if minimize else -0.6) * away**2) + abs(rng.gauss(0, 0.1))
        bad = lost or (unit[0] > 0.8 and not edge)
        trials.append(
            {
                "run": f"{task[:2]}{name}{i}", "point": i, "unit": unit, "hyper": hyper,
                "status": "diverged" if bad else "done", "final": None if bad else final,
                "train_seconds": rng.uniform(0.4, 0.6), "command": _command(task, name, hyper, 0),
            }
        )  # fmt: skip
    done = [t for t in trials if t["final"] is not None]
    best = None
    if done and finished:
        t = (min if minimize else max)(done, key=lambda t: t["final"])
        best = {"run": t["run"], "hyper": t["hyper"], "edges": []}
        if edge:
            best["edges"] = [
                {
                    "name": "lr", "side": "high", "value": t["hyper"]["lr"], "range": space["lr"],
                    "widen": f'--space "{name}.lr=0.001..30"',
                }
            ]  # fmt: skip
    runs = (
        [
            _run(rng, task, name, s, x, best["hyper"], steps, shaky and i == 0, minimize)
            for i, (s, x) in enumerate(levels.items())
        ]
        if best
        else []
    )
    finals = [r["final"] for r in runs]
    finite = [x for x in finals if x is not None]
    whole = bool(finite) and len(finite) == len(finals)
    half = 2 * statistics.stdev(finite) / math.sqrt(len(finite)) if len(finite) > 1 else 0.0
    hits = [r["to_target"] for r in runs if r["to_target"]]
    optimizer = rng.uniform(0.2, 0.9)
    return {
        "name": name,
        "label": name,
        "summary": f"{name}: an idea in a sentence.",
        "family": "adaptive",
        "baseline": name in ("adamw", "nesterov"),
        "paper": {"title": f"A paper about {name}", "arxiv": "1711.05101" if name != "nesterov" else "", "doi": "", "year": 2017,
                  "source": "Sutskever, Martens, Dahl & Hinton, ICML 2013"},
        "reach": "element",
        "state_bytes_per_parameter": 8.0,
        "space": space,
        "tuned": tuned,
        "fixed": {k: v for k, v in DEFAULTS.items() if k not in tuned},
        "trials": trials,
        "best": best,
        "runs": runs,
        "final": {
            "n": len(finals),
            "mean": statistics.fmean(finite) if whole else None,
            "median": statistics.median(finite) if finite else None,
            "low": statistics.fmean(finite) - half if whole else None,
            "high": statistics.fmean(finite) + half if whole else None,
            "sd": statistics.stdev(finite) if len(finite) > 1 else None,
            "diverged": len(finals) - len(finite),
        },
        "to_target": {"reached": len(hits), "of": len(runs), **{k: _spread([h[k] for h in hits], len(runs)) for k in ("steps", "samples", "gradient_evaluations", "seconds")}},
        "cost": {"step_ms": 2.0 + optimizer if trials else None, "optimizer_ms": optimizer if trials else None, "state_bytes_per_parameter": 8.0 if trials else None},
    }  # fmt: skip


def _at(space: str, u: float) -> float:
    low, high = (float(x) for x in space.split()[-1].split(".."))
    if space.startswith("linear"):
        return low + (high - low) * u
    if space.startswith("one_minus_log"):
        return 1 - (1 - low) ** (1 - u) * (1 - high) ** u
    return low ** (1 - u) * high**u


def _command(task: str, name: str, hyper: dict[str, float], seed: int) -> str:
    settings = " ".join(f"--set {k}={v!r}" for k, v in hyper.items())
    return f"fallline run {task} --method {name} {settings} --seed {seed} --steps 180"


def _run(rng, task, name, seed, level, hyper, steps, diverges, minimize) -> dict[str, Any]:
    sign = 1 if minimize else -1
    curve = [level + sign * 5 * math.exp(-s / 35) + rng.gauss(0, 0.05) for s in steps[:-1]] + [level]
    kept = 4 if diverges else len(steps)
    near = [s for s, x in zip(steps, curve, strict=True) if sign * x <= sign * (13.0 if minimize else 94.0)]
    hit = None
    if near and not diverges:
        t = near[0]
        hit = {"steps": t, "samples": 128 * t, "gradient_evaluations": t, "seconds": t * rng.uniform(0.0025, 0.003)}
    return {
        "run": f"{task[:2]}{name}s{seed}", "seed": seed, "status": "diverged" if diverges else "done",
        "diverged_at": 80 if diverges else None, "final": None if diverges else level, "steps": steps[:kept],
        "metric": curve[:kept], "train_loss": curve[:kept], "to_target": hit, "train_seconds": rng.uniform(0.4, 0.6),
        "step_ms": 2.5, "optimizer_ms": 0.5, "command": _command(task, name, hyper, seed),
    }  # fmt: skip


def _spread(values: list[float], of: int) -> dict[str, Any] | None:
    if len(values) <= of / 2:
        return None
    return {"median": statistics.median(values), "low": min(values), "high": max(values) if len(values) == of else None}


def _ratios(methods: list[dict[str, Any]]) -> None:
    anchor = next((m["to_target"] for m in methods if m["name"] == "adamw"), None)
    for m in methods:
        m["to_target"]["ratio_to_adamw"] = {k: _ratio(m["to_target"], anchor, k) for k in ("steps", "seconds")}


def _ratio(hit: dict[str, Any], anchor: dict[str, Any] | None, key: str) -> dict[str, float] | None:
    if anchor is None or not hit[key] or not anchor[key]:
        return None
    x = hit[key]["median"] / anchor[key]["median"]
    return {"estimate": x, "low": 0.87 * x, "high": 1.16 * x}


def _comparisons(methods, task, minimize) -> list[dict[str, Any]]:
    rows = []
    pairs = list(itertools.combinations(methods, 2))
    for a, b in pairs:
        both = [(x["final"], y["final"]) for x, y in zip(a["runs"], b["runs"], strict=True)]
        finite = None not in [v for pair in both for v in pair]
        n = len(both)
        d = [x - y for x, y in both] if finite else []
        mean = statistics.fmean(d) if d else 0.0
        half = 2 * statistics.stdev(d) / math.sqrt(n) if len(d) > 1 else 0.0
        floor = min(1.0, len(pairs) * 2.0 ** (1 - n))
        apart = finite and abs(mean) > half and floor <= 0.05
        better = (a if (mean < 0) == minimize else b)["name"]
        text = (
            f"{better} is better than the other on {task}."
            if apart
            else f"{a['name']} and {b['name']} cannot be told apart."
        )
        rows.append(
            {
                "a": a["name"], "b": b["name"],
                "difference": {"estimate": mean, "low": mean - half, "high": mean + half} if finite else None,
                "p": 2.0 ** (1 - n) if apart else 0.37109375, "p_holm": floor if apart else 1.0, "smallest_p": floor,
                "told_apart": apart, "better": better if apart else None,
                "leads": better, "wins": [n if apart else n // 2 + 1, n], "n": n,
                "seeds_needed": None if apart else 41, "correlation": 0.4, "text": text,
            }
        )  # fmt: skip
    return rows


def _verdict(task: dict[str, Any], n: int) -> dict[str, Any]:
    sign = 1 if task["metric"]["minimize"] else -1
    alive = [m for m in task["methods"] if m["final"]["mean"] is not None]
    warnings = [
        f"Every trial of {m['name']} diverged. Lower its range."
        for m in task["methods"]
        if m["trials"] and not m["best"]
    ]
    warnings += [
        f"The best lr of {m['name']} is the highest one tried. Widen it: {e['widen']}"
        for m in task["methods"]
        if m["best"]
        for e in m["best"]["edges"]
    ]
    if len(alive) < 2:
        return {
            "kind": "cannot tell",
            "best": [m["name"] for m in alive],
            "sentences": ["Too few methods finished to compare."],
            "warnings": warnings,
        }
    best = min(alive, key=lambda m: sign * m["final"]["mean"])["name"]
    pairs = [c for c in task["comparisons"] if best in (c["a"], c["b"])]
    group = [best, *(c["b"] if c["a"] == best else c["a"] for c in pairs if not c["told_apart"])]
    kind = "winner" if len(group) == 1 else "group" if len(group) < len(alive) else "cannot tell"
    first = (
        f"On {task['name']}, {best} is best."
        if kind != "cannot tell"
        else f"On {task['name']}, {n} seeds cannot tell the methods apart."
    )
    return {
        "kind": kind,
        "best": group,
        "sentences": [first, *(c["text"] for c in pairs if not c["told_apart"])],
        "warnings": warnings,
    }


def suite(num_tasks: int = 12, trusted: bool = True, exploratory: bool = False, **changes: Any) -> dict[str, Any]:
    """A study over many tasks with every optional part: targets, tunability, ranking, clock."""
    names = [f"{'digits' if i % 3 == 0 else 'fashion'}-{i}" for i in range(num_tasks)]
    made = study(**{"methods": "adamw nesterov lion sgd muon lamb", "tasks": " ".join(names), **changes})
    rng = random.Random(1)
    for t in made["tasks"]:
        t |= {
            "reference": t["name"], "initial": 4 * t["target"], "noise_scale": {"early": 310.5, "late": 1900.0}, "exploratory": exploratory,
            "targets": [{"share": s, "value": t["target"] * (4 - 3 * s)} for s in (0.8, 0.95, 1.0)],
            "what_would_change": [f"18 more seeds could tell the first two apart on {t['name']}."],
        }  # fmt: skip
        for m in t["methods"]:
            _enrich(rng, m, t["metric"]["minimize"])
    made["clock"] = {"trusted": trusted, "why": "load 0.4 to 1.9 on 2 cores." if trusted else "load 7.9 on 2 cores."}
    if num_tasks > 1:
        made["ranking"] = _ranking(rng, made)
    return made


def _enrich(rng, m, minimize) -> None:
    hit = {k: v for k, v in m["to_target"].items() if k != "ratio_to_adamw"}
    m["to_targets"] = [{**hit, "calibrated_seconds": hit["seconds"]} for _ in range(3)]
    finals = sorted((x["final"] for x in m["trials"] if x["final"] is not None), reverse=minimize)
    other = rng.choice(["diverged", "ran"])
    m["tunability"] = {
        "expected_best_is": "median" if any(x["final"] is None for x in m["trials"]) else "mean",
        "expected_best": [[k + 1, x] for k, x in enumerate(finals)],
        "basin": {"decades": 1.25, "low": 0.001, "high": 0.0178, "at_least": rng.random() < 0.5} if finals else None,
        "cost": {"trials": len(m["trials"]), "gradient_evaluations": 1080, "seconds": 12.5},
        "default": {"hyper": {"lr": 0.001}, "final": finals[0], "gap": finals[0] - finals[-1]} if finals else None,
        "transfer": None if m["name"] == "adamw" or not finals
        else {"lr": 0.003, "final": finals[0] if other == "ran" else None, "gap": 0.25 if other == "ran" else None},
    }  # fmt: skip


def _ranking(rng, made) -> dict[str, Any]:
    tasks = [t["name"] for t in made["tasks"]]
    methods = [m["name"] for m in made["tasks"][0]["methods"]]
    scores = {m: 1.0 if m == "adamw" else rng.uniform(0.3, 2.0) for m in methods}
    order = sorted(methods, key=lambda m: -scores[m])
    return {
        "basis": "time to the 95 % target, in steps",
        "profile": {m: [[1.0 + 0.4 * k + 0.1 * i, (k + 1) / len(tasks)] for k in range(len(tasks) - i)] for i, m in enumerate(order)},
        "scores": {
            m: {"anchored": {"estimate": x, "low": 0.8 * x, "high": 1.3 * x}, "algoperf": x / 2, "algoperf_trapezoid": x / 2 + 0.001}
            for m, x in scores.items()
        },
        "p_best": {m: round(0.5**i / 2 + 0.01, 4) for i, m in enumerate(order)},
        "order": order,
        "order_algoperf": order,
        "without_method": {m: [n for n in order if n != m] for m in methods if m != "adamw"},
        "without_task": {t: order if i else [order[1], order[0], *order[2:]] for i, t in enumerate(tasks)},
        "flips": [f"Without the task {tasks[0]}, {order[1]} comes first, not {order[0]}."],
    }  # fmt: skip


CASES: dict[str, dict[str, Any]] = {
    "demo": study(),
    "four methods": study("adamw nesterov lion sgd", num_seeds=9),
    "rough": study(
        "adamw nesterov lion sgd lamb lars", lost="lars", shaky="sgd", edge="lion", synthetic=True, load=7.9
    ),
    "three seeds": study("adamw nesterov lion", num_seeds=3),
    "several tuned": study("adamw nesterov lamb", num_seeds=7, num_tuned=3, tasks="digits-mlp"),
    "higher is better": study("adamw nesterov lion", tasks="deep-autoencoder", minimize=False),
    "one method": study("adamw", num_seeds=1, tasks="digits-mlp"),
    "suite": suite(3, methods="adamw nesterov lion muon"),
    "two tasks, a clock that is not trusted": suite(2, trusted=False, methods="adamw nesterov lion", lost="lion"),
    "exploratory": suite(1, exploratory=True, methods="adamw nesterov lion"),
    "suite with many methods": suite(2, methods=" ".join(["adamw", "nesterov", *(f"method{i}" for i in range(7))])),
    "unfinished": study("adamw nesterov", finished=False),
    "nothing survived": study("adamw nesterov", lost="adamw nesterov", tasks="digits-mlp"),
    "many": study(" ".join(["adamw", "nesterov", *(f"method{i}" for i in range(15))]), num_seeds=5, tasks="digits-mlp"),
}


def copy(name: str = "demo") -> dict[str, Any]:
    """A case to change at will."""
    return json.loads(json.dumps(CASES[name]))
