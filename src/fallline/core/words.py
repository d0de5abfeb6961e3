"""Words: what every operation of a trace is in C++. A trace with an operation that is not here runs another way."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, fx

from fallline.core.loops import (
    C_TYPES,
    CALL,
    CPU,
    ELEMENT,
    ROUND,
    Dialect,
    Emitter,
    NotExpressible,
    Reduction,
    Rule,
    Stage,
    Value,
    dtype_of,
    operand,
)

__all__ = ["emit"]


def emit(
    graph: fx.GraphModule,
    arrays: Mapping[str, Tensor],
    num_numbers: int,
    totals: bool = False,
    dialect: Dialect = CPU,
) -> Any:
    """The program, in a dialect, of a graph whose inputs are ``arrays`` (1-d, or 0-d: one number for each tensor), then numbers
    in float64.

    Its output is a dict of arrays by name, written in place; or, with ``totals``, a 0-d or 1-d tensor, to be summed over all
    tensors.

    Raises:
        NotExpressible: for an operation, type or shape that is not among those that loops are made of.
    """
    return dialect.write(Emitter(graph, arrays, num_numbers, totals, RULES, dialect.place))


def _common(emitter: Emitter, x: Any, y: Any = None) -> torch.dtype:
    """The type in which two operands are compared."""
    samples = [_sample(emitter, v) if isinstance(v, fx.Node) else v for v in (x, x if y is None else y)]
    return torch.result_type(*samples)


def _sample(emitter: Emitter, node: fx.Node) -> Tensor:
    value = node.meta.get("val")
    dims = value.dim() if isinstance(value, Tensor) else 0
    return torch.empty((1,) * dims, dtype=emitter.values[node].dtype)


def _elementwise(template: str, kind: str = "result") -> Rule:
    """Operands in the type of the result, or, to compare them, in their common one; ``template`` names them x, y, z."""

    def rule(emitter: Emitter, node: fx.Node) -> None:
        operands = [a for a in node.args if a is not None]
        dtype = dtype_of(node) if kind == "result" else _common(emitter, *operands)
        if dtype not in C_TYPES:
            raise NotExpressible(f"{node.target} of {dtype}")
        work = torch.float32 if dtype in ROUND else dtype

        def text(stage: Stage) -> str:
            shown = dict(zip("xyz", (operand(stage, a, work) for a in operands), strict=False))
            return template.format(**shown)

        emitter.define(node, operands, text)

    return rule


def _scaled_sum(sign: str) -> Rule:
    def rule(emitter: Emitter, node: fx.Node) -> None:
        x, y = cast(Any, node.args[:2])
        alpha = node.kwargs.get("alpha", node.args[2] if len(node.args) > 2 else 1)
        dtype = dtype_of(node)

        def text(stage: Stage) -> str:
            second = operand(stage, y, dtype)
            scaled = second if alpha == 1 else f"{operand(stage, alpha, dtype)} * {second}"
            return f"{operand(stage, x, dtype)} {sign} {scaled}"

        emitter.define(node, [x, y, alpha], text)

    return rule


def _divide(emitter: Emitter, node: fx.Node) -> None:
    x, y = cast(Any, node.args[:2])
    dtype = dtype_of(node)
    mode = cast("str | None", node.kwargs.get("rounding_mode"))
    divisor = emitter.values[y] if isinstance(y, fx.Node) else None
    single = (
        divisor is not None
        and divisor.level != ELEMENT
        and isinstance(x, fx.Node)
        and emitter.values[x].level == ELEMENT
    )

    def text(stage: Stage) -> str:
        first = operand(stage, x, dtype)
        if single and mode is None:  # times the inverse, which is taken once
            key = ("inverse", y, dtype)
            if key not in stage.names:
                stage.names[key] = f"inverse{emitter.number(y)}"
                wide = stage.cast(y, torch.float64)
                stage.before.append(f"const {C_TYPES[dtype]} {stage.names[key]} = ({C_TYPES[dtype]})(1.0 / {wide});")
            return f"{first} * {stage.names[key]}"
        second = operand(stage, y, dtype)
        if mode == "floor":
            return f"floor_quotient({first}, {second})"
        return f"trunc_({first} / {second})" if mode == "trunc" else f"{first} / {second}"

    if not dtype.is_floating_point:
        raise NotExpressible(f"{node.target} of {dtype}")
    emitter.define(node, [x, y], text)


def _lerp(emitter: Emitter, node: fx.Node) -> None:
    x, y, weight = cast(Any, node.args[:3])
    dtype = dtype_of(node)
    levels = [emitter.values[a].level if isinstance(a, fx.Node) else CALL for a in (x, y, weight)]
    single = ELEMENT in levels[:2] and levels[2] != ELEMENT

    def text(stage: Stage) -> str:
        first, second = operand(stage, x, dtype), operand(stage, y, dtype)
        if not single:
            w = operand(stage, weight, dtype)
            return f"({w} < 0.5f ? {first} + {w} * ({second} - {first}) : {second} - ({second} - {first}) * (1 - {w}))"
        # both weights are taken once; torch's own form chooses between two formulae at every element
        key = ("weights", weight, dtype)
        if key not in stage.names:
            stage.names[key] = f"weight{len(stage.names)}"
            wide = operand(stage, weight, torch.float64)
            t = C_TYPES[dtype]
            stage.before.append(
                f"const {t} {stage.names[key]} = ({t}){wide}, {stage.names[key]}_kept = ({t})(1.0 - {wide});"
            )
        name = stage.names[key]
        return f"{first} * {name}_kept + {second} * {name}"

    emitter.define(node, [x, y, weight], text)


def _power(emitter: Emitter, node: fx.Node) -> None:
    x, y = cast(Any, node.args[:2])
    dtype = dtype_of(node)
    if not dtype.is_floating_point:
        raise NotExpressible(f"{node.target} of {dtype}")
    short = {
        2: "{x} * {x}",
        3: "{x} * {x} * {x}",
        1: "{x}",
        0.5: "sqrt_({x})",
        -1: "1 / {x}",
        -0.5: "1 / sqrt_({x})",
        0: "1",
    }

    def text(stage: Stage) -> str:
        base = operand(stage, x, dtype)
        if not isinstance(y, fx.Node) and y in short:
            return short[y].format(x=base)
        return f"pow_({base}, {operand(stage, y, dtype)})"

    emitter.define(node, [x, y], text)


def _where(emitter: Emitter, node: fx.Node) -> None:
    flag, x, y = node.args
    dtype = dtype_of(node)

    def text(stage: Stage) -> str:
        return f"({stage.cast(flag, torch.bool)} ? {operand(stage, x, dtype)} : {operand(stage, y, dtype)})"  # type: ignore[arg-type]

    emitter.define(node, [flag, x, y], text)


def _clamp(emitter: Emitter, node: fx.Node) -> None:
    x = node.args[0]
    low = node.args[1] if len(node.args) > 1 else node.kwargs.get("min")
    high = node.args[2] if len(node.args) > 2 else node.kwargs.get("max")
    dtype = dtype_of(node)

    def text(stage: Stage) -> str:
        shown = operand(stage, x, dtype)
        if low is not None:
            shown = f"larger({shown}, {operand(stage, low, dtype)})"
        return shown if high is None else f"smaller({shown}, {operand(stage, high, dtype)})"

    emitter.define(node, [x, low, high], text)


def _same(emitter: Emitter, node: fx.Node) -> None:
    """What changes neither value nor order: copies, conversions, views."""
    x = node.args[0]
    dtype = dtype_of(node)
    assert isinstance(x, fx.Node)
    if emitter.values[x].dtype is torch.bool and dtype is not torch.bool:
        emitter.define(node, [x], lambda s: f"({C_TYPES[dtype]})({s.name(x)})")
        return
    emitter.define(node, [x], lambda s: s.cast(x, dtype) if dtype is not torch.bool else f"({s.name(x)} != 0)")


def _bits(emitter: Emitter, node: fx.Node) -> None:
    """The same bits, read as another type of the same size."""
    x, dtype = node.args[0], dtype_of(node)
    assert isinstance(x, fx.Node)
    have = emitter.values[x].dtype
    if have.itemsize != dtype.itemsize or {have, dtype} & set(ROUND):
        raise NotExpressible(f"{node.target} from {have} to {dtype}")
    emitter.define(node, [x], lambda s: f"bits_as<{C_TYPES[dtype]}>({s.name(x)})")


def _places(emitter: Emitter, node: fx.Node) -> None:
    """Counting from zero: an element's place in its tensor."""
    value = node.meta["val"]
    if (
        node.args[0] != 0
        or (len(node.args) > 2 and node.args[2] != 1)
        or not isinstance(node.args[1], fx.Node)
        or value.dim() != 1
    ):
        raise NotExpressible(str(node.target))
    emitter.values[node] = Value(ELEMENT, 0, torch.int64, lambda _: "begin + i")


def _constant(value: Callable[[fx.Node], Any]) -> Rule:
    def rule(emitter: Emitter, node: fx.Node) -> None:
        found, dtype = value(node), dtype_of(node)
        emitter.define(node, [found], lambda s: operand(s, found, dtype))

    return rule


def _reduction(kind: str, finish: str = "{x}") -> Rule:
    def rule(emitter: Emitter, node: fx.Node) -> None:
        x = node.args[0]
        assert isinstance(x, fx.Node)
        _require_all(node)
        dtype = emitter.values[x].dtype if kind == "any" else dtype_of(node)
        if emitter.values[x].level == CALL:
            raise NotExpressible(f"{node.target} of a constant")
        if kind == "any":
            place = emitter.reduce(
                node, kind, torch.bool, x, lambda s: s.name(x) if dtype is torch.bool else f"({s.name(x)} != 0)"
            )
            emitter.reduced(node, place, lambda f: f"{f} != 0", torch.bool)
            return
        place = emitter.reduce(node, kind, dtype, x, lambda s: s.cast(x, dtype))
        emitter.reduced(node, place, lambda f: finish.format(x=f))

    return rule


def _norm(emitter: Emitter, node: fx.Node) -> None:
    x = node.args[0]
    assert isinstance(x, fx.Node)
    order = node.args[1] if len(node.args) > 1 else 2
    _require_all(node, dims=2)
    dtype = dtype_of(node)
    kinds = {
        2: ("sum", "{x} * {x}", "sqrt_({f})"),
        1: ("sum", "fabs_({x})", "{f}"),
        math.inf: ("amax", "fabs_({x})", "{f}"),
    }
    if order not in kinds:
        raise NotExpressible(f"a norm of order {order}")
    kind, inner, outer = kinds[order]  # type: ignore[index]
    place = emitter.reduce(node, kind, dtype, x, lambda s: inner.format(x=s.cast(x, dtype)))
    emitter.reduced(node, place, lambda f: outer.format(f=f))


def _variance(emitter: Emitter, node: fx.Node) -> None:
    x = node.args[0]
    assert isinstance(x, fx.Node)
    _require_all(node)
    correction = node.kwargs.get("correction", 1)
    correction = 1 if correction is None else correction
    dtype = dtype_of(node)
    mean = emitter.reduce(node, "sum", dtype, x, lambda s: s.cast(x, dtype))

    def squared(stage: Stage) -> str:
        stage.before.append(f"const {C_TYPES[dtype]} mean{mean} = ({C_TYPES[dtype]})(found[{mean}] / n);")
        away = f"({stage.cast(x, dtype)} - mean{mean})"
        return f"{away} * {away}"

    emitter.reductions.append(Reduction("sum", dtype, emitter.reductions[mean].stage + 1, squared))
    emitter.reduced(
        node,
        len(emitter.reductions) - 1,
        lambda f: f"{f} / larger(0.0, (double)n - {float(cast(float, correction))!r})",
    )


def _require_all(node: fx.Node, dims: int = 1) -> None:
    """A reduction must be over the whole tensor and leave a single number."""
    value = node.meta.get("val")
    if isinstance(value, Tensor) and value.dim() > 0 and any(size != 1 for size in value.shape):
        raise NotExpressible(f"{node.target} that leaves several numbers")
    source = node.args[0].meta["val"]  # type: ignore[union-attr]
    if source.dim() != 1:
        raise NotExpressible(f"{node.target} of {source.dim()} dimensions")


ops = torch.ops.aten

RULES: dict[Any, Rule] = {
    **dict.fromkeys((ops.add.Tensor, ops.add.Scalar), _scaled_sum("+")),
    **dict.fromkeys((ops.sub.Tensor, ops.sub.Scalar), _scaled_sum("-")),
    **dict.fromkeys((ops.mul.Tensor, ops.mul.Scalar), _elementwise("{x} * {y}")),
    **dict.fromkeys((ops.div.Tensor, ops.div.Scalar, ops.div.Tensor_mode, ops.div.Scalar_mode), _divide),
    **dict.fromkeys((ops.lerp.Tensor, ops.lerp.Scalar), _lerp),
    **dict.fromkeys((ops.pow.Tensor_Tensor, ops.pow.Tensor_Scalar, ops.pow.Scalar), _power),
    **dict.fromkeys((ops.clamp.default, ops.clamp.Tensor), _clamp),
    ops.clamp_min.default: _elementwise("larger({x}, {y})"),
    ops.clamp_max.default: _elementwise("smaller({x}, {y})"),
    ops.maximum.default: _elementwise("larger({x}, {y})"),
    ops.minimum.default: _elementwise("smaller({x}, {y})"),
    ops.rsub.Scalar: _elementwise("{y} - {x}"),
    ops.neg.default: _elementwise("-{x}"),
    ops.abs.default: _elementwise("fabs_({x})"),
    ops.sign.default: _elementwise("sign_of({x})"),
    ops.sqrt.default: _elementwise("sqrt_({x})"),
    ops.rsqrt.default: _elementwise("1 / sqrt_({x})"),
    ops.reciprocal.default: _elementwise("1 / {x}"),
    ops.exp.default: _elementwise("exp_({x})"),
    ops.log.default: _elementwise("log_({x})"),
    ops.log1p.default: _elementwise("log1p_({x})"),
    ops.expm1.default: _elementwise("expm1_({x})"),
    ops.tanh.default: _elementwise("tanh_({x})"),
    ops.cos.default: _elementwise("cos_({x})"),
    ops.sin.default: _elementwise("sin_({x})"),
    ops.sigmoid.default: _elementwise("1 / (1 + exp_(-{x}))"),
    ops.floor.default: _elementwise("floor_({x})"),
    ops.ceil.default: _elementwise("ceil_({x})"),
    ops.round.default: _elementwise("nearbyint_({x})"),
    ops.remainder.Scalar: _elementwise("remainder_of({x}, {y})"),
    ops.remainder.Tensor: _elementwise("remainder_of({x}, {y})"),
    ops.square.default: _elementwise("{x} * {x}"),
    **{
        getattr(getattr(ops, name), over): _elementwise(f"({{x}} {sign} {{y}})", "compared")
        for name, sign in (("le", "<="), ("lt", "<"), ("ge", ">="), ("gt", ">"), ("eq", "=="), ("ne", "!="))
        for over in ("Tensor", "Scalar")
    },
    ops.view.dtype: _bits,
    ops.arange.start_step: _places,
    ops.copysign.Tensor: _elementwise("copysign_({x}, {y})"),
    **dict.fromkeys((ops.bitwise_xor.Tensor, ops.bitwise_xor.Scalar), _elementwise("({x} ^ {y})")),
    **dict.fromkeys((ops.__rshift__.Scalar, ops.bitwise_right_shift.Tensor_Scalar), _elementwise("({x} >> {y})")),
    ops.bitwise_and.Scalar: _elementwise("({x} & {y})"),
    **dict.fromkeys((ops.bitwise_and.Tensor, ops.logical_and.default), _elementwise("({x} & {y})")),
    **dict.fromkeys((ops.bitwise_or.Tensor, ops.logical_or.default), _elementwise("({x} | {y})")),
    **dict.fromkeys((ops.bitwise_not.default, ops.logical_not.default), _elementwise("(!{x})")),
    ops.isnan.default: _elementwise("({x} != {x})", "compared"),
    ops.isinf.default: _elementwise("(fabs_({x}) == __builtin_inf())", "compared"),
    ops.where.self: _where,
    **dict.fromkeys(
        (
            ops._to_copy.default,
            ops.clone.default,
            ops.alias.default,
            ops.detach.default,
            ops.view.default,
            ops.expand.default,
            ops.unsqueeze.default,
            ops.squeeze.default,
            ops.squeeze.dim,
            ops.squeeze.dims,
            ops._unsafe_view.default,
            ops.reshape.default,
            ops.lift_fresh_copy.default,
            ops.contiguous.default,
        ),
        _same,
    ),
    ops.full_like.default: _constant(lambda n: n.args[1]),
    ops.full.default: _constant(lambda n: n.args[1]),
    ops.scalar_tensor.default: _constant(lambda n: n.args[0]),
    ops.zeros_like.default: _constant(lambda n: 0),
    ops.ones_like.default: _constant(lambda n: 1),
    ops.new_zeros.default: _constant(lambda n: 0),
    **dict.fromkeys((ops.sum.default, ops.sum.dim_IntList), _reduction("sum")),
    **dict.fromkeys((ops.mean.default, ops.mean.dim), _reduction("sum", "{x} / n")),
    **dict.fromkeys((ops.amax.default, ops.max.default), _reduction("amax")),
    **dict.fromkeys((ops.amin.default, ops.min.default), _reduction("amin")),
    **dict.fromkeys((ops.any.default, ops.any.dim, ops.any.dims), _reduction("any")),
    ops.linalg_vector_norm.default: _norm,
    ops.var.correction: _variance,
}
