"""The laboratory: fair studies, their statistics, and the checks of papers' claims.

from pathlib import Path
from fallline.lab import make_spec, run_study
results = run_study(make_spec(["digits-mlp"], ["lion"]), Path("out"))
"""

from fallline.lab.bracket import Bracket, find_bracket
from fallline.lab.claims import run_claims
from fallline.lab.design import BUDGETS
from fallline.lab.population import Alone, train_population
from fallline.lab.rate import FoundRate, find_rate, sweep
from fallline.lab.reading import Finished, Snapshot, read_study
from fallline.lab.run import RunSpec, train
from fallline.lab.study import BASELINES, Event, Interrupted, StudySpec, load_study, make_spec, run_study
from fallline.lab.summary import write_results

__all__ = [
    "BASELINES",
    "BUDGETS",
    "Alone",
    "Bracket",
    "Event",
    "Finished",
    "FoundRate",
    "Interrupted",
    "RunSpec",
    "Snapshot",
    "StudySpec",
    "find_bracket",
    "find_rate",
    "load_study",
    "make_spec",
    "read_study",
    "run_claims",
    "run_study",
    "sweep",
    "train",
    "train_population",
    "write_results",
]
