"""A GPU for machines without one: the kernels' own source, built as C++, in which a block is a single thread."""

import ctypes
from functools import cache

import pytest

from fallline.core import gather, grid_bundle, native


class Module:
    def __init__(self, source, names):
        self._library = native.build(source)
        assert self._library is not None, "the kernels' source is no C++"
        for name in names:
            getattr(self._library, name).restype = None

    def launch(self, name, blocks, threads, arguments):
        getattr(self._library, name)(ctypes.byref(arguments), ctypes.c_int64(blocks))


@cache
def build(source, names, device):
    return Module(source, names)


@pytest.fixture
def emulated_gpu(monkeypatch):
    """Optimizers on the CPU step as they would on a GPU."""
    monkeypatch.setattr(grid_bundle, "build", build)
    monkeypatch.setitem(gather.BUNDLES, "cpu", (grid_bundle.GridBundle, lambda: True))
