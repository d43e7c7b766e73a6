"""The tree of an expression, what it reads, its canonical text, and the condition under which it clears."""

from collections.abc import Callable, Iterator
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
class Clock:
    """What the clock, the sun, the batch or the mode of the device's area say; `name` as in CLOCKS, or a set point "set.NAME"."""

    name: str


@dataclass(frozen=True, slots=True)
class Quality:
    """Quality level of a point: 0 good, 1 uncertain, 2 bad."""

    point: PointRef


@dataclass(frozen=True, slots=True)
class Window:
    """`fn` of what `arg` was over the last `length_ns` of event time; `parameters` by function (docs/rules.md).

    "rise", and "held" without parameters, look at each member of an array.
    """

    fn: str
    arg: "Node"
    length_ns: int
    parameters: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Stale:
    """The point has brought no live sample for `length_ns`."""

    point: PointRef
    length_ns: int


@dataclass(frozen=True, slots=True)
class Silent:
    """The rule's device has sent nothing for `length_ns`."""

    length_ns: int


@dataclass(frozen=True, slots=True)
class Group:
    """`fn` of `arg` over other devices, or over the members of the device's own arrays.

    of: "peers" (same profile and area, without itself), "children" or "members".
    """

    fn: str
    of: str
    arg: "Node"


@dataclass(frozen=True, slots=True)
class Vote:
    """What redundant sensors say together, in the order of preference; `tolerance` by which two of them may differ."""

    tolerance: float
    sensors: tuple[PointRef, ...]


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


Leaf = PointRef | Clock | Quality | Window | Stale | Silent | Group | Vote
Node = Number | Leaf | Unary | Binary | Compare | Bool | If | Call
LEAVES: Final = (PointRef, Clock, Quality, Window, Stale, Silent, Group, Vote)


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


def leaves(node: Node) -> tuple[Leaf, ...]:
    """What the expression reads as values that somebody else makes, in order of first appearance."""
    return tuple(dict.fromkeys(_leaves(node)))


def observed(node: Node) -> tuple[Leaf, ...]:
    """What is kept of what a condition reads when it changes: its leaves, and of a quality the point's value."""
    return tuple(dict.fromkeys(leaf.point if isinstance(leaf, Quality) else leaf for leaf in leaves(node)))


def is_condition(node: Node) -> bool:
    """Whether the expression is true, false or unknown, rather than a number."""
    match node:
        case Compare() | Bool() | Silent() | Stale() | Unary("not", _) | Window("held", _, _, _):
            return True
        case Clock(name):
            return name == "sun_up"
        case Group(fn, _, _):
            return fn in {"any", "all"}
        case If(_, then, _):
            return is_condition(then)
        case _:
            return False


def with_hysteresis(node: Node, h: float) -> Node:
    """The condition under which `node` clears: its complement, moved by h >= 0 away from the threshold.

    `a > c` clears at `a <= c - h`, `a < c` at `a >= c + h`, `a == c` at `abs(a - c) > h`; `x and y` clears when x or y does. Raises
    ExpressionError for `silent`, which has no threshold.
    """
    if h == 0:
        return Unary("not", node)
    return _cleared(node, h, negated=False)


def _leaves(node: Node) -> Iterator[Leaf]:
    if isinstance(node, LEAVES):
        yield node
    for child in children(node):
        yield from _leaves(child)


def text(node: Node) -> str:
    """The expression as canonical text: equal trees give equal text, which names a column in snapshots and in a "why"."""
    return written(node, _leaf_text)


def written(node: Node, leaf: Callable[[Leaf | Number], str]) -> str:
    """The expression as text, with each leaf and number as `leaf` writes it."""
    match node:
        case Unary(op, arg):
            return f"-{_inner(arg, leaf)}" if op == "-" else f"not {_inner(arg, leaf)}"
        case Binary(op, left, right) | Compare(op, left, right):
            return f"{_inner(left, leaf)} {op} {_inner(right, leaf)}"
        case Bool(op, args):
            return f" {op} ".join(_inner(arg, leaf) for arg in args)
        case If(condition, then, other):
            return f"if({written(condition, leaf)}, {written(then, leaf)}, {written(other, leaf)})"
        case Call(fn, args):
            return f"{fn}({', '.join(written(arg, leaf) for arg in args)})"
        case _:
            return leaf(node)


def _leaf_text(node: Leaf | Number) -> str:
    match node:
        case Number(value):
            return f"{value:.17g}"
        case PointRef():
            return str(node)
        case Clock(name):
            return name if name.startswith("set.") else f"{name}()"
        case Quality(point):
            return f"quality({point})"
        case Window("held", arg, length_ns, ()):
            return f"held({text(arg)}, {length_text(length_ns)})"
        case Window("held", arg, length_ns, (wanted_s,)):
            return f"held({text(arg)}, {length_text(round(wanted_s * 1e9))}, {length_text(length_ns)})"
        case Window("ewma", arg, 0, (weight,)):
            return f"ewma({text(arg)}, {weight:.17g})"
        case Window(fn, arg, length_ns, parameters):
            return f"{fn}({', '.join([text(arg), *(f'{p:.17g}' for p in parameters), length_text(length_ns)])})"
        case Stale(point, length_ns):
            return f"stale({point}, {length_text(length_ns)})"
        case Silent(length_ns):
            return f"silent({length_text(length_ns)})"
        case Group(fn, of, arg):
            return f"{fn}({of}: {text(arg)})"
        case Vote(tolerance, sensors):
            return f"vote({tolerance:.17g}, {', '.join(map(str, sensors))})"


def _inner(node: Node, leaf: Callable[[Leaf | Number], str]) -> str:
    inner = written(node, leaf)
    return f"({inner})" if isinstance(node, Binary | Compare | Bool | Unary) else inner


def length_text(length_ns: int) -> str:
    """A length as it is written: the largest unit that divides it."""
    for unit, ns in (("d", 86_400_000_000_000), ("h", 3_600_000_000_000), ("min", 60_000_000_000), ("s", 1_000_000_000)):
        if length_ns % ns == 0:
            return f"{length_ns // ns} {unit}"
    return f"{length_ns / 1e9:.9g} s"


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
