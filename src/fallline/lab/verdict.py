"""The verdict in words: what the intervals and tests allow, no more."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["sentence", "verdict"]

Row = Mapping[str, Any]


def sentence(c: Row, task: str, unit: str) -> str:
    """One comparison, in one sentence for a practitioner."""
    k, n = c["wins"]
    if c["told_apart"]:
        other = c["b"] if c["better"] == c["a"] else c["a"]
        size = f" by {_difference(c, unit)}" if c["difference"] else ""
        return (
            f"{c['better']} is better than {other} on {task}{size}, in {k} of {n} seeds (Holm p = {c['p_holm']:.2g})."
        )
    if c["leads"] is None:
        return f"{c['a']} and {c['b']} gave identical results on {task} on all of {_seeds(n)}."
    if c["smallest_p"] > 0.05:
        lead = c["leads"]
        other = c["b"] if lead == c["a"] else c["a"]
        return (
            f"{lead} leads {other} on {task} in {k} of {_seeds(n)}; {_seeds(n)} cannot prove it "
            f"(smallest possible corrected p {c['smallest_p']:.2g})."
        )
    text = f"{c['a']} and {c['b']} cannot be told apart on {task} with {_seeds(n)} (Holm p = {c['p_holm']:.2g})"
    if c["seeds_needed"] is None or c["difference"] is None:
        return text + "."
    return f"{text}; about {c['seeds_needed']} seeds would be needed for a difference of {_difference(c, unit)}."


def verdict(task: Row, num_seeds: int, command: str) -> dict[str, Any]:
    """Which method to use: the best one, and those that cannot be told apart from it; warnings that weaken it."""
    ranked = sorted(
        (m for m in task["methods"] if m["best"] and len(m["runs"]) == num_seeds),
        key=lambda m: _cost(m, task["metric"]["minimize"]),
    )
    warnings = _warnings(task, command)
    if len(ranked) < 2:
        text = "Too few methods finished to compare." if not ranked else f"Only {ranked[0]['name']} finished."
        return {"kind": "cannot tell", "best": [m["name"] for m in ranked], "sentences": [text], "warnings": warnings}
    best = ranked[0]["name"]
    pairs = {frozenset((c["a"], c["b"])): c for c in task["comparisons"]}
    against = {m["name"]: pairs[frozenset((best, m["name"]))] for m in ranked[1:]}
    group = [best, *(name for name, c in against.items() if not (c["told_apart"] and c["better"] == best))]
    beaten = [m["name"] for m in ranked if m["name"] not in group]
    kind = "winner" if len(group) == 1 else "cannot tell" if not beaten else "group"
    sentences = [_headline(kind, task, group, beaten, ranked, num_seeds, against)]
    close = [against[name] for name in group[1:]]
    sentences += [c["text"] for c in close[:3]]
    sentences += _speed(task, ranked)
    return {"kind": kind, "best": group, "sentences": sentences, "warnings": warnings}


def _headline(
    kind: str,
    task: Row,
    group: Sequence[str],
    beaten: Sequence[str],
    ranked: Sequence[Row],
    n: int,
    against: Mapping[str, Row],
) -> str:
    metric, name = task["metric"], task["name"]
    if kind == "cannot tell":
        if all(c["smallest_p"] > 0.05 for c in against.values()):
            return f"On {name}, {group[0]} has the best mean {metric['name']}, but {_seeds(n)} can rank methods, not prove a difference."
        return f"On {name}, {_list(group)} cannot be told apart with {_seeds(n)}: choose by cost or habit."
    top = ranked[0]["final"]
    quality = f"{metric['name']} {_amount(top['mean'], metric['unit'])}" if top["mean"] is not None else metric["name"]
    interval = f" (95 % interval {top['low']:.4g} to {top['high']:.4g})" if top["low"] is not None else ""
    if kind == "winner":
        p = max(c["p_holm"] for c in against.values())
        return f"On {name}, use {group[0]}: {quality}{interval}, better than {_list(beaten)} on {n} paired seeds (Holm p <= {p:.2g})."
    return f"On {name}, {group[0]} is best with {quality}{interval}; {_list(group[1:])} cannot be told apart from it, {_list(beaten)} {'is' if len(beaten) == 1 else 'are'} worse."


def _speed(task: Row, ranked: Sequence[Row]) -> list[str]:
    """How soon the target is reached, for the best method, against tuned AdamW."""
    best = ranked[0]
    hit, target = best["to_target"], _amount(task["target"], task["metric"]["unit"])
    if not any(m["to_target"]["reached"] for m in ranked):
        return [f"No method reached the target of {target} within {task['steps']} steps."]
    text = f"{best['name']} reached the target of {target} on {hit['reached']} of {hit['of']} seeds"
    if hit["steps"]:
        text += f", after {hit['steps']['median']:g} of {task['steps']} steps (median)"
    ratio = hit["ratio_to_adamw"]["steps"]
    if ratio and best["name"] != "adamw":
        text += f": {ratio['estimate']:.2f} times the steps of tuned adamw (95 % interval {ratio['low']:.2f} to {ratio['high']:.2f})"
    return [text + "."]


def _warnings(task: Row, command: str) -> list[str]:
    found = []
    for m in task["methods"]:
        if m["best"] is None and m["trials"]:
            found.append(f'Every trial of {m["name"]} diverged. Lower its range: --space "{m["name"]}.lr=LOW..HIGH".')
        for e in (m["best"] or {}).get("edges", []):
            found.append(
                f"The best {e['name']} of {m['name']}, {e['value']:.3g}, is the {e['side']}est one tried (space {e['range']}): a better one may "
                f"lie beyond. Widen it: {command} {e['widen']} --out ANOTHER-FOLDER"
            )
        if m["final"]["diverged"]:
            found.append(f"{m['name']} diverged on {m['final']['diverged']} of {m['final']['n']} fresh seeds.")
    for source in task["data"]:
        if source["synthetic"]:
            found.append(
                f"SYNTHETIC DATA: {source['name']} was not found, random data of the same shape took its place."
            )
    return found


def _cost(m: Row, minimize: bool) -> tuple[float, float]:
    final = m["final"]
    middle = final["mean"] if final["mean"] is not None else final["median"]
    return final["diverged"], math.inf if middle is None else middle if minimize else -middle


def _seeds(n: int) -> str:
    return f"{n} seed{'s' * (n != 1)}"


def _difference(c: Row, unit: str) -> str:
    """The size of a difference; percentages differ by points."""
    return _amount(float(f"{abs(c['difference']['estimate']):.2g}"), "points" if unit == "%" else unit)


def _amount(value: float, unit: str) -> str:
    return f"{value:.4g}{' ' + unit if unit else ''}"


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
