"""What a record says, in words with numbers, and what to change; pure functions of the record, so that every rule can be tested."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median

from fallline.dynamics.record import Record, Series

__all__ = ["FEWEST_PROBES", "FEWEST_STEPS", "Finding", "explain"]

FEWEST_STEPS, FEWEST_PROBES = 20, 3
"""Below these nothing is concluded."""

EDGE = (0.7, 1.4)
"""Shares of the stability threshold that count as at the edge: measured sharpness hovers there (Cohen et al., arXiv:2103.00065)."""

LARGE_RATIO, SMALL_RATIO = 3e-2, 1e-5
"""Update to weight norms of a tensor that are unusually large or small; trained networks mostly lie around 1e-3."""

SPIKE = 1.5
"""A loss this many times the median of the ten before it is a spike."""

LARGE_LOGIT = 50.0
"""Attention logits beyond this saturate the softmax (Dehghani et al., arXiv:2302.05442, section 3.1)."""


@dataclass(frozen=True)
class Finding:
    """One thing that happened: how much it matters, in words with numbers, and a change of hyperparameters that may help."""

    kind: str  # in a word or two, as "unstable" or "large steps"
    weight: int  # 3: the run failed; 2: it suffers; 1: worth knowing
    text: str
    factors: Mapping[str, float] = field(default_factory=dict)  # hyperparameter -> factor to try; batch_size is one


def explain(record: Record) -> list[Finding]:
    """The findings, most important first; with too little data a single one that says so."""
    if record.steps < FEWEST_STEPS and record.trouble is None:
        return [
            Finding("little data", 1, f"No conclusion from {record.steps} steps. At least {FEWEST_STEPS} are needed.")
        ]
    rules = (_diverged, _skipped, _threshold, _progress, _spikes, _ratios, _noise, _attention)
    found = [finding for rule in rules for finding in rule(record)]
    if not found:
        found = [Finding("fine", 1, "Nothing stands out.")]
    return sorted(found, key=lambda f: -f.weight)


def _diverged(record: Record) -> list[Finding]:
    if record.trouble is None:
        return []
    return [Finding("diverged", 3, f"The run failed at {record.trouble.text}.", {"lr": 0.1})]


def _skipped(record: Record) -> list[Finding]:
    if not record.skipped:
        return []
    text = f"{record.skipped} of {record.steps} steps were refused, because a gradient was not finite or too large to square."
    return [Finding("skipped", 3 if record.skipped > record.steps / 10 else 2, text, {"lr": 0.1})]


def _threshold(record: Record) -> list[Finding]:
    share, about = record.series("share"), record.about.get("threshold", "")
    if not len(share):
        reason = f" {about}" if about else ""
        sharp = record.series("sharpness")
        if len(sharp) and reason:
            return [Finding("no threshold", 1, f"The largest curvature ends at {sharp.last:.3g}.{reason}")]
        return []
    if len(share) < FEWEST_PROBES:
        return [
            Finding(
                "little data",
                1,
                f"Curvature was taken {len(share)} times. {FEWEST_PROBES} are needed to judge the learning rate.",
            )
        ]
    chosen = _at_work(record.series("lr"), share)
    late, limit, size = (
        median(record.series(name).values[i] for i in chosen) for name in ("share", "threshold", "sharpness")
    )
    where = f"While the learning rate is high, the largest curvature is {size:.3g}, {late:.2g} times the {limit:.3g} from which these steps are unstable"
    if late > EDGE[1]:
        return [
            Finding("unstable", 2, f"{where}: the learning rate is too high by about that factor.", {"lr": 1 / late})
        ]
    if late >= EDGE[0]:
        return [
            Finding(
                "edge",
                1,
                f"{where}: at the edge of stability, where full-batch training settles. Larger rates cost stability.",
            )
        ]
    if late < 0.1:
        return [
            Finding(
                "room",
                1,
                f"{where}: stability would allow a learning rate up to {1 / late:.2g} times as large.",
                {"lr": min(3.0, 0.5 / late)},
            )
        ]
    return [Finding("stable", 1, f"{where}: stable, and not far from the limit.")]


def _at_work(rates: Series, share: Series) -> list[int]:
    """The probes at which the rate was at least half of its peak, the first one left out: before and after, a schedule holds it low."""
    peak = max(rates.values, default=0.0)
    chosen = [i for i in range(1, len(share)) if i < len(rates) and rates.values[i] >= peak / 2]
    return chosen or list(range(len(share)))


def _progress(record: Record) -> list[Finding]:
    losses = record.series("loss").values
    if len(losses) < FEWEST_STEPS or record.trouble is not None:
        return []
    tenth = max(len(losses) // 10, 2)
    first, last = median(losses[:tenth]), median(losses[-tenth:])
    best = min(median(losses[i : i + tenth]) for i in range(0, len(losses) - tenth + 1, tenth))
    noise = median(abs(b - a) for a, b in zip(losses, losses[1:], strict=False))
    if last - best > max(3 * noise / math.sqrt(tenth), 0.02 * abs(best)):
        return [
            Finding("rising", 2, f"The loss rose from {best:.4g} at its best to {last:.4g} at the end.", {"lr": 0.3})
        ]
    if first - last <= 2 * noise / math.sqrt(tenth):
        return [
            Finding(
                "stuck",
                2,
                f"The loss went from {first:.4g} to {last:.4g}, no more than its noise of {noise:.2g} a step.",
            )
        ]
    return []


def _spikes(record: Record) -> list[Finding]:
    losses = record.series("loss").values
    places = [
        t + 1
        for t in range(10, len(losses))
        if math.isfinite(losses[t]) and losses[t] > SPIKE * median(losses[t - 10 : t])
    ]
    starts = [t for i, t in enumerate(places) if i == 0 or t - places[i - 1] > 5]
    if not starts or record.trouble is not None:
        return []
    text = f"{len(starts)} loss spike{'s' if len(starts) > 1 else ''} (above {SPIKE:g} times the median of the ten steps before), the first at step {starts[0]}."
    return [Finding("spikes", 2 if len(starts) > 2 else 1, text, {"lr": 0.3})]


def _ratios(record: Record) -> list[Finding]:
    taken = {name: s.late_median() for name, s in record.tensors("update_ratio").items() if len(s) >= FEWEST_PROBES}
    late = {name: ratio for name, ratio in taken.items() if math.isfinite(ratio)}
    if not late:
        return []
    found, middle = [], median(late.values())
    if middle > LARGE_RATIO:
        text = (
            f"A step moves a typical tensor by {middle:.1%} of its norm, so its weights are replaced in about {1 / middle:.0f} steps; around "
            f"0.1 % is usual."
        )
        found.append(Finding("large steps", 2, text, {"lr": min(0.3, 3e-3 / middle)}))
    over = sorted((n for n, r in late.items() if r > max(LARGE_RATIO, 10 * middle)), key=lambda n: -late[n])
    under = sorted((n for n, r in late.items() if r < min(SMALL_RATIO, middle / 10)), key=lambda n: late[n])
    for names, word in ((over, "more"), (under, "less")):
        if names:
            shown = ", ".join(f"{n} ({late[n]:.2g} of its norm a step)" for n in names[:3])
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            found.append(
                Finding("ratio", 1, f"Moving far {word} than the others (median {middle:.2g}): {shown}{more}.")
            )
    return found


def _noise(record: Record) -> list[Finding]:
    scale = record.series("noise_scale")
    if len(scale) < FEWEST_PROBES or not record.batch_size:
        return []
    late = median(scale.values[len(scale) // 2 :])
    if not math.isfinite(late):
        text = "The examples' gradients cancel almost wholly (no noise scale could be told): larger batches still pay."
        return [Finding("noise", 1, text)]
    words = f"The gradient noise scale is about {late:.3g} examples, {late / record.batch_size:.2g} times the batch of {record.batch_size}"
    if late < record.batch_size / 3:
        return [
            Finding(
                "noise",
                1,
                f"{words}: a smaller batch would learn as much a step.",
                {"batch_size": max(late / record.batch_size, 0.25)},
            )
        ]
    return [Finding("noise", 1, f"{words}: batches up to about that size are still worth their cost.")]


def _attention(record: Record) -> list[Finding]:
    logits: Series = record.series("attention_logit")
    if len(logits) < FEWEST_PROBES or logits.last < LARGE_LOGIT:
        return []
    entropy = record.series("attention_entropy").last
    text = f"Attention logits have grown from {logits.values[0]:.3g} to {logits.last:.3g} and their entropy is {entropy:.2g} nats: the softmax saturates."
    return [Finding("attention", 2, text, {"lr": 0.3})]
