"""Schedules written as text: ``parse("3e-4 * (warmup(200) >> cosine(5000))")``, without running any code."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from typing import Any

from fallline.core.errors import FalllineError, InvalidTypeError, InvalidValueError, nearest, unknown
from fallline.core.schedule import Schedule
from fallline.schedules import basic, cycles, decays, phases, points
from fallline.schedules.half_life import half_life

__all__ = ["KNOWN", "parse"]

_HOMES = (basic, decays, phases, cycles, points)

KNOWN: Mapping[str, Callable[..., Any]] = {
    **{name: getattr(home, name) for home in _HOMES for name in home.__all__},
    "half_life": half_life,
}
"""The names that a text may use."""

_LONGEST = 2000  # characters; nothing that a person writes, and deep nesting would exhaust the interpreter's stack


def parse(text: str) -> Schedule:
    """The schedule that a text describes: names of ``KNOWN``, numbers, tuples, and the operators ``>> * + - /``.

    The text is read, not run. Raises ValueError for anything else, with the known names.
    """
    if not isinstance(text, str) or len(text) > _LONGEST:
        seen = f"a text of {len(text)} characters" if isinstance(text, str) else repr(text)
        raise InvalidValueError(
            f"parse got {seen}. Expected a text of at most {_LONGEST} characters. Write for example 'warmup(200) >> cosine(5000)'."
        )
    try:
        found = _evaluate(ast.parse(text.strip(), mode="eval").body)
    except FalllineError:
        raise
    except (SyntaxError, RecursionError, MemoryError, ValueError) as error:
        deep = isinstance(error, RecursionError | MemoryError)
        why = "it nests too deeply" if deep else getattr(error, "msg", str(error))
        raise InvalidValueError(
            f"{text!r} is no schedule: {why}. Expected schedules joined with >>, * and +. "
            f"Write for example 'warmup(200) >> cosine(5000)'. Known: {', '.join(sorted(KNOWN))}."
        ) from None
    if not isinstance(found, Schedule):
        raise InvalidValueError(
            f"{text!r} is {found!r}, not a schedule. Expected at least one of {', '.join(sorted(KNOWN))}. "
            f"Write for example '{found} * constant()'."
        )
    return found


def _evaluate(node: ast.expr) -> Any:
    if (
        isinstance(node, ast.Constant)
        and isinstance(node.value, int | float | str)
        and not isinstance(node.value, bool)
    ):
        return node.value
    if isinstance(node, ast.Tuple | ast.List):
        return tuple(_evaluate(item) for item in node.elts)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -1 * _number_or_schedule(node.operand)
    if isinstance(node, ast.BinOp):
        return _combine(node)
    if isinstance(node, ast.Call):
        return _call(node)
    if isinstance(node, ast.Name):
        if node.id in KNOWN:
            raise InvalidValueError(
                f"{node.id!r} has no arguments. Expected a call. Write for example {node.id}(1000)."
            )
        raise _unknown(node.id)
    raise InvalidValueError(
        f"{ast.unparse(node)!r} cannot stand in a schedule. Expected numbers, schedules, and the operators >> * + - /. "
        f"Known: {', '.join(sorted(KNOWN))}."
    )


def _number_or_schedule(node: ast.expr) -> Any:
    value = _evaluate(node)
    if isinstance(value, str | tuple):
        raise InvalidValueError(
            f"{ast.unparse(node)!r} stands beside an operator. Expected a number or a schedule there. Write for example 0.1 * cosine(100)."
        )
    return value


def _combine(node: ast.BinOp) -> Any:
    left, right = _number_or_schedule(node.left), _number_or_schedule(node.right)
    try:
        match node.op:
            case ast.RShift() if isinstance(left, Schedule) and isinstance(right, Schedule):
                return left >> right
            case ast.Mult():
                return left * right
            case ast.Add():
                return left + right
            case ast.Sub():
                return left + -1 * right
            case ast.Div() if not isinstance(right, Schedule):
                return left * (1 / right)
    except (ZeroDivisionError, OverflowError) as error:
        raise InvalidValueError(
            f"{ast.unparse(node)!r} has no value: {error}. Expected finite numbers. Correct it."
        ) from None
    raise InvalidValueError(
        f"{ast.unparse(node)!r} means nothing here. Expected schedule >> schedule, or * + - / with numbers or schedules. "
        f"Write for example 0.1 * (warmup(10) >> cosine(90))."
    )


def _call(node: ast.Call) -> Any:
    if not isinstance(node.func, ast.Name) or any(k.arg is None for k in node.keywords):
        raise InvalidValueError(
            f"{ast.unparse(node)!r} cannot stand in a schedule. Expected a call of {', '.join(sorted(KNOWN))}. Use one of them."
        )
    name = node.func.id
    if name not in KNOWN:
        raise _unknown(name)
    arguments = [_evaluate(item) for item in node.args]
    named = {str(k.arg): _evaluate(k.value) for k in node.keywords}
    try:
        return KNOWN[name](*arguments, **named)
    except FalllineError:
        raise
    except (TypeError, ValueError) as error:
        raise InvalidTypeError(
            f"{ast.unparse(node)!r} does not fit {name}: {error}. Expected numbers in its places. See the docstring of fallline.schedules.{name}."
        ) from None


def _unknown(name: str) -> FalllineError:
    return unknown("schedule", name, KNOWN, f"Known: {', '.join(sorted(KNOWN))}." if nearest(name, KNOWN) else "")
