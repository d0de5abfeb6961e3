"""The commands and their exit codes: 0 done, 1 a run failed, 2 a mistake in the command, 130 or 143 interrupted."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, CycloptsError, Parameter

from fallline import __version__
from fallline.core.errors import FalllineError

app = App(
    name="fallline",
    version=__version__,
    help="Optimisation in deep learning: which optimizer, which learning rate, and why.\n\n"
    "Start with `fallline demo`, then `fallline compare TASK --methods adamw,lion`.",
    help_format="markdown",
)

bench = App(name="bench", help="Measure how fast optimizers step and what curvature costs, here, on this machine.")
app.command(bench)

Budget = Literal["quick", "standard", "thorough"]
Engine = Literal["local", "ray"]
Format = Literal["csv", "json", "parquet", "tensorboard", "optuna", "figures"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    try:
        command, bound, _ = app.parse_args(argv, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        return _fail(f"{str(error).strip()} Run 'fallline --help' to see what there is.")
    try:
        return int(command(*bound.args, **bound.kwargs) or 0)
    except FalllineError as error:
        return _fail(str(error), getattr(error, "exit_code", 2))
    except BrokenPipeError:  # the reader has gone, as in `fallline methods | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _fail(text: str, code: int = 2) -> int:
    print(f"fallline: {text}", file=sys.stderr)
    return code


@app.command
def demo(*, out: Path = Path("fallline-demo"), workers: int = 2) -> int:
    """Compare three optimizers on two real tasks, in about a minute: one where they differ, one where they do not.

    Parameters
    ----------
    out
        Folder for the study; run again to resume or to show its results.
    workers
        Processes that train at the same time, one thread each.
    """
    from fallline.cli.study import compare_and_report
    from fallline.lab.engines import EngineChoice

    tasks, methods = ["deep-autoencoder", "digits-mlp"], ["adamw", "nesterov", "lion"]
    return compare_and_report(tasks, methods, "quick", None, out, [], EngineChoice(num_workers=workers))


@app.command
def compare(
    *tasks: str,
    suite: str | None = None,
    methods: str | None = None,
    budget: Budget = "quick",
    seeds: int | None = None,
    out: Path | None = None,
    space: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    spaces: Path | None = None,
    batch_size: str | None = None,
    extras: bool = True,
    prune: Annotated[bool, Parameter(negative="")] = False,
    engine: Engine = "local",
    workers: int | None = None,
    address: str | None = None,
) -> int:
    """Find out fairly which method to use on TASK: equal tuning, fresh seeds, honest statistics, one HTML report.

    Parameters
    ----------
    tasks
        One or more of `fallline tasks`, or your own: `my_module:make_task` or `path/to/file.py:make_task`.
    suite
        A list of tasks by name: tiny, core or all. `fallline tasks` shows them.
    methods
        Methods to compare, separated by commas; by default adamw,nesterov,lion, and muon too on a suite. `all` and `all-first-order` take every one, a family as `adaptive` (or
        `all-sgd`, where a method has the family's name) its members. Tuned AdamW and Nesterov are always included.
    budget
        quick: 8 trials a method at 30 % of the steps; standard: 16; thorough: 32, both at all steps.
    seeds
        Fresh seeds for each method's best setting. By default as many as a proof needs.
    out
        Folder for the study; the same command on the same folder resumes it.
    space
        Search range of one hyperparameter, as `adamw.lr=1e-4..1e-1`; repeat for more.
    spaces
        A TOML file of search ranges: a table per method, as `[adamw]` and `lr = "1e-4..1e-1"`.
    batch_size
        Batch sizes with commas between, as `32,128,512`: every method is tuned anew at each, for as many samples.
    extras
        Two more runs of each method, which show what tuning is worth: at its defaults, and at AdamW's best learning rate.
    prune
        Give up the worse half of the trials at a quarter and at half of their steps. Quicker; the study then only explores.
    engine
        Where runs train: `local`, in processes of this machine, or `ray`, on a cluster (`pip install 'fallline[ray]'`).
    workers
        Runs, or groups of runs, that train at the same time, one thread each. By default 2, with Ray as many as there are CPUs.
    address
        Of a running Ray cluster, as `auto` or `10.0.0.5:6379`; without it Ray uses this machine alone.
    """
    from fallline.cli.study import compare_and_report, named_tasks, ranges_of_file
    from fallline.lab.engines import EngineChoice

    ranges = [*ranges_of_file(spaces), *space]
    named, chosen = named_tasks(tasks, suite)
    methods = methods or ("adamw,nesterov,lion,muon" if suite else "adamw,nesterov,lion")
    out = out or Path("-".join(["fallline", *named, budget]))
    choice = EngineChoice(engine, workers, address)
    return compare_and_report(chosen, methods.split(","), budget, seeds, out, ranges, choice, extras, batch_size, prune)


@app.command
def resume(
    folder: Path, *, engine: Engine | None = None, workers: int | None = None, address: str | None = None
) -> int:
    """Go on with an interrupted study, where and as it ran before; finished runs are not repeated.

    Parameters
    ----------
    folder
        The study's folder.
    engine
        Another engine than before: `local` or `ray`. The numbers are the same.
    workers
        Another number of runs, or groups of runs, at the same time.
    address
        Another Ray cluster.
    """
    from fallline.cli.study import resume_and_report

    return resume_and_report(folder, engine, workers, address)


@app.command
def report(folder: Path) -> int:
    """Build the report of a study again, from what its folder holds.

    Parameters
    ----------
    folder
        The study's folder.
    """
    from fallline.cli.study import report_again

    return report_again(folder)


@app.command
def export(folder: Path, *, to: Format, out: Path | None = None) -> int:
    """Write a study in the format of another tool, complete or not.

    Parameters
    ----------
    folder
        The study's folder.
    to
        csv, json; parquet (runs and curves); tensorboard (event files); optuna (a storage with a study per task and method);
        figures (the report's figures as SVG and PDF).
    out
        Folder to write to; by default the study's own.
    """
    from fallline.cli.export import export_study

    return export_study(folder, to, out)


@app.command
def watch(folder: Path, *, every: float = 1.0) -> int:
    """Show how far a study is, while another process runs it or after: trials, fresh seeds, best so far, time left.

    On a terminal it stays until the study is finished; Ctrl-C leaves, and the study goes on. To watch a training loop of your
    own, see `fallline.watch` in Python (docs/diagnose.md).

    Parameters
    ----------
    folder
        The study's folder.
    every
        Seconds between two looks.
    """
    from fallline.cli.watch import watch_study

    return watch_study(folder, every)


@app.command
def run(
    task: str,
    *,
    method: str = "adamw",
    set: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    seed: int = 0,
    steps: int | None = None,
    parallel: Literal["ddp", "fsdp"] | None = None,
    device: Literal["cpu", "cuda"] | None = None,
    save: Path | None = None,
    every: int | None = None,
    resume: Path | None = None,
) -> int:
    """Train TASK once, as a study does, and print the curve: reproduces any number of a report, to rounding where runs trained together.

    One large run trains over many processes: `torchrun --nproc-per-node 4 -m fallline run TASK --save DIR --resume DIR`.

    Parameters
    ----------
    task
        One of `fallline tasks`, or your own as in `compare`.
    method
        One of `fallline methods`.
    set
        A hyperparameter, as `lr=3e-3`; repeat for more.
    seed
        The seed of initialisation, data order, noise and dropout.
    steps
        Training steps; the schedule spans them. By default the task's full budget.
    parallel
        Over the processes of torchrun: `ddp`, the default, has the model on each; `fsdp` (FSDP2) a part of it.
    device
        Where torchrun's processes, or a run that is saved, train; by default on GPUs where there is one for each.
    save
        Folder for checkpoints, which any number of processes can resume.
    every
        Steps from one checkpoint to the next; by default a tenth of all.
    resume
        Folder with a checkpoint to go on from. The folder of `--save` may be empty at first: one command starts and restarts.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 or any(x is not None for x in (parallel, device, save, every, resume)):
        from fallline.cli.large import run_large

        return run_large(task, method, set, seed, steps, (parallel, save, every, resume), device)
    from fallline.cli.study import run_once

    return run_once(task, method, set, seed, steps)


@app.command
def lr(
    task: str,
    *,
    method: str = "adamw",
    set: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    steps: int | None = None,
    seed: int = 0,
    json: Path | None = None,
) -> int:
    """Find the learning rate of METHOD on TASK: where it diverges, which rates are good, which to take, and how sure that is.

    Parameters
    ----------
    task
        One of `fallline tasks`, or your own as in `compare`.
    method
        One of `fallline methods`.
    set
        Another hyperparameter, as `b2=0.95`; repeat for more.
    steps
        Steps of the runs that the rate is for; the schedule spans them. By default 30 % of the task's budget.
    seed
        The first of the seeds.
    json
        File for everything that was tried.
    """
    from fallline.cli.lr import print_rate

    return print_rate(task, method, set, steps, seed, json)


@app.command
def diagnose(
    task: str,
    *,
    method: str = "adamw",
    lr: float | None = None,
    set: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    seed: int = 0,
    steps: int | None = None,
    out: Path | None = None,
) -> int:
    """Say why a run of METHOD on TASK behaves as it does and what to change, and rerun it with the change.

    Trains with a watch on curvature, noise and every tensor's steps. A page with the figures is written.

    Parameters
    ----------
    task
        One of `fallline tasks`, or your own as in `compare`.
    method
        One of `fallline methods`.
    lr
        The learning rate; the method's default without it.
    set
        Another hyperparameter, as `b2=0.95`; repeat for more.
    seed
        The seed of initialisation, data order, noise and dropout.
    steps
        Training steps; the schedule spans them. By default 30 % of the task's budget.
    out
        The page's file.
    """
    from fallline.cli.diagnose import print_diagnosis

    return print_diagnosis(task, method, lr, set, seed, steps, out)


@app.command
def methods(name: str | None = None) -> int:
    """List every method: idea, paper, state, reach; with NAME, its page: formula, defaults, memory, claims.

    Parameters
    ----------
    name
        A method, as `adamw`.
    """
    from fallline.cli.catalogue import print_method, print_methods

    return print_methods() if name is None else print_method(name)


@app.command
def tasks(name: str | None = None) -> int:
    """List the tasks: data, model, budget, metric and target; with NAME, its card: what it tells apart, and how to run it.

    Parameters
    ----------
    name
        A task, as `digits-mlp`, or your own as in `compare`.
    """
    from fallline.cli.catalogue import print_task, print_tasks

    return print_tasks() if name is None else print_task(name)


@app.command
def claims(*names: str, family: Annotated[tuple[str, ...], Parameter(negative="")] = ()) -> int:
    """Check what the papers claim about methods, schedules, objectives and the rest; exit code 1 if a claim fails.

    Parameters
    ----------
    names
        Methods. Without names and families: everything.
    family
        A package, as `schedules`, `objectives`, `curvature`, or `methods` for all methods; repeat for more.
    """
    from fallline.cli.catalogue import print_claims

    return print_claims(names, family)


@app.command
def schedule(
    text: Annotated[str, Parameter(allow_leading_hyphen=True)], *, steps: int | None = None, svg: Path | None = None
) -> int:
    """Draw a schedule: `fallline schedule "3e-4 * (warmup(200) >> cosine(5000))"`.

    Parameters
    ----------
    text
        Schedules of fallline.schedules, numbers, and the operators `>>` (then), `*` and `+`.
    steps
        Steps to draw; by default all, or 1,000 of a schedule that never ends.
    svg
        File to write the figure to.
    """
    from fallline.cli.schedule import plot_schedule

    return plot_schedule(text, steps, svg)


@app.command
def coord_check(
    make: str | None = None,
    *,
    method: str = "adam",
    lr: float = 1e-3,
    widths: str = "64,128,256,512",
    base: int | None = None,
    standard: Annotated[bool, Parameter(negative="")] = False,
    steps: int = 3,
    svg: Path | None = None,
) -> int:
    """Check muP: train models of several widths for a few steps, and plot how much each layer changed against the width.

    Under muP all lines are flat; exit code 1 if they are not.

    Parameters
    ----------
    make
        Your own `my_module:make` or `path/to/file.py:make`, where make(width) returns a fallline.tasks.Task; by default an MLP
        on digits.
    method
        A method that muP covers, as adam, sgd, lion.
    lr
        The learning rate at the base width.
    widths
        Widths, separated by commas.
    base
        The base width; by default the smallest.
    standard
        Leave the models as they are, to see what muP changes.
    steps
        Training steps.
    svg
        File to write the figure to.
    """
    from fallline.cli.coordinates import base_of, check_coordinates

    return check_coordinates(make, method, lr, widths, base_of(base, standard), steps, svg)


@bench.command
def step(
    *,
    sets: str | None = None,
    methods: str | None = None,
    fuse: str | None = None,
    peers: Annotated[bool, Parameter(negative="")] = False,
    quick: Annotated[bool, Parameter(negative="")] = False,
    memory: Annotated[bool, Parameter(negative="")] = False,
    rounds: int | None = None,
    threads: int = 2,
    device: str = "cpu",
    json: Path | None = None,
) -> int:
    """Time the steps of our methods beside torch's fused AdamW, and see how far they are from the memory's limit.

    Parameters
    ----------
    sets
        Parameter sets, separated by commas: large, small, gpt2, mixed, billion. All of them by default, the last only on a GPU.
    methods
        Methods, separated by commas; `all` takes every one. By default adamw, sgd (with momentum), lion, lamb, lars. Matrix methods
        (muon, shampoo, soap, psgd, mars_shampoo) step hidden matrices; embeddings take AdamW's step.
    fuse
        How our steps run, separated by commas, as `auto,eager`. Every way by default.
    peers
        Time torch's other optimizers too, and other libraries where they are installed.
    quick
        Fewer sets, methods and rounds: less than a minute.
    memory
        Instead of times, the memory that a step needs beside parameters, gradients and state.
    rounds
        Times that every step is timed; by default as many as the set's size allows.
    threads
        Torch's threads.
    device
        Where the parameters are: cpu, or cuda.
    json
        File for everything, every round's time included.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # before torch comes in: its profiler writes to the terminal
    from fallline.cli.bench import bench_step, plan_of

    plan = plan_of(sets, methods, fuse, peers, quick, rounds, device)
    given = {"sets": sets, "methods": methods, "fuse": fuse, "rounds": rounds, "threads": threads}
    flags = {"peers": peers, "quick": quick, "memory": memory}
    given |= {} if device == "cpu" else {"device": device}
    command = ["fallline bench step", *(f"--{k} {v}" for k, v in given.items() if v is not None)]
    command += [f"--{k}" for k, v in flags.items() if v]
    return bench_step(plan, threads, json, memory, " ".join(command))


@bench.command
def curvature(
    *,
    examples: int = 2000,
    quick: Annotated[bool, Parameter(negative="")] = False,
    threads: int = 1,
    json: Path | None = None,
) -> int:
    """Time Hessian products, eigenvalues, traces and densities, beside other libraries where they are installed.

    Parameters
    ----------
    examples
        Images that the loss is taken over.
    quick
        The products and the top eigenvalue only.
    threads
        Torch's threads.
    json
        File for every row.
    """
    from fallline.cli.curvature import bench_curvature

    command = f"fallline bench curvature --examples {examples} --threads {threads}{' --quick' if quick else ''}"
    return bench_curvature(examples, quick, threads, json, command)


@bench.command
def population(
    *,
    tasks: str | None = None,
    rounds: int = 5,
    workers: int = 2,
    cpu: Annotated[bool, Parameter(negative="")] = False,
    device: str = "cpu",
) -> int:
    """Time many runs as a study trains them, together where that pays, beside the same runs one after the other.

    Parameters
    ----------
    tasks
        Of digits-mlp, fashion-cnn and shakespeare-gpt, separated by commas. All of them by default.
    rounds
        Times that both are timed, in turn.
    workers
        Processes that train together at the same time, one thread each.
    cpu
        Train together in this process alone, and take its processor's time, which others on the machine disturb less.
    device
        Where all train: cpu, or cuda, where more train together.
    """
    from fallline.cli.population import bench_population

    return bench_population(tasks, rounds, workers, cpu, device)
