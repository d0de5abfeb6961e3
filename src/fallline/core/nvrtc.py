"""Kernels of a GPU: CUDA source to functions that can be launched, by NVIDIA's run-time compiler, which comes with torch."""

from __future__ import annotations

import ctypes
import site
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

__all__ = ["available", "build"]

FLAGS = ("--std=c++17", "--fmad=true")


class Module:
    """Kernels that have been built for a device."""

    def __init__(self, source: str, names: Sequence[str], device: int) -> None:
        major, minor = torch.cuda.get_device_capability(device)
        self._device = device
        self._driver = _driver()
        self._image = _compiled(source, f"--gpu-architecture=sm_{major}{minor}")
        module = ctypes.c_void_p()
        with torch.cuda.device(device):
            torch.cuda.current_stream(device)  # torch makes the device's context
            self._check(self._driver.cuModuleLoadData(ctypes.byref(module), self._image))
        self._functions = {name: self._function(module, name) for name in names}

    def _function(self, module: ctypes.c_void_p, name: str) -> ctypes.c_void_p:
        found = ctypes.c_void_p()
        self._check(self._driver.cuModuleGetFunction(ctypes.byref(found), module, name.encode()))
        return found

    def launch(self, name: str, blocks: int, threads: int, arguments: ctypes.Array[ctypes.c_char]) -> None:
        """Put a kernel, which takes one struct by value, into the queue of the device's current stream."""
        pointers = (ctypes.c_void_p * 1)(ctypes.addressof(arguments))
        stream = ctypes.c_void_p(torch.cuda.current_stream(self._device).cuda_stream)
        one, none = ctypes.c_uint(1), ctypes.c_uint(0)
        grid, block = (ctypes.c_uint(blocks), one, one), (ctypes.c_uint(threads), one, one)
        self._check(self._driver.cuLaunchKernel(self._functions[name], *grid, *block, none, stream, pointers, None))

    def _check(self, result: int) -> None:
        if result:
            said = ctypes.c_char_p()
            self._driver.cuGetErrorString(result, ctypes.byref(said))
            raise RuntimeError(f"CUDA said: {(said.value or b'error %d' % result).decode()}")


@cache
def build(source: str, names: tuple[str, ...], device: int) -> Module | None:
    """The kernels of these names, or None, said once, where they cannot be built."""
    try:
        return Module(source, names, device)
    except (OSError, RuntimeError) as error:
        warnings.warn(
            f"The GPU's compiler could not build an optimizer step, which runs another way instead (slower, same numbers). "
            f"It said: {str(error).strip()[-500:]} Install torch with the CUDA libraries that belong to it.",
            stacklevel=2,
        )
        return None


@cache
def available() -> bool:
    """Whether there is a CUDA device (not one of AMD's under that name) and its run-time compiler."""
    if torch.version.hip is not None or not torch.cuda.is_available():
        return False
    try:
        return bool(_compiler() and _driver())
    except OSError:
        return False


def _driver() -> ctypes.CDLL:
    return ctypes.CDLL("libcuda.so.1")


@cache
def _compiler() -> ctypes.CDLL:
    """NVRTC of torch's version of CUDA: among the libraries of this process, or where pip puts it."""
    name = f"libnvrtc.so.{(torch.version.cuda or '').partition('.')[0]}"
    places = [Path(torch.__file__).parent.parent, *map(Path, site.getsitepackages())]
    folders = [folder for place in places for folder in sorted((place / "nvidia").glob("*/lib"))]
    error: OSError | None = None
    for candidate in (name, *(str(folder / name) for folder in folders)):
        try:
            return ctypes.CDLL(candidate)
        except OSError as found:
            error = found
    raise error or OSError(f"{name} was not found")


def _compiled(source: str, architecture: str) -> bytes:
    """The binary of a source."""
    nvrtc = _compiler()
    program = ctypes.c_void_p()
    options = [option.encode() for option in (architecture, *FLAGS)]

    def check(result: int) -> None:
        if result:
            size = ctypes.c_size_t()
            nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
            log = ctypes.create_string_buffer(size.value)
            nvrtc.nvrtcGetProgramLog(program, log)
            raise RuntimeError(log.value.decode(errors="replace") or f"NVRTC error {result}")

    check(nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"step.cu", 0, None, None))
    try:
        given: Any = (ctypes.c_char_p * len(options))(*options)
        check(nvrtc.nvrtcCompileProgram(program, len(options), given))
        size = ctypes.c_size_t()
        check(nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size)))
        image = ctypes.create_string_buffer(size.value)
        check(nvrtc.nvrtcGetCUBIN(program, image))
        return image.raw
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
