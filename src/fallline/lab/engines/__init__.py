"""Where the runs of a study are trained: in processes of this machine, or on a Ray cluster. The numbers are the same.

Reading order: engine (what an engine must do), queue (what is trained next, and what a loss means), local, ray, choice.
"""

from fallline.lab.engines.choice import ENGINES, EngineChoice
from fallline.lab.engines.engine import Engine, Group, Reply
from fallline.lab.engines.local import LocalEngine
from fallline.lab.engines.queue import RunFailed, RunQueue

__all__ = ["ENGINES", "Engine", "EngineChoice", "Group", "LocalEngine", "Reply", "RunFailed", "RunQueue"]
