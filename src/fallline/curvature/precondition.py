r"""The curvature that an adaptive optimizer meets: :math:`P^{-1/2} A P^{-1/2}`, with P read from its state.

An update :math:`\theta \leftarrow \theta - \mathrm{lr}\, P^{-1} m` is gradient descent with momentum in the coordinates
:math:`P^{1/2} \theta`; its stability is decided by the largest eigenvalue of :math:`P^{-1} H`, which is that of the symmetric form
(Cohen et al., arXiv:2207.14484).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from fallline.core.errors import InvalidTypeError, InvalidValueError
from fallline.core.optimizer import Optimizer
from fallline.core.oracle import Oracle
from fallline.core.transform import named_steps, step_name
from fallline.core.types import State
from fallline.curvature.operator import Operator

__all__ = ["InverseRoot", "preconditioned", "preconditioner"]

InverseRoot: TypeAlias = Callable[[dict[str, Tensor]], Mapping[str, Tensor]]
"""From named tensors v to P^-1/2 v: symmetric, linear, one vector at a time."""


def preconditioner(optimizer: torch.optim.Optimizer, of: Oracle | nn.Module) -> dict[str, Tensor]:
    r"""The diagonal P that the optimizer divides by as it stands, by parameter name.

    .. math::
        P = \sqrt{\hat v} + \epsilon, \qquad \hat v = v / (1 - b_2^t) \text{ where the method corrects it}

    For Adam, AdamW, their AMSGrad forms, NAdam, AdaBelief, RMSProp and Adagrad, of fallline and, where torch has them, of torch.optim; ones
    for steps that divide by nothing (SGD). A chain with any other step is refused. Coupled weight decay (``add_l2``) changes the
    Hessian, to ``hessian + weight_decay * identity``, not P. The correction of the first moment, :math:`1 / (1 - b_1^t)`, belongs to the momentum and is
    not in P. Tensors that the optimizer does not hold are left out.
    """
    named = of.params if isinstance(of, Oracle) else dict(of.named_parameters())
    names = {id(p): name for name, p in named.items()}
    found: dict[str, Tensor] = {}
    for index, group in enumerate(optimizer.param_groups):
        for p in group["params"]:
            if id(p) in names:
                read = _of_fallline if isinstance(optimizer, Optimizer) else _of_torch
                found[names[id(p)]] = read(optimizer, index, p, names[id(p)])
    if not found:
        raise InvalidValueError(
            f"{type(optimizer).__name__} holds none of the {len(names)} parameters. Expected the optimizer that trains this model. "
            f"Pass the same model to both."
        )
    return {name: found[name] for name in named if name in found}


def preconditioned(
    operator: Operator,
    by: torch.optim.Optimizer | Mapping[str, Tensor] | InverseRoot,
    of: Oracle | nn.Module | None = None,
) -> Operator:
    r""":math:`P^{-1/2} A P^{-1/2}`.

    Args:
        by: the optimizer whose P it is, with ``of`` the model; the diagonal of P as named tensors; or, for any other P
            such as Shampoo's, a function from named tensors v to :math:`P^{-1/2} v`.
        of: the model or its oracle, to find the parameters' names.
    """
    if isinstance(by, torch.optim.Optimizer):
        if of is None:
            raise InvalidTypeError(
                "preconditioned() got an optimizer and no model. Expected the model or its oracle besides, for the parameters' names. "
                "Write preconditioned(operator, optimizer, model)."
            )
        by = preconditioner(optimizer=by, of=of)
    space = operator.domain
    if isinstance(by, Mapping):
        missing = [name for name in space.shapes if name not in by]
        if missing:
            raise InvalidValueError(
                f"The preconditioner lacks {', '.join(map(repr, missing[:5]))}. Expected the diagonal of P for every tensor of the operator. "
                f"Take the block of those that have one: operator.block(*names)."
            )
        root = space.flatten({name: by[name].detach() for name in space.shapes}).rsqrt()
        if not bool(root.isfinite().all()):
            raise InvalidValueError(
                "The preconditioner has entries that are zero, negative or not finite. Expected a positive diagonal. Take a step first, "
                "or a larger eps."
            )
        return Operator(space, lambda v: root * operator.rows(root * v))
    inverse_root: InverseRoot = by

    def turned(vectors: Tensor) -> Tensor:
        return torch.stack([space.flatten(inverse_root(space.unflatten(v))) for v in vectors])

    return Operator(space, lambda v: turned(operator.rows(turned(v))))


def _root(v: Tensor, eps: Any) -> Tensor:
    return v.clamp(min=0).sqrt() + eps


# The step's name in the optimizer's state -> P from its slots at step t; as in its update().
_STEPS: dict[str, Callable[[Any, State, int], Tensor]] = {
    "adam": lambda step, s, t: _root(s["v"] / (1 - step.b2**t), step.eps),
    "amsgrad": lambda step, s, t: _root(s["v_max"] / (1 - step.b2**t), step.eps),
    "nadam": lambda step, s, t: _root(s["v"] / (1 - step.b2**t), step.eps),
    "adabelief": lambda step, s, t: _root(s["s"] / (1 - step.b2**t), step.eps),
    "rms": lambda step, s, t: _root(s["v"] / (1 - step.b2**t) if step.bias_correction else s["v"], step.eps),
    "centred_rms": lambda step, s, t: _root(s["v"] - s["m"].square(), step.eps),
    "adagrad": lambda step, s, t: _root(s["s"], step.eps) * (1 + (t - 1) * step.lr_decay),
}
# Steps that scale all coordinates alike, if at all: momentum, decay and the learning rate, clipping where it clips.
_PLAIN = {"momentum", "add_l2", "decay", "descend", "average", "average_ema", "clip_by_global_norm"}


def _of_fallline(optimizer: Any, index: int, p: Tensor, name: str) -> Tensor:
    steps = named_steps(optimizer.current_chain(index).steps)
    scales = [(key, step) for key, step in steps if key in _STEPS]
    others = [key for key, step in steps if key not in _STEPS and step_name(step) not in _PLAIN]
    if len(scales) > 1 or others:
        seen = ", ".join([*(key for key, _ in scales), *others])
        raise _unknown(f"fallline's {optimizer.chains[index].name} ({seen})")
    t = int(optimizer.state[p]["step"]) if optimizer.state.get(p) else 0
    if not scales:
        return torch.ones_like(p, requires_grad=False)
    _require_steps(t, name)
    key, step = scales[0]
    _, slots = optimizer.decoded(p, key, step)
    return _STEPS[key](step, slots, t)


def _of_torch(optimizer: torch.optim.Optimizer, index: int, p: Tensor, name: str) -> Tensor:
    group, state = optimizer.param_groups[index], optimizer.state.get(p, {})
    kind = next((c.__name__ for c in type(optimizer).__mro__ if c.__module__.startswith("torch.optim")), "")
    if kind == "SGD":
        return torch.ones_like(p, requires_grad=False)
    if kind not in ("Adam", "AdamW", "NAdam", "RMSprop", "Adagrad"):
        raise _unknown(type(optimizer).__name__)
    t = int(state.get("step", 0))
    _require_steps(t, name)
    if kind == "Adagrad":
        return _root(state["sum"], group["eps"]) * (1 + (t - 1) * group["lr_decay"])
    if kind == "RMSprop":
        v = state["square_avg"] - state["grad_avg"].square() if group["centered"] else state["square_avg"]
        return _root(v, group["eps"])
    v = state["max_exp_avg_sq"] if group.get("amsgrad") else state["exp_avg_sq"]
    return _root(v / (1 - float(group["betas"][1]) ** t), group["eps"])


def _require_steps(t: int, name: str) -> None:
    if t < 1:
        raise InvalidValueError(
            f"The optimizer has taken no step with {name!r}, so that there is nothing that it divides by. Expected at least one step. "
            f"Call optimizer.step() first."
        )


def _unknown(what: str) -> InvalidTypeError:
    return InvalidTypeError(
        f"preconditioner() cannot read what {what} divides by. Expected one of {', '.join(_STEPS)} and steps that divide by nothing. "
        f"Pass preconditioned() the diagonal of P, or a function that multiplies by P^-1/2."
    )
