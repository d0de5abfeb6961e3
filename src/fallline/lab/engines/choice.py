"""Which engine runs a study, as the user names it. It is kept with the study for ``fallline resume``, and is no part of what it asks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from fallline.core.errors import FalllineError, unknown
from fallline.lab.engines.engine import Engine
from fallline.lab.engines.local import LocalEngine
from fallline.tasks import Task

__all__ = ["ENGINES", "EngineChoice"]

ENGINES = ("local", "ray")

DEFAULT_WORKERS = 2


@dataclass(frozen=True)
class EngineChoice:
    """``name`` of the engine, groups trained at a time (the engine's default if None), and the ``address`` of a Ray cluster.

    Raises FalllineError for what cannot be, or could not take effect.
    """

    name: str = "local"
    num_workers: int | None = None
    address: str | None = None

    def __post_init__(self) -> None:
        if self.name not in ENGINES:
            raise unknown("engine", self.name, ENGINES)
        if self.num_workers is not None and self.num_workers < 1:
            raise FalllineError(f"{self.num_workers} workers cannot train. Expected at least 1. Pass --workers 2.")
        if self.address is not None and self.name != "ray":
            raise FalllineError(
                f"An address ({self.address}) was given for the {self.name} engine, which has none. Expected it with Ray. Add "
                f"--engine ray, or drop --address."
            )

    def make(self, tasks: Mapping[str, Task]) -> Engine:
        """The engine itself, for these tasks."""
        if self.name == "ray":
            from fallline.lab.engines.ray import RayEngine  # Ray is optional

            return RayEngine(tasks, self.num_workers, self.address)
        return LocalEngine(tasks, self.num_workers or DEFAULT_WORKERS)

    def to_text(self) -> str:
        """For the study's folder."""
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str | None) -> EngineChoice:
        """The inverse of ``to_text``; the default without a text."""
        return cls() if text is None else cls(**json.loads(text))

    def __str__(self) -> str:
        if self.name == "ray":
            where = self.address or "a Ray cluster"
            return f"on {where}, {self.num_workers or 'as many as there are CPUs'} at a time"
        return f"{self.num_workers or DEFAULT_WORKERS} at a time"

    def changed(self, name: str | None, num_workers: int | None, address: str | None) -> EngineChoice:
        """With what is given in place of what was; another engine keeps nothing of this one."""
        base = self if name in (None, self.name) else EngineChoice(name or self.name)
        return EngineChoice(base.name, num_workers or base.num_workers, address or base.address)
