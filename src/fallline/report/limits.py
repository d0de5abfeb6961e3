"""What a study cannot say, derived from what it did."""

from __future__ import annotations

from fallline.report.schema import Results
from fallline.report.validity import crowded
from fallline.report.words import count, number

__all__ = ["limitations"]


def limitations(results: Results) -> list[str]:
    """One sentence for each conclusion that a reader might draw and should not."""
    study, tasks = results.study, results.tasks
    fraction = study.budget.step_fraction
    sizes = sorted({t.parameters for t in tasks})
    models = count(sizes[0]) if len(sizes) == 1 else f"{count(sizes[0])} to {count(sizes[-1])}"
    tuned = sorted({name for t in tasks for m in t.methods for name in m.tuned})
    out = [
        f"Nothing about other models or data: it trained models of {models} parameters on "
        f"{', '.join(t.name for t in tasks)}. Rankings of optimizers change with scale.",
        "Nothing about other batch sizes: each task used one (" + ", ".join(f"{t.name} {t.batch_size}" for t in tasks)
        + "), and another batch size needs new tuning.",
        "Nothing about longer training: the learning rate decays to zero at the last step"
        + (f", here at {number(100 * fraction, 3)} % of each task's full budget" if fraction < 1 else "")
        + ". Curves crossing earlier say nothing about the end of another budget.",
        f"Nothing about other settings: tuned were {', '.join(tuned)}, over the declared spaces, with "
        f"{study.budget.trials} trials each; everything else stayed at its default. More trials may favour methods with "
        f"more hyperparameters.",
        "Not how much the tuning itself varies: the trials of each method share one seed, and the intervals cover fresh "
        "seeds of the chosen setting, not the choice.",
        "Not the error on unseen data: tuning and comparison read the same validation set, so final values are slightly "
        "optimistic, alike for all methods.",
        f"Not that methods which were not told apart are equal: with {len(study.seeds)} seeds a small difference "
        f"stays hidden.",
        "Not the speed on other hardware: times are CPU times of this machine"
        + (", which other work shared while it ran" if crowded(results) else "")
        + ". Steps and gradient evaluations carry over; milliseconds do not.",
    ]  # fmt: skip
    made = sorted({d.name for t in tasks for d in t.data if d.synthetic})
    if made:
        out.insert(0, f"Nothing about real data: {', '.join(made)} is a synthetic stand-in.")
    if not study.complete:
        out.insert(0, "Nothing final: the study has not finished.")
    return out
