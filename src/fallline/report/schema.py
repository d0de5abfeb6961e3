"""What a study's results.json holds (schema 1), checked before anything is drawn or written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

import fallline
from fallline.core.errors import FalllineError

__all__ = ["SCHEMA", "Comparison", "Interval", "Method", "Results", "Run", "Task", "Trial", "check"]

SCHEMA = 1


class Part(BaseModel):
    """A frozen piece of the results; unknown keys are kept, NaN and infinity are refused."""

    model_config = ConfigDict(frozen=True, strict=True, extra="allow", allow_inf_nan=False)


Hyper = dict[str, float | bool | str | None]


class Interval(Part):
    """An estimate with its 95 % confidence interval."""

    estimate: float
    low: float | None
    high: float | None


class Spread(Part):
    """A median over seeds with its 95 % confidence interval."""

    median: float
    low: float | None
    high: float | None


class Budget(Part):
    name: str
    trials: int
    step_fraction: float
    tuned_hyperparameters: int | str | list[str]


class Counts(Part):
    planned: int
    done: int
    diverged: int
    failed: int


class Study(Part):
    id: str
    command: str
    resume: str
    budget: Budget
    tuning_seed: int
    seeds: list[int]
    complete: bool
    runs: Counts
    started: str | None
    finished: str | None
    total_seconds: float | None


class Rule(Part):
    rule: str
    setting: str


class Metric(Part):
    name: str
    unit: str
    minimize: bool

    @property
    def label(self) -> str:
        return f"{self.name} [{self.unit}]" if self.unit else self.name


class Data(Part):
    name: str
    licence: str
    origin: str
    sha256: str
    synthetic: bool


class Paper(Part):
    title: str | None = None
    arxiv: str | None = None
    doi: str | None = None
    year: int | None = None
    source: str | None = None

    @property
    def identifier(self) -> str:
        """As ``arXiv:1412.6980``, else the DOI, else the source in words, else nothing."""
        if self.arxiv:
            return f"arXiv:{self.arxiv}"
        return f"doi:{self.doi}" if self.doi else self.source or ""


class Trial(Part):
    """One design point trained on the tuning seed."""

    run: str
    point: int
    hyper: Hyper
    status: str
    final: float | None
    command: str


class Edge(Part):
    """A tuned value beyond which nothing was tried, and the option that widens the space there."""

    name: str
    side: Literal["low", "high"]
    value: float
    range: str
    widen: str


class Best(Part):
    run: str
    hyper: Hyper
    edges: list[Edge]


class Hit(Part):
    steps: float
    samples: float | None = None
    gradient_evaluations: float | None = None
    seconds: float | None = None


class Run(Part):
    """The best point trained on one fresh seed; ``metric`` is taken at ``steps``."""

    run: str
    seed: int
    status: str
    final: float | None
    steps: list[float]
    metric: list[float | None]
    train_loss: list[float | None]
    to_target: Hit | None
    train_seconds: float | None
    step_ms: float | None
    optimizer_ms: float | None
    command: str


class Final(Part):
    """The final metric over seeds; ``low`` and ``high`` are the 95 % interval of the mean."""

    n: int
    mean: float | None
    median: float | None
    low: float | None
    high: float | None
    sd: float | None
    diverged: int


class Ratio(Part):
    steps: Interval | None = None
    seconds: Interval | None = None
    gradient_evaluations: Interval | None = None
    calibrated_seconds: Interval | None = None


class ToTarget(Part):
    reached: int
    of: int
    steps: Spread | None
    samples: Spread | None = None
    gradient_evaluations: Spread | None = None
    seconds: Spread | None = None
    calibrated_seconds: Spread | None = None
    ratio_to_adamw: Ratio | None = None


class Share(Part):
    """A target of a study's own: the initial metric, and this share of the gap that tuned AdamW closes from there."""

    share: float
    value: float


class Basin(Part):
    """Learning rates that end within 5 % of the gap closed by the best; ``at_least`` where they reach the last rate tried."""

    decades: float
    low: float
    high: float
    at_least: bool


class TuningCost(Part):
    trials: int
    gradient_evaluations: float
    seconds: float


class Extra(Part):
    """A run on the tuning seed that is no candidate for the best; ``gap`` is by how much it is worse than the best trial."""

    final: float | None
    gap: float | None
    lr: float | None = None
    hyper: Hyper | None = None


class Tunability(Part):
    """``expected_best`` holds (k, the best of k trials), a mean or, where trials diverged, a median (``expected_best_is``)."""

    expected_best: list[list[float]]
    expected_best_is: Literal["mean", "median"] = "mean"
    basin: Basin | None
    cost: TuningCost
    default: Extra | None
    transfer: Extra | None


class Cost(Part):
    step_ms: float | None
    optimizer_ms: float | None
    state_bytes_per_parameter: float | None


class Method(Part):
    name: str
    label: str
    summary: str
    family: str
    baseline: bool
    paper: Paper | None
    reach: str | int
    state_bytes_per_parameter: float | None
    space: dict[str, str]
    tuned: list[str]
    fixed: Hyper
    trials: list[Trial]
    best: Best | None
    runs: list[Run]
    final: Final | None
    to_target: ToTarget | None
    cost: Cost | None
    to_targets: list[ToTarget] = []
    tunability: Tunability | None = None


class Withheld(Edge):
    """The edge of the worse method's space beyond which the difference could close, and the study that would tell."""

    command: str


class Comparison(Part):
    """Two methods on the same seeds; ``difference`` is a minus b in the metric."""

    a: str
    b: str
    difference: Interval | None
    p: float | None
    p_holm: float | None
    smallest_p: float | None
    told_apart: bool
    better: str | None
    wins: list[float]
    n: int
    seeds_needed: int | None
    text: str
    withheld: Withheld | None = None


class Verdict(Part):
    kind: Literal["winner", "group", "open", "cannot tell"]
    best: list[str]
    open: list[str] = []  # cannot be judged yet
    sentences: list[str]
    warnings: list[str]


class Task(Part):
    name: str
    reference: str = ""
    summary: str
    parameters: int
    batch_size: int
    steps: int
    eval_every: float | None
    metric: Metric
    target: float | None
    target_note: str | None
    data: list[Data]
    methods: list[Method]
    comparisons: list[Comparison]
    verdict: Verdict
    initial: float | None = None
    targets: list[Share] = []
    what_would_change: list[str] = []
    exploratory: bool = False
    noise_scale: dict[str, Any] | None = None


class Score(Part):
    anchored: Interval
    algoperf: float
    algoperf_trapezoid: float


class Ranking(Part):
    """The order of methods over tasks. ``order`` and ``without_task`` go by the anchored score, ``order_algoperf`` and
    ``without_method`` by AlgoPerf's, which alone depends on who else is there."""

    basis: str
    profile: dict[str, list[list[float]]]
    scores: dict[str, Score]
    p_best: dict[str, float]
    order: list[str]
    order_algoperf: list[str] = []
    without_method: dict[str, list[str]]
    without_task: dict[str, list[str]]
    flips: list[str]


class Clock(Part):
    trusted: bool
    why: str


class Results(Part):
    fallline: str
    study: Study
    protocol: list[Rule]
    environment: dict[str, Any]
    tasks: list[Task]
    ranking: Ranking | None = None
    clock: Clock | None = None


def check(results: Mapping[str, Any]) -> Results:
    """Read the results of a study. Raises FalllineError for another schema, and names the first field that is wrong."""
    if not isinstance(results, Mapping) or "schema" not in results:
        raise FalllineError(
            f"{type(results).__name__} without a 'schema' entry is no study's results. Expected the contents of a "
            f"results.json. Pass json.load() of that file, or run the study again."
        )
    if results["schema"] != SCHEMA:
        made_by = results.get("fallline", "an unknown version")
        raise FalllineError(
            f"These results have schema {results['schema']!r}, written by fallline {made_by}. Expected schema {SCHEMA}, "
            f"which fallline {fallline.__version__} reads. Use the version that wrote them, or run the study again."
        )
    try:
        return Results.model_validate(results)
    except ValidationError as error:
        first = error.errors()[0]
        where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
        seen = "missing" if first["type"] == "missing" else _short(first["input"])
        raise FalllineError(
            f"The results are malformed: {where} is {seen}. Expected: {first['msg']}. "
            f"Do not edit results.json; run the study's command again to rebuild it."
        ) from None


def _short(value: object, limit: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
