"""Checkpoints that survive: one safetensors file, or a folder written by many ranks, without pickle.

    fallline.save("run.ckpt", model=model, optimizer=optimizer, extra={"epoch": 3})
    extra = fallline.load("run.ckpt", model=model, optimizer=optimizer)

Reading order: structure (nested values as JSON), atomic (old or new, never half), file (the bytes), schema (versions),
whole (save, load, read), restore (all or nothing), storage and sharded (many ranks).
"""

from fallline.checkpoint.sharded import load_sharded, save_sharded
from fallline.checkpoint.whole import load, read, save
from fallline.core.errors import CheckpointError

__all__ = ["CheckpointError", "load", "load_sharded", "read", "save", "save_sharded"]
