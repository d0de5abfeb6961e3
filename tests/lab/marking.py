"""A task that trains slowly and leaves a file named after the Ray node on which it does, where a variable says so."""

import os
import time
from pathlib import Path

from small import make_task as small_task
from small import mse


def make_task():
    folder = os.environ.get("FALLLINE_TEST_MARKS")  # of the command's process: it goes to workers with the task

    def loss(model, batch):
        time.sleep(0.1)
        if folder:
            import ray

            if ray.is_initialized():
                (Path(folder) / ray.get_runtime_context().get_node_id()).touch()
        return mse(model, batch)

    return small_task(name="marking", loss=loss)
