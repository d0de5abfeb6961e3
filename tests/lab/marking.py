"""A task that trains slowly and leaves a file named after the Ray node on which it does, where a variable says so."""

import os
import time
from pathlib import Path

from small import make_task as small_task
from small import mse


def loss(model, batch):
    time.sleep(0.1)
    folder = os.environ.get("FALLLINE_TEST_MARKS")
    if folder:
        import ray

        if ray.is_initialized() and ray.get_runtime_context().get_task_id() is not None:
            (Path(folder) / ray.get_runtime_context().get_node_id()).touch()
    return mse(model, batch)


def make_task():
    return small_task(name="marking", loss=loss)
