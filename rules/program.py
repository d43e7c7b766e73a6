"""A checked expression compiled to an array program: nested closures over ufuncs, built once, no parsing at a call.

Unknown is a value: NaN, an infinity, a division by zero or an overflow makes a number NaN; a condition over it is unknown (NaN), by
Kleene's three-valued logic. Inside, a condition is the pair (true, false) of boolean arrays, unknown where neither holds: `and`,
`or` and `not` are then two logical operations each, and a comparison with NaN is unknown by itself.
"""

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from rules.expression import DERIVED
from rules.tree import Binary, Bool, Call, Compare, If, Node, Number, PointRef, Silent, Unary, Window, references
from telemetry import psychrometrics
from telemetry.errors import ExpressionError

Array = NDArray[Any]
Slots = Sequence[Array]
Constants = Sequence[Any]
_Numeric = Callable[[Slots, Constants], Any]
_Condition = Callable[[Slots, Constants], tuple[Any, Any]]

# Derived values come through exp and log, whose last bits differ between machines; thresholds are compared above that noise.
QUANTUM: Final = 2.0**-20

_ARITHMETIC: Final = {"+": np.add, "-": np.subtract, "*": np.multiply, "/": np.divide}
_COMPARE: Final = {  # (holds, does not hold); for NaN neither is true
    "<": (np.less, np.greater_equal),
    "<=": (np.less_equal, np.greater),
    ">": (np.greater, np.less_equal),
    ">=": (np.greater_equal, np.less),
}


class Program:
    """`program(slots, constants)` -> (e,) float64, where slots are (e,) columns in the order of `references` and constants are
    scalars or (e,) columns in the order of `shape`. Conditions give 1.0, 0.0 or NaN (unknown)."""

    __slots__ = ("_condition", "_number", "constants", "slots")

    def __init__(self, node: Node) -> None:
        build = _Build(node)
        self._condition: _Condition | None = None
        self._number: _Numeric | None = None
        if is_condition(node):
            self._condition = build.condition(node)
        else:
            self._number = build.number(node)
        self.slots = len(build.slots)
        self.constants = build.constants

    def __call__(self, slots: Slots, constants: Constants) -> Array:
        """Evaluate at e events at once; numbers that are infinite, here or on the way, are unknown."""
        with np.errstate(all="ignore"):
            clean = [_finite(np.asarray(column, np.float64)) for column in slots]
            if self._condition is None:
                assert self._number is not None
                result = self._number(clean, constants)
            else:
                true, false = self._condition(clean, constants)
                result = np.divide(true, np.logical_or(true, false))  # 1/1, 0/1, and 0/0 = NaN where neither holds
        size = np.shape(clean[0]) if clean else np.shape(result)
        if np.shape(result) == size:
            return np.asarray(result, np.float64)
        return np.broadcast_to(np.asarray(result, np.float64), size).copy()


def compile_program(node: Node) -> Program:
    """The array program of an expression. Raises ExpressionError for `silent`, which is a timer and not a value."""
    return Program(node)


def is_condition(node: Node) -> bool:
    """Whether the expression is true, false or unknown, rather than a number."""
    match node:
        case Compare() | Bool() | Silent() | Unary("not", _):
            return True
        case If(_, then, _):
            return is_condition(then)
        case _:
            return False


def _finite(x: Any) -> Any:
    """NaN in place of infinities; every finite value keeps its bits (x + x*0 == x, the sign of zero too)."""
    return x + x * 0.0


class _Build:
    """Numbers the constants in order of appearance while the closures are made."""

    def __init__(self, node: Node) -> None:
        self.slots = {slot: k for k, slot in enumerate(references(node))}
        self.constants = 0

    def number(self, node: Node) -> _Numeric:
        match node:
            case Number():
                k = self.constants
                self.constants += 1
                return lambda _s, c: c[k]
            case PointRef() | Window():
                j = self.slots[node]
                return lambda s, _c: s[j]
            case Unary("-", arg):
                a = self.number(arg)
                return lambda s, c: np.negative(a(s, c))
            case Binary(op, left, right):
                return _arithmetic(_ARITHMETIC[op], self.number(left), self.number(right))
            case If(condition, then, other):
                return _choice(self.condition(condition), self.number(then), self.number(other))
            case Call(fn, args):
                return _function(fn, [self.number(arg) for arg in args])
            case _:
                raise ExpressionError(f"{type(node).__name__} is not a number")

    def condition(self, node: Node) -> _Condition:
        match node:
            case Unary("not", arg):
                return _negation(self.condition(arg))
            case Compare(op, left, right):
                return _comparison(op, self.number(left), self.number(right))
            case Bool(op, args):
                parts = [self.condition(arg) for arg in args]
                return reduce(_conjunction if op == "and" else _disjunction, parts)
            case If(condition, then, other):
                return _condition_choice(self.condition(condition), self.condition(then), self.condition(other))
            case Silent():
                raise ExpressionError("silent(...) is a timer; it stands alone as `when`")
            case _:
                raise ExpressionError(f"{type(node).__name__} is not a condition")


def _arithmetic(ufunc: Any, left: _Numeric, right: _Numeric) -> _Numeric:
    return lambda s, c: _finite(ufunc(left(s, c), right(s, c)))


def _choice(condition: _Condition, then: _Numeric, other: _Numeric) -> _Numeric:
    def run(s: Slots, c: Constants) -> Any:
        true, false = condition(s, c)
        return np.where(true, then(s, c), np.where(false, other(s, c), np.nan))

    return run


def _function(fn: str, args: list[_Numeric]) -> _Numeric:
    if fn in DERIVED:
        derived = getattr(psychrometrics, fn)
        temperature, humidity = args
        return lambda s, c: _finite(np.rint(derived(temperature(s, c), humidity(s, c)) / QUANTUM) * QUANTUM)
    if fn == "abs":
        (only,) = args
        return lambda s, c: np.abs(only(s, c))
    if fn == "clamp":
        x, low, high = args
        return lambda s, c: np.minimum(np.maximum(x(s, c), low(s, c)), high(s, c))
    ufunc = np.minimum if fn == "min" else np.maximum  # both give NaN when any operand is NaN
    return reduce(lambda a, b: lambda s, c: ufunc(a(s, c), b(s, c)), args)


def _comparison(op: str, left: _Numeric, right: _Numeric) -> _Condition:
    if op in _COMPARE:
        holds, fails = _COMPARE[op]

        def run(s: Slots, c: Constants) -> tuple[Any, Any]:
            a, b = left(s, c), right(s, c)
            return holds(a, b), fails(a, b)

        return run

    def equal(s: Slots, c: Constants) -> tuple[Any, Any]:
        a, b = left(s, c), right(s, c)
        return np.equal(a, b), np.logical_or(np.less(a, b), np.greater(a, b))

    return equal if op == "==" else _negation(equal)


def _negation(part: _Condition) -> _Condition:
    def run(s: Slots, c: Constants) -> tuple[Any, Any]:
        true, false = part(s, c)
        return false, true

    return run


def _conjunction(left: _Condition, right: _Condition) -> _Condition:
    def run(s: Slots, c: Constants) -> tuple[Any, Any]:
        (at, af), (bt, bf) = left(s, c), right(s, c)
        return np.logical_and(at, bt), np.logical_or(af, bf)

    return run


def _disjunction(left: _Condition, right: _Condition) -> _Condition:
    def run(s: Slots, c: Constants) -> tuple[Any, Any]:
        (at, af), (bt, bf) = left(s, c), right(s, c)
        return np.logical_or(at, bt), np.logical_and(af, bf)

    return run


def _condition_choice(condition: _Condition, then: _Condition, other: _Condition) -> _Condition:
    def run(s: Slots, c: Constants) -> tuple[Any, Any]:
        (ct, cf), (at, af), (bt, bf) = condition(s, c), then(s, c), other(s, c)
        return ct & at | cf & bt, ct & af | cf & bf

    return run
