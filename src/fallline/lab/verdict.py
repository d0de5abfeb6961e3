"""The verdict in words: what the intervals and tests allow, no more."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["sentence", "verdict", "what_would_change"]

Row = Mapping[str, Any]


def sentence(c: Row, task: str, unit: str) -> str:
    """One comparison, in one sentence for a practitioner."""
    k, n = c["wins"]
    if c["withheld"]:
        e, lead = c["withheld"], c["leads"]
        other = c["b"] if lead == c["a"] else c["a"]
        return (
            f"Cannot tell yet whether {lead} is better than {other} on {task}: it leads in {k} of {n} seeds, but the best {e['name']} of {other}, "
            f"{e['value']:.3g}, is the {e['side']}est one tried (space {e['range']}), and what may lie beyond could close the difference. "
            f"Widen it: {e['command']}"
        )
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
    if c["p"] <= 0.05:
        text += ", after correction for all pairs; by itself their interval excludes zero"
    if c["seeds_needed"] is None or c["difference"] is None:
        return text + "."
    return f"{text}; about {c['seeds_needed']} seeds would be needed for a difference of {_difference(c, unit)}."


def verdict(task: Row, num_seeds: int, command: str) -> dict[str, Any]:
    """Which method to use: the best one, those that cannot be told apart from it, and those that cannot be judged yet, being best on
    the edge of their spaces (``open``); warnings that weaken it."""
    ranked = sorted(
        (m for m in task["methods"] if m["best"] and len(m["runs"]) == num_seeds),
        key=lambda m: _cost(m, task["metric"]["minimize"]),
    )
    if len(ranked) < 2:
        text = "Too few methods finished to compare." if not ranked else f"Only {ranked[0]['name']} finished."
        warnings = _warnings(task, command, [])
        names = [m["name"] for m in ranked]
        return {"kind": "cannot tell", "best": names, "open": [], "sentences": [text], "warnings": warnings}
    best = ranked[0]["name"]
    pairs = {frozenset((c["a"], c["b"])): c for c in task["comparisons"]}
    against = {m["name"]: pairs[frozenset((best, m["name"]))] for m in ranked[1:]}
    beaten = [name for name, c in against.items() if c["told_apart"] and c["better"] == best]
    unbeaten = [name for name in against if name not in beaten]
    unjudged = [name for name in unbeaten if against[name]["withheld"]]
    group = [best, *(name for name in unbeaten if name not in unjudged)]
    kind = "winner" if not unbeaten else "cannot tell" if not beaten else "group" if len(group) > 1 else "open"
    sentences = [_headline(task, ranked[0], against, beaten, num_seeds)]
    close = [against[name] for name in unbeaten]
    sentences += [c["text"] for c in close[:3]]
    sentences += _speed(task, ranked)
    if task["exploratory"]:
        sentences[0] = f"Exploratory, since trials were pruned before their end: {sentences[0]}"
    warnings = _warnings(task, command, beaten)
    return {"kind": kind, "best": group, "open": unjudged, "sentences": sentences, "warnings": warnings}


def _headline(task: Row, best: Row, against: Mapping[str, Row], beaten: Sequence[str], n: int) -> str:
    metric, name, lead = task["metric"], task["name"], best["name"]
    cut_off = [m for m, c in against.items() if c["withheld"]]
    tied = [m for m in against if m not in beaten and m not in cut_off]
    later = (
        f"{_list(cut_off)} cannot be judged yet, best on the edge of {'its space' if len(cut_off) == 1 else 'their spaces'}"
        if cut_off
        else ""
    )
    if not beaten:
        if all(c["smallest_p"] > 0.05 for c in against.values()):
            return f"On {name}, {lead} has the best mean {metric['name']}, but {_seeds(n)} can rank methods, not prove a difference."
        if not tied:
            return f"On {name}, {lead} leads, but cannot tell yet: {later}."
        text = f"On {name}, {_list([lead, *tied])} cannot be told apart with {_seeds(n)}: choose by cost or habit"
        return f"{text}; {later}." if cut_off else f"{text}."
    top = best["final"]
    quality = f"{metric['name']} {_amount(top['mean'], metric['unit'])}" if top["mean"] is not None else metric["name"]
    interval = f" (95 % interval {top['low']:.4g} to {top['high']:.4g})" if top["low"] is not None else ""
    if len(beaten) == len(against):
        p = max(c["p_holm"] for c in against.values())
        return f"On {name}, use {lead}: {quality}{interval}, better than {_list(beaten)} on {n} paired seeds (Holm p <= {p:.2g})."
    parts = [f"{_list(tied)} cannot be told apart from it"] if tied else []
    parts += [later] if cut_off else []
    parts.append(f"{_list(beaten)} {'is' if len(beaten) == 1 else 'are'} worse")
    return f"On {name}, {lead} is best with {quality}{interval}; {', '.join(parts)}."


def what_would_change(task: Row, num_seeds: int, missing: int, resume: str, clock: Row) -> list[str]:
    """What could still change the verdict on a task, most important first, each with what to do."""
    found = []
    if missing:
        found.append(
            f"{missing} run{'s' * (missing > 1)} of this task {'are' if missing > 1 else 'is'} missing. Go on with: {resume}"
        )
    found += [
        f"{s['name']} was not found and random data took its place: nothing here is about real data. Provide it (FALLLINE_DATA) and run again."
        for s in task["data"]
        if s["synthetic"]
    ]
    if task["exploratory"]:
        found.append(
            "Trials were pruned before their end, which favours methods that are quick at first. Repeat without --prune."
        )
    lead = task["verdict"]["best"][0] if task["verdict"]["best"] else None
    rivals = [c for c in task["comparisons"] if lead in (c["a"], c["b"]) and not c["told_apart"]]
    found += [
        f"A wider {c['withheld']['name']} of {_other(c, lead)} could close its difference to {lead}: {c['withheld']['command']}"
        for c in rivals
        if c["withheld"]
    ]
    open_edges = [
        e
        for m in task["methods"]
        if m["best"] and m["name"] in (*task["verdict"]["best"], *task["verdict"]["open"])
        for e in m["best"]["edges"]
    ]
    named = {(c["withheld"]["widen"]) for c in rivals if c["withheld"]}
    found += [
        f"The best {e['name']} lies on the edge of its space; a wider one may find a better setting: {e['widen']}"
        for e in open_edges
        if e["widen"] not in named
    ]
    for c in rivals:
        if c["withheld"] or c["leads"] is None:
            continue
        if c["smallest_p"] > 0.05:
            found.append(
                f"{_seeds(num_seeds)} cannot prove any difference. Repeat without --seeds, which takes as many as a proof needs."
            )
            break
        if c["seeds_needed"] and c["difference"]:
            found.append(
                f"About {c['seeds_needed']} seeds would tell {lead} from {_other(c, lead)}, if the difference and the spread stay as they are: "
                f"--seeds {c['seeds_needed']}"
            )
    if not clock["trusted"]:
        found.append(f"{clock['why']} Steps and finals are not touched; for times, repeat on an idle machine.")
    return found


def _other(c: Row, name: str | None) -> str:
    return str(c["b"] if c["a"] == name else c["a"])


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


def _warnings(task: Row, command: str, beaten: Sequence[str]) -> list[str]:
    found = []
    for m in task["methods"]:
        if m["best"] is None and m["trials"]:
            found.append(f'Every trial of {m["name"]} diverged. Lower its range: --space "{m["name"]}.lr=LOW..HIGH".')
        for e in (m["best"] or {}).get("edges", []):
            text = f"The best {e['name']} of {m['name']}, {e['value']:.3g}, is the {e['side']}est one tried (space {e['range']}): "
            if m["name"] in beaten:
                text += "but it is far behind, and its curve there is too flat to close the difference"
            else:
                text += "a better one may lie beyond"
            found.append(f"{text}. Widen it: {command} {e['widen']} --out ANOTHER-FOLDER")
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
