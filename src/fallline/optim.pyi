# Written by `make docs` from the registry.
from typing import Any, ClassVar

from fallline.core.execute import Fuse
from fallline.core.guard import Policy
from fallline.core.method import Method
from fallline.core.optimizer import Alias, Optimizer
from fallline.core.storage import Rounding
from fallline.core.types import Hyper

def aliases_of(entry: Method) -> dict[str, Alias]: ...

class DropIn(Optimizer):
    method: ClassVar[Method]
    def torch_state_dict(self) -> dict[str, Any]: ...

class AMSGrad(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        betas: tuple[Hyper, Hyper] = ...,
        eps: Hyper = ...,
        weight_decay: Hyper = ...,
        *,
        maximize: bool = ...,
        fuse: Fuse = ...,
        nonfinite: Policy = ...,
        patience: int = ...,
        state_format: str = ...,
        rounding: Rounding = ...,
        seed: int = ...,
    ) -> None: ...

class AdaBelief(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        betas: tuple[Hyper, Hyper] = ...,
        eps: Hyper = ...,
        weight_decay: Hyper = ...,
        *,
        maximize: bool = ...,
        fuse: Fuse = ...,
        nonfinite: Policy = ...,
        patience: int = ...,
        state_format: str = ...,
        rounding: Rounding = ...,
        seed: int = ...,
    ) -> None: ...

class Adadelta(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        rho: Hyper = ...,
        eps: Hyper = ...,
        weight_decay: Hyper = ...,
        *,
        maximize: bool = ...,
        fuse: Fuse = ...,
        nonfinite: Policy = ...,
        patience: int = ...,
        state_format: str = ...,
        rounding: Rounding = ...,
        seed: int = ...,
    ) -> None: ...

class Adagrad(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        lr_decay: Hyper = ...,
        weight_decay: Hyper = ...,
        initial_accumulator_value: float = ...,
        eps: Hyper = ...,
        *,
        maximize: bool = ...,
        fuse: Fuse = ...,
        nonfinite: Policy = ...,
        patience: int = ...,
        state_format: str = ...,
        rounding: Rounding = ...,
        seed: int = ...,
    ) -> None: ...

class Adam(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        betas: tuple[Hyper, Hyper] = ...,
        eps: Hyper = ...,
        weight_decay: Hyper = ...,
        amsgrad: bool = ...,
        decoupled_weight_decay: bool = ...,
        *,
        maximize: bool = ...,
        fuse: Fuse = ...,
        nonfinite: Policy = ...,
        patience: int = ...,
        state_format: str = ...,
        rounding: Rounding = ...,
        seed: int = ...,
    ) -> None: ...

class AdamW(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        betas: tuple[Hyper, Hyper] = ...,
        eps: Hyper = ...,
        weight_decay: Hyper = ...,
        amsgrad: bool = ...,
        *,
        maximize: bool = ...,
        fuse: Fuse = ...,
        nonfinite: Policy = ...,
        patience: int = ...,
        state_format: str = ...,
        rounding: Rounding = ...,
        seed: int = ...,
    ) -> None: ...

class Adamax(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        betas: tuple[Hyper, Hyper] = ...,
        eps: Hyper = ...,
        weight_decay: Hyper = ...,
        *,
        maximize: bool = ...,
        fuse: Fuse = ...,
        nonfinite: Policy = ...,
        patience: int = ...,
        state_format: str = ...,
        rounding: Rounding = ...,
        seed: int = ...,
    ) -> None: ...

class LAMB(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        betas: tuple[Hyper, Hyper] = ...,
        eps: Hyper = ...,
        weight_decay: Hyper = ...,
        *,
        maximize: bool = ...,
        fuse: Fuse = ...,
        nonfinite: Policy = ...,
        patience: int = ...,
        state_format: str = ...,
        rounding: Rounding = ...,
        seed: int = ...,
    ) -> None: ...

class LARS(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        momentum: Hyper = ...,
        weight_decay: Hyper = ...,
        trust_coefficient: Hyper = ...,
        *,
        maximize: bool = ...,
        fuse: Fuse = ...,
        nonfinite: Policy = ...,
        patience: int = ...,
        state_format: str = ...,
        rounding: Rounding = ...,
        seed: int = ...,
    ) -> None: ...

class Lion(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        betas: tuple[Hyper, Hyper] = ...,
        weight_decay: Hyper = ...,
        *,
        maximize: bool = ...,
        fuse: Fuse = ...,
        nonfinite: Policy = ...,
        patience: int = ...,
        state_format: str = ...,
        rounding: Rounding = ...,
        seed: int = ...,
    ) -> None: ...

class NAdam(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        betas: tuple[Hyper, Hyper] = ...,
        eps: Hyper = ...,
        weight_decay: Hyper = ...,
        momentum_decay: Hyper = ...,
        decoupled_weight_decay: bool = ...,
        *,
        maximize: bool = ...,
        fuse: Fuse = ...,
        nonfinite: Policy = ...,
        patience: int = ...,
        state_format: str = ...,
        rounding: Rounding = ...,
        seed: int = ...,
    ) -> None: ...

class Nesterov(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        momentum: Hyper = ...,
        weight_decay: Hyper = ...,
        *,
        maximize: bool = ...,
        fuse: Fuse = ...,
        nonfinite: Policy = ...,
        patience: int = ...,
        state_format: str = ...,
        rounding: Rounding = ...,
        seed: int = ...,
    ) -> None: ...

class RAdam(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        betas: tuple[Hyper, Hyper] = ...,
        eps: Hyper = ...,
        weight_decay: Hyper = ...,
        decoupled_weight_decay: bool = ...,
        variant: str = ...,
        *,
        maximize: bool = ...,
        fuse: Fuse = ...,
        nonfinite: Policy = ...,
        patience: int = ...,
        state_format: str = ...,
        rounding: Rounding = ...,
        seed: int = ...,
    ) -> None: ...

class RMSprop(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        alpha: Hyper = ...,
        eps: Hyper = ...,
        weight_decay: Hyper = ...,
        momentum: Hyper = ...,
        centered: bool = ...,
        *,
        maximize: bool = ...,
        fuse: Fuse = ...,
        nonfinite: Policy = ...,
        patience: int = ...,
        state_format: str = ...,
        rounding: Rounding = ...,
        seed: int = ...,
    ) -> None: ...

class Rprop(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        etas: tuple[Hyper, Hyper] = ...,
        step_sizes: tuple[Hyper, Hyper] = ...,
        *,
        maximize: bool = ...,
        fuse: Fuse = ...,
        nonfinite: Policy = ...,
        patience: int = ...,
        state_format: str = ...,
        rounding: Rounding = ...,
        seed: int = ...,
    ) -> None: ...

class SGD(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        momentum: Hyper = ...,
        dampening: Hyper = ...,
        weight_decay: Hyper = ...,
        nesterov: bool = ...,
        *,
        maximize: bool = ...,
        fuse: Fuse = ...,
        nonfinite: Policy = ...,
        patience: int = ...,
        state_format: str = ...,
        rounding: Rounding = ...,
        seed: int = ...,
    ) -> None: ...
