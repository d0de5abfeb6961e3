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

class ACClip(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        betas: tuple[Hyper, Hyper] = ...,
        eps: Hyper = ...,
        alpha: Hyper = ...,
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

class ADOPT(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        betas: tuple[Hyper, Hyper] = ...,
        eps: Hyper = ...,
        weight_decay: Hyper = ...,
        clipped: bool = ...,
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

class ALRHB(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        momentum: Hyper = ...,
        c: Hyper = ...,
        f_star: Hyper = ...,
        *,
        maximize: bool = ...,
        fuse: Fuse = ...,
        nonfinite: Policy = ...,
        patience: int = ...,
        state_format: str = ...,
        rounding: Rounding = ...,
        seed: int = ...,
    ) -> None: ...

class ALRSMAG(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        momentum: Hyper = ...,
        c: Hyper = ...,
        f_star: Hyper = ...,
        *,
        maximize: bool = ...,
        fuse: Fuse = ...,
        nonfinite: Policy = ...,
        patience: int = ...,
        state_format: str = ...,
        rounding: Rounding = ...,
        seed: int = ...,
    ) -> None: ...

class AMSBound(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        betas: tuple[Hyper, Hyper] = ...,
        eps: Hyper = ...,
        weight_decay: Hyper = ...,
        final_ratio: Hyper = ...,
        gamma: Hyper = ...,
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

class AdEMAMix(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        betas: tuple[Hyper, Hyper, Hyper] = ...,
        alpha: Hyper = ...,
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

class AdGD(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        weight_decay: Hyper = ...,
        initial_step: float = ...,
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

class AdaBound(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        betas: tuple[Hyper, Hyper] = ...,
        eps: Hyper = ...,
        weight_decay: Hyper = ...,
        final_ratio: Hyper = ...,
        gamma: Hyper = ...,
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

class AdaGradNorm(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        b0: Hyper = ...,
        *,
        maximize: bool = ...,
        fuse: Fuse = ...,
        nonfinite: Policy = ...,
        patience: int = ...,
        state_format: str = ...,
        rounding: Rounding = ...,
        seed: int = ...,
    ) -> None: ...

class AdaHessian(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        betas: tuple[Hyper, Hyper] = ...,
        eps: Hyper = ...,
        weight_decay: Hyper = ...,
        power: Hyper = ...,
        *,
        maximize: bool = ...,
        fuse: Fuse = ...,
        nonfinite: Policy = ...,
        patience: int = ...,
        state_format: str = ...,
        rounding: Rounding = ...,
        seed: int = ...,
    ) -> None: ...

class AdaMomentum(DropIn):
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

class AdaOASIS(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        b2: Hyper = ...,
        alpha: Hyper = ...,
        weight_decay: Hyper = ...,
        initial_step: float = ...,
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

class Adafactor(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        decay_rate: Hyper = ...,
        eps1: Hyper = ...,
        eps2: Hyper = ...,
        max_rms: Hyper = ...,
        weight_decay: Hyper = ...,
        relative_step: bool = ...,
        decay_type: str = ...,
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

class AdamMini(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        betas: tuple[Hyper, Hyper] = ...,
        eps: Hyper = ...,
        weight_decay: Hyper = ...,
        num_heads: int = ...,
        *,
        maximize: bool = ...,
        fuse: Fuse = ...,
        nonfinite: Policy = ...,
        patience: int = ...,
        state_format: str = ...,
        rounding: Rounding = ...,
        seed: int = ...,
    ) -> None: ...

class AdamP(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        betas: tuple[Hyper, Hyper] = ...,
        eps: Hyper = ...,
        weight_decay: Hyper = ...,
        delta: Hyper = ...,
        wd_ratio: Hyper = ...,
        *,
        maximize: bool = ...,
        fuse: Fuse = ...,
        nonfinite: Policy = ...,
        patience: int = ...,
        state_format: str = ...,
        rounding: Rounding = ...,
        seed: int = ...,
    ) -> None: ...

class AdamS(DropIn):
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

class AdamSN(DropIn):
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

class AdamSNSM(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        betas: tuple[Hyper, Hyper] = ...,
        eps: Hyper = ...,
        weight_decay: Hyper = ...,
        density: float = ...,
        gap: int = ...,
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

class Adan(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        betas: tuple[Hyper, Hyper, Hyper] = ...,
        eps: Hyper = ...,
        weight_decay: Hyper = ...,
        proximal: bool = ...,
        *,
        maximize: bool = ...,
        fuse: Fuse = ...,
        nonfinite: Policy = ...,
        patience: int = ...,
        state_format: str = ...,
        rounding: Rounding = ...,
        seed: int = ...,
    ) -> None: ...

class AdaptiveBraking(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        momentum: Hyper = ...,
        rho: Hyper = ...,
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

class ArmijoSGD(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        c: Hyper = ...,
        shrink: Hyper = ...,
        growth: Hyper = ...,
        most: int = ...,
        *,
        maximize: bool = ...,
        fuse: Fuse = ...,
        nonfinite: Policy = ...,
        patience: int = ...,
        state_format: str = ...,
        rounding: Rounding = ...,
        seed: int = ...,
    ) -> None: ...

class AveragedSGD(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        gamma: Hyper = ...,
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

class DAdaptAdam(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        betas: tuple[Hyper, Hyper] = ...,
        eps: Hyper = ...,
        weight_decay: Hyper = ...,
        d0: float = ...,
        *,
        maximize: bool = ...,
        fuse: Fuse = ...,
        nonfinite: Policy = ...,
        patience: int = ...,
        state_format: str = ...,
        rounding: Rounding = ...,
        seed: int = ...,
    ) -> None: ...

class DAdaptSGD(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        momentum: Hyper = ...,
        weight_decay: Hyper = ...,
        d0: float = ...,
        *,
        maximize: bool = ...,
        fuse: Fuse = ...,
        nonfinite: Policy = ...,
        patience: int = ...,
        state_format: str = ...,
        rounding: Rounding = ...,
        seed: int = ...,
    ) -> None: ...

class DiffGrad(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        betas: tuple[Hyper, Hyper] = ...,
        eps: Hyper = ...,
        weight_decay: Hyper = ...,
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

class DoG(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        reps_rel: Hyper = ...,
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

class EFSignSGD(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
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

class EntropySGD(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        gamma: Hyper = ...,
        outer: Hyper = ...,
        b1: Hyper = ...,
        eps: Hyper = ...,
        weight_decay: Hyper = ...,
        num_inner: int = ...,
        *,
        maximize: bool = ...,
        fuse: Fuse = ...,
        nonfinite: Policy = ...,
        patience: int = ...,
        state_format: str = ...,
        rounding: Rounding = ...,
        seed: int = ...,
    ) -> None: ...

class Extragradient(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        ahead: Hyper = ...,
        *,
        maximize: bool = ...,
        fuse: Fuse = ...,
        nonfinite: Policy = ...,
        patience: int = ...,
        state_format: str = ...,
        rounding: Rounding = ...,
        seed: int = ...,
    ) -> None: ...

class FAdam(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        betas: tuple[Hyper, Hyper] = ...,
        eps: Hyper = ...,
        eps2: Hyper = ...,
        weight_decay: Hyper = ...,
        max_rms: Hyper = ...,
        *,
        maximize: bool = ...,
        fuse: Fuse = ...,
        nonfinite: Policy = ...,
        patience: int = ...,
        state_format: str = ...,
        rounding: Rounding = ...,
        seed: int = ...,
    ) -> None: ...

class FRUGAL(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        betas: tuple[Hyper, Hyper] = ...,
        eps: Hyper = ...,
        weight_decay: Hyper = ...,
        density: float = ...,
        gap: int = ...,
        *,
        maximize: bool = ...,
        fuse: Fuse = ...,
        nonfinite: Policy = ...,
        patience: int = ...,
        state_format: str = ...,
        rounding: Rounding = ...,
        seed: int = ...,
    ) -> None: ...

class GaLore(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        betas: tuple[Hyper, Hyper] = ...,
        scale: Hyper = ...,
        weight_decay: Hyper = ...,
        density: float = ...,
        gap: int = ...,
        *,
        maximize: bool = ...,
        fuse: Fuse = ...,
        nonfinite: Policy = ...,
        patience: int = ...,
        state_format: str = ...,
        rounding: Rounding = ...,
        seed: int = ...,
    ) -> None: ...

class Grams(DropIn):
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

class Gravity(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        b1: Hyper = ...,
        *,
        maximize: bool = ...,
        fuse: Fuse = ...,
        nonfinite: Policy = ...,
        patience: int = ...,
        state_format: str = ...,
        rounding: Rounding = ...,
        seed: int = ...,
    ) -> None: ...

class HeavyBall(DropIn):
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

class LDoG(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        reps_rel: Hyper = ...,
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

class LionK(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        betas: tuple[Hyper, Hyper] = ...,
        weight_decay: Hyper = ...,
        e: Hyper = ...,
        k: str = ...,
        *,
        maximize: bool = ...,
        fuse: Fuse = ...,
        nonfinite: Policy = ...,
        patience: int = ...,
        state_format: str = ...,
        rounding: Rounding = ...,
        seed: int = ...,
    ) -> None: ...

class Lookahead(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        momentum: Hyper = ...,
        alpha: Hyper = ...,
        weight_decay: Hyper = ...,
        k: int = ...,
        *,
        maximize: bool = ...,
        fuse: Fuse = ...,
        nonfinite: Policy = ...,
        patience: int = ...,
        state_format: str = ...,
        rounding: Rounding = ...,
        seed: int = ...,
    ) -> None: ...

class MADGRAD(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        momentum: Hyper = ...,
        weight_decay: Hyper = ...,
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

class MARSAdamW(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        betas: tuple[Hyper, Hyper] = ...,
        eps: Hyper = ...,
        weight_decay: Hyper = ...,
        gamma: Hyper = ...,
        exact: bool = ...,
        *,
        maximize: bool = ...,
        fuse: Fuse = ...,
        nonfinite: Policy = ...,
        patience: int = ...,
        state_format: str = ...,
        rounding: Rounding = ...,
        seed: int = ...,
    ) -> None: ...

class MARSLion(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        b1: Hyper = ...,
        weight_decay: Hyper = ...,
        gamma: Hyper = ...,
        exact: bool = ...,
        *,
        maximize: bool = ...,
        fuse: Fuse = ...,
        nonfinite: Policy = ...,
        patience: int = ...,
        state_format: str = ...,
        rounding: Rounding = ...,
        seed: int = ...,
    ) -> None: ...

class MARSShampoo(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        b1: Hyper = ...,
        weight_decay: Hyper = ...,
        gamma: Hyper = ...,
        exact: bool = ...,
        scale: str = ...,
        *,
        maximize: bool = ...,
        fuse: Fuse = ...,
        nonfinite: Policy = ...,
        patience: int = ...,
        state_format: str = ...,
        rounding: Rounding = ...,
        seed: int = ...,
    ) -> None: ...

class MoMo(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        momentum: Hyper = ...,
        weight_decay: Hyper = ...,
        f_star: Hyper = ...,
        *,
        maximize: bool = ...,
        fuse: Fuse = ...,
        nonfinite: Policy = ...,
        patience: int = ...,
        state_format: str = ...,
        rounding: Rounding = ...,
        seed: int = ...,
    ) -> None: ...

class MoMoAdam(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        betas: tuple[Hyper, Hyper] = ...,
        eps: Hyper = ...,
        weight_decay: Hyper = ...,
        f_star: Hyper = ...,
        *,
        maximize: bool = ...,
        fuse: Fuse = ...,
        nonfinite: Policy = ...,
        patience: int = ...,
        state_format: str = ...,
        rounding: Rounding = ...,
        seed: int = ...,
    ) -> None: ...

class Muon(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        momentum: Hyper = ...,
        b2: Hyper = ...,
        weight_decay: Hyper = ...,
        scale: str = ...,
        num_iterations: int = ...,
        precision: str = ...,
        vectors: str = ...,
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

class NoisySGD(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        momentum: Hyper = ...,
        eta: Hyper = ...,
        gamma: Hyper = ...,
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

class NormalisedGD(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        exponent: Hyper = ...,
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

class NovoGrad(DropIn):
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

class O2NC(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        radius: Hyper = ...,
        every: int = ...,
        step_seed: int = ...,
        *,
        maximize: bool = ...,
        fuse: Fuse = ...,
        nonfinite: Policy = ...,
        patience: int = ...,
        state_format: str = ...,
        rounding: Rounding = ...,
        seed: int = ...,
    ) -> None: ...

class OASIS(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        b2: Hyper = ...,
        alpha: Hyper = ...,
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

class OptAMSGrad(DropIn):
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

class OptimisticGradient(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        optimism: Hyper = ...,
        *,
        maximize: bool = ...,
        fuse: Fuse = ...,
        nonfinite: Policy = ...,
        patience: int = ...,
        state_format: str = ...,
        rounding: Rounding = ...,
        seed: int = ...,
    ) -> None: ...

class PSGD(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        b1: Hyper = ...,
        rho: Hyper = ...,
        eps: Hyper = ...,
        weight_decay: Hyper = ...,
        every: int = ...,
        block: int = ...,
        sides: str = ...,
        *,
        maximize: bool = ...,
        fuse: Fuse = ...,
        nonfinite: Policy = ...,
        patience: int = ...,
        state_format: str = ...,
        rounding: Rounding = ...,
        seed: int = ...,
    ) -> None: ...

class PSPS(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        c: Hyper = ...,
        f_star: Hyper = ...,
        b2: Hyper = ...,
        eps: Hyper = ...,
        preconditioner: str = ...,
        *,
        maximize: bool = ...,
        fuse: Fuse = ...,
        nonfinite: Policy = ...,
        patience: int = ...,
        state_format: str = ...,
        rounding: Rounding = ...,
        seed: int = ...,
    ) -> None: ...

class Prodigy(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        betas: tuple[Hyper, Hyper] = ...,
        eps: Hyper = ...,
        weight_decay: Hyper = ...,
        d0: float = ...,
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

class RandomScalingSGDM(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        momentum: Hyper = ...,
        weight_decay: Hyper = ...,
        step_seed: int = ...,
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

class SAGA(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        num_batches: int = ...,
        *,
        maximize: bool = ...,
        fuse: Fuse = ...,
        nonfinite: Policy = ...,
        patience: int = ...,
        state_format: str = ...,
        rounding: Rounding = ...,
        seed: int = ...,
    ) -> None: ...

class SARAH(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        every: int = ...,
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

class SGDP(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        momentum: Hyper = ...,
        weight_decay: Hyper = ...,
        delta: Hyper = ...,
        wd_ratio: Hyper = ...,
        eps: Hyper = ...,
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

class SGDSaI(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        momentum: Hyper = ...,
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

class SGDW(DropIn):
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

class SMB(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        eta: Hyper = ...,
        c: Hyper = ...,
        *,
        maximize: bool = ...,
        fuse: Fuse = ...,
        nonfinite: Policy = ...,
        patience: int = ...,
        state_format: str = ...,
        rounding: Rounding = ...,
        seed: int = ...,
    ) -> None: ...

class SOAP(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        betas: tuple[Hyper, Hyper] = ...,
        eps: Hyper = ...,
        weight_decay: Hyper = ...,
        every: int = ...,
        block: int = ...,
        sides: str = ...,
        spread: bool = ...,
        *,
        maximize: bool = ...,
        fuse: Fuse = ...,
        nonfinite: Policy = ...,
        patience: int = ...,
        state_format: str = ...,
        rounding: Rounding = ...,
        seed: int = ...,
    ) -> None: ...

class SPIDER(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        exponent: Hyper = ...,
        every: int = ...,
        *,
        maximize: bool = ...,
        fuse: Fuse = ...,
        nonfinite: Policy = ...,
        patience: int = ...,
        state_format: str = ...,
        rounding: Rounding = ...,
        seed: int = ...,
    ) -> None: ...

class SPS(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        c: Hyper = ...,
        f_star: Hyper = ...,
        *,
        maximize: bool = ...,
        fuse: Fuse = ...,
        nonfinite: Policy = ...,
        patience: int = ...,
        state_format: str = ...,
        rounding: Rounding = ...,
        seed: int = ...,
    ) -> None: ...

class STEP(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        betas: tuple[Hyper, Hyper] = ...,
        eps: Hyper = ...,
        weight_decay: Hyper = ...,
        freeze_at: int = ...,
        *,
        maximize: bool = ...,
        fuse: Fuse = ...,
        nonfinite: Policy = ...,
        patience: int = ...,
        state_format: str = ...,
        rounding: Rounding = ...,
        seed: int = ...,
    ) -> None: ...

class STORM(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        w: Hyper = ...,
        c: Hyper = ...,
        *,
        maximize: bool = ...,
        fuse: Fuse = ...,
        nonfinite: Policy = ...,
        patience: int = ...,
        state_format: str = ...,
        rounding: Rounding = ...,
        seed: int = ...,
    ) -> None: ...

class SVRG(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        every: int = ...,
        *,
        maximize: bool = ...,
        fuse: Fuse = ...,
        nonfinite: Policy = ...,
        patience: int = ...,
        state_format: str = ...,
        rounding: Rounding = ...,
        seed: int = ...,
    ) -> None: ...

class SWA(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        momentum: Hyper = ...,
        weight_decay: Hyper = ...,
        start: int = ...,
        every: int = ...,
        *,
        maximize: bool = ...,
        fuse: Fuse = ...,
        nonfinite: Policy = ...,
        patience: int = ...,
        state_format: str = ...,
        rounding: Rounding = ...,
        seed: int = ...,
    ) -> None: ...

class SWATS(DropIn):
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

class ScheduleFreeAdamW(DropIn):
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

class ScheduleFreeSGD(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        b1: Hyper = ...,
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

class Shampoo(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        betas: tuple[Hyper, Hyper] = ...,
        eps: Hyper = ...,
        weight_decay: Hyper = ...,
        graft: str = ...,
        every: int = ...,
        block: int = ...,
        sides: str = ...,
        solver: str = ...,
        spread: bool = ...,
        *,
        maximize: bool = ...,
        fuse: Fuse = ...,
        nonfinite: Policy = ...,
        patience: int = ...,
        state_format: str = ...,
        rounding: Rounding = ...,
        seed: int = ...,
    ) -> None: ...

class SignSGD(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
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

class Signum(DropIn):
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

class SophiaH(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        betas: tuple[Hyper, Hyper] = ...,
        eps: Hyper = ...,
        weight_decay: Hyper = ...,
        gamma: Hyper = ...,
        every: int = ...,
        *,
        maximize: bool = ...,
        fuse: Fuse = ...,
        nonfinite: Policy = ...,
        patience: int = ...,
        state_format: str = ...,
        rounding: Rounding = ...,
        seed: int = ...,
    ) -> None: ...

class SteepestDescent(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        weight_decay: Hyper = ...,
        norm: str = ...,
        scaled: bool = ...,
        *,
        maximize: bool = ...,
        fuse: Fuse = ...,
        nonfinite: Policy = ...,
        patience: int = ...,
        state_format: str = ...,
        rounding: Rounding = ...,
        seed: int = ...,
    ) -> None: ...

class TruncatedModel(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        f_star: Hyper = ...,
        *,
        maximize: bool = ...,
        fuse: Fuse = ...,
        nonfinite: Policy = ...,
        patience: int = ...,
        state_format: str = ...,
        rounding: Rounding = ...,
        seed: int = ...,
    ) -> None: ...

class VRGD(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        floor: Hyper = ...,
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

class XGrad(DropIn):
    def __init__(
        self,
        params: Any,
        lr: Hyper = ...,
        betas: tuple[Hyper, Hyper] = ...,
        eps: Hyper = ...,
        weight_decay: Hyper = ...,
        s: Hyper = ...,
        *,
        maximize: bool = ...,
        fuse: Fuse = ...,
        nonfinite: Policy = ...,
        patience: int = ...,
        state_format: str = ...,
        rounding: Rounding = ...,
        seed: int = ...,
    ) -> None: ...
