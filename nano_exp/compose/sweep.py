"""What a named sweep says beside its axes: the constraints between them, and the metric that a search looks for.

A constraint is an expression over the keys of each point's resolved config. It is parsed, never executed as Python:
keys, numbers, texts, arithmetic, comparisons, `and`, `or`, `not`, `in`, and get(key, value) where a key may be absent.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nano_exp.compose.freeze import Frozen
from nano_exp.dotted import Config, leaves
from nano_exp.errors import UserError, nearest

DEFAULT_METRIC = "validation/accuracy"

_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda item, container: item in container,
    ast.NotIn: lambda item, container: item not in container,
}
#: YAML's and JSON's words beside Python's own.
_WORDS = {"true": True, "false": False, "null": None}


@dataclass(frozen=True)
class Constraint:
    """One rule between axes.

    Parameters
    ----------
    require: the expression as written
    because: why a point that breaks it makes no sense
    tree: the parsed expression
    """

    require: str
    because: str
    tree: ast.expr

    def holds(self, config: Mapping[str, Any]) -> bool:
        """Whether a resolved config keeps it.

        Raises
        ------
        UserError: a key that the config does not have, or an operation that its values do not allow
        """
        try:
            return bool(_value(self.tree, config))
        except _Unknown as error:
            key = str(error)
            near = nearest(key, list(leaves(config)))
            raise self._error(
                f"a point's config has no key {key}",
                f"{near[0]} in its place, in sweep.constraints"
                if near
                else f"get({key}, VALUE) gives VALUE where the key is absent",
            ) from error
        except (TypeError, ArithmeticError, ValueError) as error:
            raise self._error(
                f"it cannot be computed: {error}",
                "another expression in sweep.constraints, or sweep.constraints=[] to launch every point",
            ) from error

    def _error(self, why: str, fix: str) -> UserError:
        return UserError(f"the constraint {self.require}", why, fix)


@dataclass(frozen=True)
class Sweep:
    """The `sweep` section of a launch."""

    constraints: tuple[Constraint, ...] = ()
    metric: str = DEFAULT_METRIC


@dataclass(frozen=True)
class Skipped:
    """A point that breaks a constraint."""

    frozen: Frozen
    broken: Constraint


class _Unknown(Exception):
    """A key that a config does not have."""


def read(section: Mapping[str, Any] | None) -> Sweep:
    """The `sweep` section as plain data.

    Raises
    ------
    UserError: something that is not a constraint, or an expression with more than constraints may have
    """
    settings = dict(section or {})
    constraints = settings.get("constraints") or []
    if not isinstance(constraints, Sequence) or isinstance(constraints, str):
        raise UserError(
            f"sweep.constraints={constraints!r}",
            "constraints are given as a list",
            "sweep.constraints=[{require: 'grpo.seed > 1', because: 'a reason'}]",
        )
    return Sweep(tuple(_constraint(one) for one in constraints), str(settings.get("metric") or DEFAULT_METRIC))


def _constraint(entry: Any) -> Constraint:
    if not isinstance(entry, Mapping) or set(entry) != {"require", "because"}:
        raise UserError(
            f"sweep.constraints has {entry!r}",
            "a constraint has exactly two parts, require (an expression of keys) and because (why)",
            "{require: grpo.num_prompts_per_step % 8 == 0, because: whole batches}",
        )
    text = " ".join(str(entry["require"]).split())
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError) as error:
        raise UserError(
            f"the constraint {text}",
            f"it is not an expression: {error}",
            "write an expression, such as grpo.num_prompts_per_step % 8 == 0",
        ) from error
    for node in ast.walk(tree):
        if not isinstance(node, _ALLOWED):
            raise UserError(
                f"the constraint {text}",
                f"{ast.unparse(node) if isinstance(node, ast.expr) else type(node).__name__} has no place in one",
                "use only keys, numbers, texts, + - * / // %, comparisons, and, or, not, in, get(key, value)",
            )
    return Constraint(text, str(entry["because"]), tree)


_ALLOWED = (
    ast.BoolOp,
    ast.boolop,
    ast.UnaryOp,
    ast.unaryop,
    ast.BinOp,
    *_ARITHMETIC,
    ast.Compare,
    *_COMPARISONS,
    ast.Attribute,
    ast.Name,
    ast.Constant,
    ast.List,
    ast.Tuple,
    ast.Call,
    ast.expr_context,
)


def _value(node: ast.expr, config: Mapping[str, Any]) -> Any:
    match node:
        case ast.Constant():
            return node.value
        case ast.Name() | ast.Attribute():
            key = _key(node)
            return _WORDS[key] if key in _WORDS else _at(config, key)
        case ast.Call():
            return _get(node, config)
        case ast.BoolOp():
            for operand in node.values:
                value = _value(operand, config)
                if bool(value) == isinstance(node.op, ast.Or):
                    break
            return value
        case ast.UnaryOp(op=ast.Not()):
            return not _value(node.operand, config)
        case ast.UnaryOp(op=ast.USub()):
            return -_value(node.operand, config)
        case ast.BinOp():
            left, right = _value(node.left, config), _value(node.right, config)
            if not isinstance(left, int | float) or not isinstance(right, int | float):
                raise TypeError(f"{ast.unparse(node)} has {left!r} and {right!r}, which are not both numbers")
            return _ARITHMETIC[type(node.op)](left, right)
        case ast.Compare():
            left = _value(node.left, config)
            for comparison, operand in zip(node.ops, node.comparators, strict=True):
                right = _value(operand, config)
                if not _COMPARISONS[type(comparison)](left, right):
                    return False
                left = right
            return True
        case ast.List() | ast.Tuple():
            return [_value(item, config) for item in node.elts]
    raise TypeError(f"{ast.unparse(node)} is not understood")


def _get(node: ast.Call, config: Mapping[str, Any]) -> Any:
    if not isinstance(node.func, ast.Name) or node.func.id != "get" or node.keywords or len(node.args) != 2:
        raise TypeError(f"{ast.unparse(node)}: the only function is get(key, value)")
    try:
        return _at(config, _key(node.args[0]))
    except _Unknown:
        return _value(node.args[1], config)


def _key(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_key(node.value)}.{node.attr}"
    if isinstance(node, ast.Name):
        return node.id
    raise TypeError(f"{ast.unparse(node)} is not a key")


def _at(config: Mapping[str, Any], key: str) -> Any:
    read = Config(config)
    if not read.has(key):
        raise _Unknown(key)
    return read.get(key)


def split(points: Sequence[Frozen], constraints: Sequence[Constraint]) -> tuple[list[Frozen], list[Skipped]]:
    """Points to launch, and points to skip with the first constraint that each breaks.

    Raises
    ------
    UserError: a constraint that cannot be computed, or none is left
    """
    allowed: list[Frozen] = []
    skipped: list[Skipped] = []
    for frozen in points:
        broken = next((c for c in constraints if not c.holds(frozen.config)), None)
        if broken is None:
            allowed.append(frozen)
        else:
            skipped.append(Skipped(frozen, broken))
    if skipped and not allowed:
        first = skipped[0].broken
        raise UserError(
            f"none of the {len(skipped)} points keeps the sweep's constraints (first broken: {first.require})",
            first.because,
            "other values for its keys, or sweep.constraints=[] to launch them all the same",
        )
    return allowed, skipped
