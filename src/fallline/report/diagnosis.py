"""The page of a diagnosis: what happened, what was tried, and the figures behind every sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fallline import __version__
from fallline.dynamics import Record, Series
from fallline.lab.diagnose import Diagnosis, Trial
from fallline.report.page import environment, markup, trusted
from fallline.report.series import Line, draw_lines, smoothed

__all__ = ["render_diagnosis"]


def render_diagnosis(diagnosis: Diagnosis, command: str) -> str:
    """One self-contained HTML page, in the style of the comparison's report."""
    record = diagnosis.trial.record
    figures = [
        ("Loss of the run and of the reruns with one change", _losses(diagnosis)),
        (
            "Curvature as a share of what these steps can bear: above 1 they are unstable on a quadratic",
            draw_lines({"share": _line(record.series("share"))}, "curvature / stability threshold", "share", ("unstable from here", 1.0)),
        ),
        ("Largest curvature", draw_lines({"sharpness": _line(record.series("sharpness"))}, "largest eigenvalue", "sharpness")),
        ("How far a step moves every tensor, relative to its norm", draw_lines(_tensors(record, "update_ratio"), "update / weight norm", "ratios")),
        ("Gradient norms", draw_lines(_tensors(record, "gradient_norm"), "gradient norm", "gradients")),
        (
            "Gradient noise scale: batches up to it are worth their cost",
            draw_lines(
                {"noise scale": _line(record.series("noise_scale"))}, "tr(Sigma) / |G|^2 [examples]", "noise",
                ("batch size", float(record.batch_size)),
            ),
        ),
        ("Attention", draw_lines({"largest logit": _line(record.series("attention_logit"))}, "attention logit", "attention")),
    ]  # fmt: skip
    return (
        environment()
        .get_template("diagnosis.html.j2")
        .render(
            d=diagnosis,
            trials=[("as given", diagnosis.trial), *diagnosis.changes],
            figures=[(text, markup("{}", trusted(svg))) for text, svg in figures if svg is not None],
            command=command,
            version=__version__,
            hypers=_hypers,
        )
    )


def _hypers(trial: Trial) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in trial.spec.hypers)


def _line(series: Series) -> Line:
    return list(series.steps), list(series.values)


def _losses(diagnosis: Diagnosis) -> str | None:
    runs: Sequence[tuple[str, Trial]] = [("as given", diagnosis.trial), *diagnosis.changes]
    lines: dict[str, Any] = {text: smoothed(*_line(trial.record.series("loss"))) for text, trial in runs}
    return draw_lines(lines, "training loss", "loss")


def _tensors(record: Record, kind: str) -> dict[str, Line]:
    return {name: _line(series) for name, series in record.tensors(kind).items()}
