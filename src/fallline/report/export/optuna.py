"""An Optuna storage: optuna.db with one study per task and method, named ``TASK/METHOD``, whose trials are ours."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fallline.core.space import Range
from fallline.report.export.needs import need
from fallline.report.export.rows import each_method

__all__ = ["write_optuna"]


def write_optuna(results: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write it in place of an earlier export; returns its path. Raises FalllineError without optuna.

    A diverged trial has failed. Runs on fresh seeds are no trials: their finals stand among the study's attributes.
    """
    optuna = need("optuna", "optuna")
    path, temporary = folder / "optuna.db", folder / "optuna.part"
    temporary.unlink(missing_ok=True)
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = optuna.storages.RDBStorage(f"sqlite:///{temporary.resolve()}")
    try:
        for t, m in each_method(results):
            direction = "minimize" if t["metric"]["minimize"] else "maximize"
            study = optuna.create_study(storage=storage, study_name=f"{t['name']}/{m['name']}", direction=direction)
            facts = {"command": results["study"]["command"], "metric": t["metric"]["name"], "unit": t["metric"]["unit"]}
            for key, value in {**facts, "fresh seeds": {str(r["seed"]): r["final"] for r in m["runs"]}}.items():
                study.set_user_attr(key, value)
            study.add_trials([_trial(optuna, m, r) for r in m["trials"]])
    finally:
        storage.engine.dispose()
        optuna.logging.set_verbosity(before)
    temporary.replace(path)
    return [path]


def _trial(optuna: Any, method: Mapping[str, Any], trial: Mapping[str, Any]) -> Any:
    done = trial["final"] is not None
    return optuna.trial.create_trial(
        state=optuna.trial.TrialState.COMPLETE if done else optuna.trial.TrialState.FAIL,
        value=trial["final"],
        params=dict(trial["hyper"]),
        distributions={name: _distribution(optuna, method, name) for name in trial["hyper"]},
        user_attrs={
            "run": trial["run"],
            "point": trial["point"],
            "status": trial["status"],
            "command": trial["command"],
        },
    )


def _distribution(optuna: Any, method: Mapping[str, Any], name: str) -> Any:
    """The declared range, reaching to whatever was tried; Optuna knows no range that is logarithmic in 1 - x, so that is a plain one."""
    declared = Range.parse(method["space"][name])
    tried = [t["hyper"][name] for t in method["trials"]]
    low, high = min(declared.low, *tried), max(declared.high, *tried)
    return optuna.distributions.FloatDistribution(low, high, log=declared.scale == "log")
