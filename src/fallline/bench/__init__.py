"""Benchmarks: how long an optimizer's step takes, beside torch's and other libraries', and how far from the memory's limit."""

from fallline.bench.rows import Row
from fallline.bench.shapes import SETS, ParameterSet
from fallline.bench.step import Plan, Result, load, make_plan, measure_memory, num_threads, run, save, start_compiler
from fallline.bench.targets import TARGETS, judge

__all__ = [
    "SETS", "TARGETS", "ParameterSet", "Plan", "Result", "Row", "judge", "load", "make_plan", "measure_memory",
    "num_threads", "run", "save", "start_compiler",
]  # fmt: skip
