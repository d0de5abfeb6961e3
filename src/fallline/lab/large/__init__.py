"""One large run over many processes, started by torchrun: DDP or FSDP2, with checkpoints that any number of processes resumes.

Reading order: ranks (the processes), share (what each computes of a batch), run (the run and its checkpoints).
"""

from fallline.lab.large.ranks import Ranks, joined
from fallline.lab.large.run import LargeRun, Parallel, train_large
from fallline.lab.large.share import shared

__all__ = ["LargeRun", "Parallel", "Ranks", "joined", "shared", "train_large"]
