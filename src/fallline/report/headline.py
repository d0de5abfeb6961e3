"""The verdict of a whole study in three sentences: which method, how far it holds, and what weakens it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from fallline.report.schema import Ranking, Results, Task
from fallline.report.validity import Light, lights
from fallline.report.words import enumeration, number

__all__ = ["headline", "marks"]


def headline(results: Results) -> list[str]:
    """Three sentences; fewer only for a study without tasks."""
    if not results.tasks:
        return ["This study has no tasks."]
    if len(results.tasks) == 1:
        return _of_one(results, results.tasks[0])
    return [_who(results), _where(results.tasks), _how_sure(results)]


def marks(results: Results, task: Task | None = None) -> str:
    """What figures are marked with: ``unfinished``, ``exploratory``, or nothing."""
    if not results.study.complete:
        return "unfinished"
    tasks = [task] if task else results.tasks
    return "exploratory" if any(t.exploratory for t in tasks) else ""


def _of_one(results: Results, task: Task) -> list[str]:
    said = task.verdict.sentences
    second = said[-1] if len(said) > 1 else _budget(results)
    return [said[0] if said else f"Nothing is known about {task.name} yet.", second, _validity(lights(results, task))]


def _budget(results: Results) -> str:
    study = results.study
    return f"Each method had {study.budget.trials} trials, and its best one {_seeds(len(study.seeds))}."


def _validity(found: Sequence[Light]) -> str:
    bad = [f"{light.name.lower()}: {light.text}" for light in found if light.state == "bad"]
    if bad:
        return f"What weakens this: {'; '.join(bad)}."
    return f"Nothing that was checked weakens this: {enumeration([light.name.lower() for light in found])}."


def _who(results: Results) -> str:
    tasks, ranking = results.tasks, results.ranking
    if ranking is not None and ranking.order:
        return _first(ranking, len(tasks))
    wins = Counter(name for t in tasks for name in t.verdict.best if t.verdict.kind != "cannot tell")
    if not wins:
        return f"On none of {len(tasks)} tasks can the methods be told apart."
    most = max(wins.values())
    names = [name for name, k in wins.items() if k == most]
    return (
        f"{enumeration(names)} {'is' if len(names) == 1 else 'are each'} best, or not told apart from the best, on {most} of "
        f"{len(tasks)} tasks."
    )


def _first(ranking: Ranking, num_tasks: int) -> str:
    first = ranking.order[0]
    text = f"Over {num_tasks} tasks {first} comes first"
    score = ranking.scores.get(first)
    if score is not None and first != "adamw":
        text += f", {score.anchored.estimate:.2f} times as fast to the target as tuned adamw"
        if score.anchored.low is not None and score.anchored.high is not None:
            text += f" (95 % interval {score.anchored.low:.2f} to {score.anchored.high:.2f})"
    if first in ranking.p_best:
        text += f", with a probability of {number(ranking.p_best[first], 2)} of being the best"
    return text + "."


def _where(tasks: Sequence[Task]) -> str:
    """On how many tasks anything can be told."""
    kinds = {kind: [t for t in tasks if t.verdict.kind == kind] for kind in ("winner", "group", "open", "cannot tell")}
    parts = []
    if kinds["winner"]:
        won = Counter(t.verdict.best[0] for t in kinds["winner"])
        who = enumeration([f"{name} on {k}" for name, k in won.most_common()])
        parts.append(f"one method leads on {len(kinds['winner'])} ({who})")
    if kinds["open"]:
        ahead = Counter(t.verdict.best[0] for t in kinds["open"])
        who = enumeration([f"{name} on {k}" for name, k in ahead.most_common()])
        parts.append(f"one leads while others cannot be judged yet on {len(kinds['open'])} ({who})")
    if kinds["group"]:
        parts.append(f"several lead together on {len(kinds['group'])}")
    if kinds["cannot tell"]:
        parts.append(f"the methods cannot be told apart on {len(kinds['cannot tell'])}")
    return f"Task by task, of {len(tasks)}: {enumeration(parts)}."


def _how_sure(results: Results) -> str:
    if not results.study.complete:
        runs = results.study.runs
        return f"Nothing of this is final: {runs.done + runs.diverged} of {runs.planned} runs are done."
    weak = [t.name for t in results.tasks if any(light.state == "bad" for light in lights(results, t))]
    where = enumeration(weak) if len(weak) <= 3 else f"{len(weak)} of {len(results.tasks)} tasks (▲ in the table)"
    checks = f"checks weaken the verdict on {where}" if weak else "no check weakens the verdict on any task"
    if results.ranking is None:
        return checks[:1].upper() + checks[1:] + "."
    flips = len(results.ranking.flips)
    if flips:
        return f"The order is not stable: {_times(flips)} would put another method first (see Ranking), and {checks}."
    return f"No task, method or rule left out or changed puts another method first, and {checks}."


def _times(k: int) -> str:
    return "one change" if k == 1 else f"each of {k} changes"


def _seeds(n: int) -> str:
    return f"{n} fresh seed{'s' * (n != 1)}"
