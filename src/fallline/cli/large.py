"""``fallline run`` over the processes of torchrun, or with checkpoints: rank 0 prints."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch.distributed as dist

from fallline.checkpoint.ranks import together
from fallline.cli.catalogue import console
from fallline.cli.study import print_end, run_spec
from fallline.core.errors import FalllineError
from fallline.lab.batch_sizes import load_entry
from fallline.lab.large import LargeRun, Parallel, Ranks, joined, train_large

__all__ = ["run_large"]


def run_large(
    task: str,
    method: str,
    settings: Sequence[str],
    seed: int,
    steps: int | None,
    how: tuple[Parallel | None, Path | None, int | None, Path | None],
    device: str | None,
) -> int:
    """Train once over all processes, and print the curve as it grows."""
    with joined(device) as ranks:
        try:
            return _run(task, method, settings, seed, steps, LargeRun(*how), ranks)
        except FalllineError as error:  # the same on all ranks, before the first step
            if ranks.size == 1:
                raise
            if ranks.rank == 0:
                print(f"fallline: {error}", file=sys.stderr, flush=True)
            dist.barrier()  # torchrun ends all processes when one has ended
            return getattr(error, "exit_code", 2)


def _run(
    task: str, method: str, settings: Sequence[str], seed: int, steps: int | None, how: LargeRun, ranks: Ranks
) -> int:
    out = console()
    out.quiet = ranks.rank > 0
    with together("fallline run"):
        loaded = load_entry(task)
        spec = run_spec(loaded, task, method, settings, seed, steps)
    metric = loaded.metric
    where = f"{ranks.size} processes, {how.parallel or 'ddp'}" if ranks.size > 1 else "1 process"
    out.print(f"run       {spec.command}\nover      {where}, {ranks.device.type}", soft_wrap=True)
    out.print(f"{'step':>7}  {'train loss':>12}  {metric}")
    record = train_large(
        loaded,
        spec,
        ranks,
        how,
        on_evaluation=lambda t, loss, value: out.print(f"{t:7d}  {loss:12.6g}  {value:.6g}"),
        on_note=lambda text: out.print(f"note      {text}", soft_wrap=True),
    )
    print_end(record, metric, out)
    return 0
