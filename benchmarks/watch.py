"""What a watch costs: the same run with and without ``fallline.watch``, in turn, by the processor's time.

``python benchmarks/watch.py`` trains each task twice at once, twenty steps of one and twenty of the other. Each run's clock stands
still while the other has its turn.
"""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

import torch

import fallline
from fallline.core.oracle import of_loss
from fallline.lab.streams import batch_indices
from fallline.tasks import Task, fetch, load

TASKS = ("digits-mlp", "deep-autoencoder", "shakespeare-gpt")
STEPS, TURN = 3000, 20


class Run:
    """A run of AdamW, watched or not, and the time that it took so far."""

    def __init__(self, task: Task, watched: bool) -> None:
        torch.manual_seed(0)
        self.task, self.t, self.seconds, self.begun = task, 0, 0.0, time.process_time()
        self.model = task.model()
        self.optimizer = fallline.optim.AdamW(self.model, lr=1e-3)
        self.watch = fallline.watch(self.model, self.optimizer, of_loss(self.model, task.loss)) if watched else None
        if self.watch is not None:
            self.watch._clock, self.watch._began = self.clock, 0.0

    def clock(self) -> float:
        return self.seconds + time.process_time() - self.begun

    def steps(self, count: int) -> None:
        self.begun = time.process_time()
        for _ in range(count):
            self.t += 1
            batch = fetch(self.task.train, batch_indices(0, self.t, self.task.batch_size, len(self.task.train)))
            self.optimizer.zero_grad()
            loss = self.task.loss(self.model, batch)
            loss.backward()
            self.optimizer.step()
            if self.watch is not None:
                self.watch.see(loss, batch)
        self.seconds = self.clock()


def main() -> None:
    torch.set_num_threads(1)
    print(f"{'task':20}{'steps':>7}{'plain s':>10}{'watched s':>11}{'overhead':>10}{'probes':>8}")
    for name in TASKS:
        task = load(name)
        plain, watched = Run(task, False), Run(task, True)
        for run in (plain, watched):
            run.steps(1)
        built = {run: run.seconds for run in (plain, watched)}  # what is built once is not counted
        for _ in range(STEPS // TURN):
            plain.steps(TURN)
            watched.steps(TURN)
        took, took_watched = plain.seconds - built[plain], watched.seconds - built[watched]
        over = f"{100 * (took_watched / took - 1):.1f} %"
        probes = len(watched.watch.record.series("sharpness").values)
        print(f"{name:20}{STEPS:7d}{took:10.2f}{took_watched:11.2f}{over:>10}{probes:8d}", flush=True)


if __name__ == "__main__":
    main()
