"""The tasks that come with fallline, and loading a task by its name or from the user's own code."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

from fallline.core.errors import unknown
from fallline.tasks.breast_cancer_logistic import BREAST_CANCER_LOGISTIC
from fallline.tasks.deep_autoencoder import DEEP_AUTOENCODER
from fallline.tasks.digits_mlp import DIGITS_MLP
from fallline.tasks.entry import Entry
from fallline.tasks.fashion_cnn import FASHION_CNN
from fallline.tasks.fashion_longtail import FASHION_LONGTAIL
from fallline.tasks.fashion_noisy import FASHION_NOISY
from fallline.tasks.fashion_resnet import FASHION_NFNET, FASHION_RESNET
from fallline.tasks.fashion_vit import FASHION_VIT
from fallline.tasks.flights_delay import FLIGHTS_DELAY
from fallline.tasks.gan_ring import GAN_RING
from fallline.tasks.matrix_factorisation import MATRIX_FACTORISATION
from fallline.tasks.pinn_poisson import PINN_POISSON
from fallline.tasks.quadratic import QUADRATIC
from fallline.tasks.rosenbrock import ROSENBROCK
from fallline.tasks.shakespeare_gpt import SHAKESPEARE_GPT
from fallline.tasks.signals_gru import SIGNALS_GRU
from fallline.tasks.siren_image import SIREN_IMAGE
from fallline.tasks.task import Task
from fallline.tasks.user import is_reference, load_user_task
from fallline.tasks.zipf_words import ZIPF_WORDS

__all__ = ["TASKS", "load"]


class _Registry(dict[str, Entry]):
    def __init__(self, entries: Iterable[Entry]) -> None:
        super().__init__({entry.name: entry for entry in entries})

    def __missing__(self, name: str) -> NoReturn:
        raise unknown("task", name, self, "Your own is written my_module:make_task.")


TASKS = _Registry(
    [
        DIGITS_MLP,
        DEEP_AUTOENCODER,
        FASHION_CNN,
        FASHION_RESNET,
        FASHION_NFNET,
        FASHION_VIT,
        FASHION_NOISY,
        FASHION_LONGTAIL,
        SHAKESPEARE_GPT,
        ZIPF_WORDS,
        SIGNALS_GRU,
        SIREN_IMAGE,
        PINN_POISSON,
        BREAST_CANCER_LOGISTIC,
        FLIGHTS_DELAY,
        GAN_RING,
        MATRIX_FACTORISATION,
        QUADRATIC,
        ROSENBROCK,
    ]
)
"""Name -> Entry; listing reads no data. An unknown name raises UnknownNameError with the nearest known ones."""


def load(name: str, path: Path | str | None = None) -> Task:
    """The task ``name``, or the one returned by the user's function ``my_module:make_task`` or ``file.py:make_task``.

    ``path`` is a folder with the data of a task that comes with fallline. Raises FalllineError if there is no such task,
    or if the user's code cannot be imported, raises, or does not return a Task.
    """
    if is_reference(name):
        return load_user_task(name, path)
    return TASKS[name].load(path)
