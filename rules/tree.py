"""The tree of an expression, what it reads, its shape, and the condition under which it clears."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from telemetry.errors import ExpressionError


@dataclass(frozen=True, slots=True)
class Number:
    """A finite constant."""

    value: float


@dataclass(frozen=True, slots=True)
class PointRef:
    """`name` of the rule's own device (link None), or of the device that the area's links call `link`."""

    link: str | None
    name: str

    def __str__(self) -> str:
        return self.name if self.link is None else f"{self.link}.{self.name}"


@dataclass(frozen=True, slots=True)
class Window:
    """A statistic of one point over the last `length_ns` of event time; fn is mean, min, max, std or count."""

    fn: str
    point: PointRef
    length_ns: int


@dataclass(frozen=True, slots=True)
class Silent:
    """The rule's device has sent nothing for `length_ns`; always the whole expression."""

    length_ns: int


@dataclass(frozen=True, slots=True)
class Unary:
    """op is "-" (number) or "not" (condition)."""

    op: str
    arg: "Node"


@dataclass(frozen=True, slots=True)
class Binary:
    """op is + - * /."""

    op: str
    left: "Node"
    right: "Node"


@dataclass(frozen=True, slots=True)
class Compare:
    """op is < <= > >= == !=, of two numbers."""

    op: str
    left: "Node"
    right: "Node"


@dataclass(frozen=True, slots=True)
class Bool:
    """op is "and" or "or", of two or more conditions."""

    op: str
    args: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class If:
    """`then` where the condition is true, `other` where it is false."""

    condition: "Node"
    then: "Node"
    other: "Node"


@dataclass(frozen=True, slots=True)
class Call:
    """A function of numbers, by its name in the language."""

    fn: str
    args: tuple["Node", ...]


Node = Number | PointRef | Window | Silent | Unary | Binary | Compare | Bool | If | Call
Slot = PointRef | Window | Silent


def children(node: Node) -> tuple[Node, ...]:
    """Direct operands, in the order of the text."""
    match node:
        case Unary(_, arg):
            return (arg,)
        case Binary(_, left, right) | Compare(_, left, right):
            return (left, right)
        case Bool(_, args) | Call(_, args):
            return args
        case If(condition, then, other):
            return (condition, then, other)
        case _:
            return ()


def references(node: Node) -> tuple[Slot, ...]:
    """What the expression reads, in order of first appearance: the slots of its program."""
    return tuple(dict.fromkeys(leaf for leaf in _leaves(node) if not isinstance(leaf, Number)))


def shape(node: Node) -> tuple[str, tuple[float, ...]]:
    """(key, constants). Expressions with equal keys differ only in constants and in what stands in their slots, so one program
    computes them all. Constants in order of appearance."""
    slots = {slot: k for k, slot in enumerate(references(node))}
    constants = tuple(leaf.value for leaf in _leaves(node) if isinstance(leaf, Number))
    return _key(node, slots), constants


def with_hysteresis(node: Node, h: float) -> Node:
    """The condition under which `node` clears: its complement, moved by h >= 0 away from the threshold.

    `a > c` clears at `a <= c - h`, `a < c` at `a >= c + h`, `a == c` at `abs(a - c) > h`; `x and y` clears when x or y does. Raises
    ExpressionError for `silent`, which has no threshold.
    """
    if h == 0:
        return Unary("not", node)
    return _cleared(node, h, negated=False)


def _leaves(node: Node) -> Iterator[Number | Slot]:
    if isinstance(node, Number | PointRef | Window | Silent):
        yield node
    for child in children(node):
        yield from _leaves(child)


def _key(node: Node, slots: Mapping[Slot, int]) -> str:
    match node:
        case Number():
            return "#"
        case PointRef() | Window() | Silent():
            return f"${slots[node]}"
        case Unary(op, _) | Binary(op, _, _) | Compare(op, _, _) | Bool(op, _):
            name = op
        case Call(fn, _):
            name = fn
        case If():
            name = "if"
    return f"({name} {' '.join(_key(child, slots) for child in children(node))})"


MIRRORED: Final = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!="}
_NEGATED: Final = {"<": ">=", "<=": ">", ">": "<=", ">=": "<", "==": "!=", "!=": "=="}
_OTHER: Final = {"and": "or", "or": "and"}


def _cleared(node: Node, h: float, *, negated: bool) -> Node:
    """What clears `node`, or what clears `not node`."""
    match node:
        case Unary("not", arg):
            return _cleared(arg, h, negated=not negated)
        case Bool(op, args):
            return Bool(op if negated else _OTHER[op], tuple(_cleared(arg, h, negated=negated) for arg in args))
        case If(condition, then, other):
            return If(condition, _cleared(then, h, negated=negated), _cleared(other, h, negated=negated))
        case Compare(op, left, right):
            return _cleared_compare(_NEGATED[op] if negated else op, left, right, h)
        case _:
            raise ExpressionError("hysteresis needs a comparison with a threshold; leave `hysteresis` out or write `clear`")


def _cleared_compare(op: str, left: Node, right: Node, h: float) -> Node:
    if isinstance(left, Number) and not isinstance(right, Number):
        op, left, right = MIRRORED[op], right, left
    if op == "==":
        return Compare(">", Call("abs", (Binary("-", left, right),)), Number(h))
    if op == "!=":
        return Compare("==", left, right)
    return Compare(_NEGATED[op], left, _moved(right, -h if op in {">", ">="} else h))


def _moved(threshold: Node, by: float) -> Node:
    if isinstance(threshold, Number):
        return Number(threshold.value + by)
    return Binary("+", threshold, Number(by))
