"""What every optimizer of fallline promises: the numbered list that contracts refer to."""

from __future__ import annotations

__all__ = ["ELSEWHERE", "PROMISES"]

PROMISES: dict[int, str] = {
    1: "The step is a transaction: a non-finite gradient changes nothing, is counted, and raises when it repeats.",
    2: "Gradients of 1e25 and of 1e-30 neither diverge nor freeze the run.",
    3: "Zero gradients from the start move nothing; once gradients vanish movement dies out.",
    4: "bfloat16 parameters make at least 90 % of float32's progress.",
    5: "float16 never turns NaN: arithmetic is in float32.",
    6: "Mixed dtypes in one group equal separate runs.",
    7: "Twenty steps equal an independent float64 reference to 1e-12.",
    8: "The scale, sign and rotation laws that a method claims hold.",
    9: "Resuming is bitwise, in a new process, in float32 and bfloat16.",
    10: "Dtype, shape, device and memory format of state survive step, save and load.",
    11: "Checkpoints load with weights_only=True: tensors and JSON scalars, no pickled objects.",
    12: "Loading copies, checks everything before it changes anything, and names win over positions.",
    13: "A failed load leaves the object as it was; rolling back in the same object works.",
    14: "deepcopy and pickle continue bitwise: nothing lives outside defaults, groups and state.",
    15: "Checkpoints of older schema versions load.",
    16: "Missing, frozen, late and all-missing gradients are no steps.",
    17: "0-dim, one-element and empty tensors step.",
    18: "Complex parameters and sparse gradients work, or are refused by name with parameters untouched.",
    19: "Transposed, strided and channels-last tensors take the same values and keep their strides.",
    20: "A tied parameter steps once; in two groups it is refused.",
    21: "Updates are in place, no graph is kept, gradients and global random state are untouched.",
    22: "One validator for constructor, groups, late groups, loading and hand edits: range and finiteness.",
    23: "Unknown names are refused with the nearest known one, in groups too.",
    24: "A learning rate given as a tensor is obeyed, never mutated.",
    25: "At lr = 0 nothing moves, weight decay included.",
    26: "maximize on g equals minimising on -g, bitwise.",
    27: "Two groups equal two optimizers; a parameter added late is a fresh one.",
    28: "A closure runs once, with gradients on, and its loss is returned.",
    29: "Hooks run once and in order.",
    30: "The step reads nothing back to Python.",
    31: "Every layout equals eager; nothing recompiles when a hyperparameter moves; there are no graph breaks.",
    32: "Steps that GradScaler skips are skipped.",
    33: "Stepping inside backward equals stepping after it.",
    34: "DTensor shards and replicas equal one process, or are refused at construction.",
    35: "State bytes per parameter are as the card says.",
}
"""Number -> the promise in one sentence."""

ELSEWHERE: dict[int, str] = {
    7: "formulae: tests/methods/test_against_torch.py, tests/methods/test_against_papers.py",
    8: "`fallline claims`, tests/methods/test_claims.py",
    15: "not yet: there is one schema version",
    34: "tests/distributed",
}
"""Number -> where a promise is tested that one method alone cannot show."""
