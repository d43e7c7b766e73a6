"""The rule language: text to a checked tree (grammar and meaning in docs/rules.md).

A hand-written tokenizer and recursive descent; nothing of the text is ever executed. Limits come first, so that hostile text is
refused in bounded time. Names, kinds (condition or number) and units are checked while parsing, where the position is known.
"""

import difflib
import re
import unicodedata
from collections.abc import Mapping
from typing import Final, Literal, NamedTuple, Protocol

from rules.tree import (
    MIRRORED,
    Binary,
    Bool,
    Call,
    Compare,
    If,
    Node,
    Number,
    PointRef,
    Silent,
    Slot,
    Unary,
    Window,
    children,
    references,
    shape,
    with_hysteresis,
)
from telemetry.errors import ExpressionError

__all__ = [
    "Binary",
    "Bool",
    "Call",
    "Compare",
    "ExpressionError",
    "If",
    "Node",
    "Number",
    "PointRef",
    "Silent",
    "Slot",
    "Unary",
    "Window",
    "children",
    "parse",
    "references",
    "shape",
    "with_hysteresis",
]

TEXT_MAX: Final = 2_000
DEPTH_MAX: Final = 32
NODES_MAX: Final = 500
NS_PER_S: Final = 1_000_000_000
WINDOW_QUANTUM_NS: Final = 3 * NS_PER_S  # sixty panes of a whole number of milliseconds
DURATION_MAX_NS: Final = 31 * 86_400 * NS_PER_S
DURATIONS: Final = {"s": NS_PER_S, "min": 60 * NS_PER_S, "h": 3_600 * NS_PER_S, "d": 86_400 * NS_PER_S}
WINDOWS: Final = ("mean", "min", "max", "std", "count")
DERIVED: Final = {  # of air temperature [C] and relative humidity [%]: the unit of the result
    "vpd_kpa": "kPa",
    "dew_point_c": "C",
    "abs_humidity_g_m3": "g/m3",
    "enthalpy_kj_kg": "kJ/kg",
    "wet_bulb_c": "C",
    "thi": "",
}
ARGUMENTS: Final = {"abs": (1, 1), "min": (2, 16), "max": (2, 16), "clamp": (3, 3), **dict.fromkeys(DERIVED, (2, 2))}
FUNCTIONS: Final = (*ARGUMENTS, "mean", "std", "count", "silent", "if")
KEYWORDS: Final = ("and", "or", "not", "if")
PLAIN: Final = ""  # the unit of a plain number; None is an unknown unit


class Measured(Protocol):
    """What the checks need of a point's specification."""

    @property
    def unit(self) -> str:
        """Unit as declared, such as "C"."""


Points = Mapping[str, Measured]
Want = Literal["condition", "number"]


def parse(
    text: str,
    *,
    points: Points | None = None,
    links: Mapping[str, Points] | None = None,
    want: Want | None = None,
) -> Node:
    """The tree of `text`.

    points: the own device's points by name; links: those of linked devices; None leaves names and units unchecked. want: which
    kind the whole must be; None accepts both. Raises ExpressionError with line, column and the likely fix.
    """
    if len(text) > TEXT_MAX:
        raise ExpressionError(f"the expression has {len(text)} characters, at most {TEXT_MAX} are allowed")
    return _Parser(text, points, links).whole(want)


# -- text to tokens ----------------------------------------------------------------------------------------------------

_TOKEN: Final = re.compile(
    r"(?P<space>[ \t\r\n]+)|(?P<number>(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)|(?P<name>[A-Za-z_][A-Za-z0-9_]*)"
    r"|(?P<op><=|>=|==|!=|[-+*/<>(),.])",
    re.ASCII,
)
_FIXES: Final = {
    "=": 'compare with "=="',
    "&": 'write "and"',
    "|": 'write "or"',
    "!": 'write "not"',
    "%": 'leave "%" out: humidity is a plain number such as 87',
    "^": "there are no powers; write a product",
    "'": "text is not part of the language",
    '"': "text is not part of the language",
}


class _Token(NamedTuple):
    kind: str  # number, name, op, end
    text: str
    at: int


def _tokens(text: str) -> list[_Token]:
    found, at = [], 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise _error(text, at, f"{text[at]!r} is not part of the language{_fix(text[at])}")
        if match.lastgroup != "space":
            found.append(_Token(match.lastgroup or "", match.group(), at))
        at = match.end()
    return [*found, _Token("end", "", len(text))]


def _fix(char: str) -> str:
    plain = unicodedata.normalize("NFKC", char)
    if plain != char and plain.isascii():
        return f"; write {plain!r} instead of the full-width sign"
    return f"; {_FIXES[char]}" if char in _FIXES else ""


def _error(text: str, at: int, message: str) -> ExpressionError:
    before = text[:at]
    return ExpressionError(message, line=before.count("\n") + 1, column=at - before.rfind("\n"))


# -- tokens to tree ----------------------------------------------------------------------------------------------------


class _Part(NamedTuple):
    """A parsed piece: its tree, where it starts, what kind it is, its unit (PLAIN, None = unknown), its height."""

    node: Node
    at: int
    condition: bool
    unit: str | None
    height: int


class _Parser:
    def __init__(self, text: str, points: Points | None, links: Mapping[str, Points] | None) -> None:
        self._text, self._points, self._links = text, points, links
        self._tokens = _tokens(text)
        self._next = 0
        self._depth = 0
        self._nodes = 0

    def whole(self, want: str | None) -> Node:
        part = self._or()
        token = self._peek()
        if token.kind != "end":
            raise self._unexpected(token, "an operator or the end")
        if want == "condition" and not part.condition:
            raise self._fail(part.at, f"a condition is expected here; compare it, such as `{self._text.strip()[:40]} > 0.5`")
        if want == "number" and part.condition:
            raise self._fail(part.at, "a number is expected here, not a condition; use if(condition, a, b)")
        return part.node

    # -- grammar, from the loosest binding to the tightest

    def _or(self) -> _Part:
        return self._joined("or", self._and)

    def _and(self) -> _Part:
        return self._joined("and", self._not)

    def _joined(self, op: str, operand: "_Rule") -> _Part:
        parts = [operand()]
        while self._take(op):
            parts.append(operand())
        if len(parts) == 1:
            return parts[0]
        for part in parts:
            self._need_condition(part, f"`{op}`")
        return self._made(Bool(op, tuple(p.node for p in parts)), parts[0].at, parts, condition=True, unit=PLAIN)

    def _not(self) -> _Part:
        token = self._peek()
        if not self._take("not"):
            return self._comparison()
        with_depth = self._nested(self._not)
        self._need_condition(with_depth, "`not`")
        return self._made(Unary("not", with_depth.node), token.at, [with_depth], condition=True, unit=PLAIN)

    def _comparison(self) -> _Part:
        left = self._sum()
        op = self._peek()
        if op.text not in MIRRORED:
            return left
        self._next += 1
        right = self._sum()
        if self._peek().text in MIRRORED:
            raise self._fail(self._peek().at, "comparisons cannot be chained; write `a < b and b < c`")
        self._common_unit([left, right], op.at, f"`{op.text}`")
        return self._made(Compare(op.text, left.node, right.node), left.at, [left, right], condition=True, unit=PLAIN)

    def _sum(self) -> _Part:
        left = self._product()
        while (op := self._peek()).text in {"+", "-"}:
            self._next += 1
            right = self._product()
            unit = self._common_unit([left, right], op.at, f"`{op.text}`")
            left = self._made(Binary(op.text, left.node, right.node), left.at, [left, right], condition=False, unit=unit)
        return left

    def _product(self) -> _Part:
        left = self._unary()
        while (op := self._peek()).text in {"*", "/"}:
            self._next += 1
            right = self._unary()
            self._need_number(left, f"`{op.text}`")
            self._need_number(right, f"`{op.text}`")
            unit = _product_unit(op.text, left.unit, right.unit)
            left = self._made(Binary(op.text, left.node, right.node), left.at, [left, right], condition=False, unit=unit)
        return left

    def _unary(self) -> _Part:
        token = self._peek()
        if not self._take("-"):
            return self._atom()
        part = self._nested(self._unary)
        self._need_number(part, "`-`")
        if isinstance(part.node, Number):  # -5 is a constant, so that rules with thresholds 5 and -5 have one shape
            return part._replace(node=Number(-part.node.value), at=token.at)
        return self._made(Unary("-", part.node), token.at, [part], condition=False, unit=part.unit)

    def _atom(self) -> _Part:
        token = self._peek()
        if token.kind == "number":
            self._next += 1
            return self._made(Number(self._number(token)), token.at, [], condition=False, unit=PLAIN)
        if self._take("("):
            part = self._nested(self._or)
            self._expect(")")
            return part
        if token.kind != "name" or token.text in {"and", "or", "not"}:
            raise self._unexpected(token, "a number, a point or a function")
        self._next += 1
        if self._take("("):
            return self._nested(lambda: self._call(token))
        return self._reference(token)

    # -- names

    def _reference(self, token: _Token) -> _Part:
        if token.text == "if":
            raise self._fail(token.at, "write if(condition, a, b)")
        link, name, points = None, token, self._points
        if self._take("."):
            link, name = token.text, self._peek()
            if name.kind != "name":
                raise self._unexpected(name, f"a point of {link!r}")
            self._next += 1
            points = None
            if self._links is not None:
                if link not in self._links:
                    raise self._fail(token.at, f"no link {link!r} in the rule's area{_near(link, self._links)}")
                points = self._links[link]
        if points is not None and name.text not in points:
            raise self._fail(name.at, f"no point {name.text!r}{self._near_point(name.text, points, link)}")
        unit = None if points is None else _unit(points[name.text].unit)
        return self._made(PointRef(link, name.text), token.at, [], condition=False, unit=unit)

    def _near_point(self, name: str, points: Points, link: str | None) -> str:
        others = {f"{key}.{point}": point for key, of in (self._links or {}).items() for point in of} if link is None else {}
        elsewhere = next((full for full, point in others.items() if point == name), None)
        return f"; did you mean {elsewhere}?" if elsewhere is not None else _near(name, points)

    def _call(self, token: _Token) -> _Part:
        if token.text == "silent":
            return self._silent(token)
        if token.text not in FUNCTIONS:
            raise self._fail(token.at, f"no function {token.text[:64]!r}{_near(token.text, FUNCTIONS)}")
        args = [self._or()]
        while self._take(","):
            if (length := self._duration()) is not None:
                return self._window(token, args, length)
            args.append(self._or())
        self._expect(")")
        if token.text == "if":
            return self._if(token, args)
        if token.text not in ARGUMENTS:
            raise self._fail(token.at, f"{token.text} needs a point and a length, such as {token.text}(air_temp_c, 10 min)")
        return self._function(token, args)

    def _silent(self, token: _Token) -> _Part:
        length = self._duration()
        if length is None:
            raise self._unexpected(self._peek(), "a length such as 3 min")
        self._expect(")")
        if len(self._tokens) - 1 != self._next or self._tokens[0] is not token:
            raise self._fail(token.at, "silent(...) must stand alone; make a rule of its own for the other condition")
        return self._made(Silent(length), token.at, [], condition=True, unit=PLAIN)

    def _window(self, token: _Token, args: list[_Part], length: int) -> _Part:
        self._expect(")")
        if token.text not in WINDOWS:
            raise self._fail(token.at, f"{token.text} takes no length; windows are {', '.join(WINDOWS)}")
        point = args[0].node
        if len(args) != 1 or not isinstance(point, PointRef):
            raise self._fail(args[0].at, f"{token.text} over time takes one point, such as {token.text}(air_temp_c, 10 min)")
        if length % WINDOW_QUANTUM_NS:
            raise self._fail(token.at, "the length of a window must be a multiple of 3 s (sixty equal panes)")
        unit = PLAIN if token.text == "count" else args[0].unit
        return self._made(Window(token.text, point, length), token.at, [], condition=False, unit=unit)

    def _if(self, token: _Token, args: list[_Part]) -> _Part:
        if len(args) != 3:
            raise self._fail(token.at, f"if takes a condition and two values, {len(args)} given")
        self._need_condition(args[0], "`if`")
        if args[1].condition != args[2].condition:
            raise self._fail(args[2].at, "both values of `if` must be numbers, or both conditions")
        unit = PLAIN if args[1].condition else self._common_unit(args[1:], token.at, "`if`")
        node = If(args[0].node, args[1].node, args[2].node)
        return self._made(node, token.at, args, condition=args[1].condition, unit=unit)

    def _function(self, token: _Token, args: list[_Part]) -> _Part:
        fn = token.text
        low, high = ARGUMENTS[fn]
        if not low <= len(args) <= high:
            wanted = str(low) if low == high else f"{low} to {high}"
            raise self._fail(token.at, f"{fn} takes {wanted} argument{'s' if wanted != '1' else ''}, {len(args)} given")
        if fn in DERIVED:
            for part, unit, what in zip(args, ("C", "%"), ("a temperature", "a relative humidity"), strict=True):
                self._need_number(part, fn)
                if part.unit not in {unit, PLAIN, None}:
                    raise self._fail(part.at, f"{fn} takes {what} in {unit} here, not {part.unit}")
            unit_of: str | None = DERIVED[fn]
        else:
            unit_of = self._common_unit(args, token.at, fn)
        return self._made(Call(fn, tuple(p.node for p in args)), token.at, args, condition=False, unit=unit_of)

    # -- numbers and lengths

    def _number(self, token: _Token) -> float:
        value = float(token.text)
        if value in {float("inf"), float("-inf")}:
            raise self._fail(token.at, f"{token.text[:40]} is too large for a number")
        return value

    def _duration(self) -> int | None:
        """A length literal such as `10 min`, or None when none stands here."""
        token = self._peek()
        unit = self._tokens[min(self._next + 1, len(self._tokens) - 1)]
        if token.kind != "number" or unit.text not in DURATIONS:
            return None
        self._next += 2
        exact = self._number(token) * DURATIONS[unit.text]
        if not NS_PER_S <= exact <= DURATION_MAX_NS:
            raise self._fail(token.at, "a length must lie between 1 s and 31 d")
        return round(exact)

    # -- checks

    def _need_condition(self, part: _Part, where: str) -> None:
        if not part.condition:
            raise self._fail(part.at, f"{where} joins conditions, and this is a number; compare it, such as `> 0.5`")

    def _need_number(self, part: _Part, where: str) -> None:
        if part.condition:
            raise self._fail(part.at, f"{where} takes numbers, and this is a condition; use if(condition, 1, 0)")

    def _common_unit(self, parts: list[_Part], at: int, where: str) -> str | None:
        for part in parts:
            self._need_number(part, where)
        units = sorted({p.unit for p in parts if p.unit not in {PLAIN, None}}, key=str)
        if len(units) > 1:
            raise self._fail(at, f"{where} mixes units: {' and '.join(map(str, units))}")
        if units:
            return units[0]
        return None if any(p.unit is None for p in parts) else PLAIN

    def _made(self, node: Node, at: int, parts: list[_Part], *, condition: bool, unit: str | None) -> _Part:
        self._nodes += 1
        height = 1 + max((p.height for p in parts), default=0)
        if self._nodes > NODES_MAX:
            raise self._fail(at, f"the expression has more than {NODES_MAX} parts; split it into several rules")
        if height > DEPTH_MAX:
            raise self._deep(at)
        return _Part(node, at, condition, unit, height)

    def _nested(self, inner: "_Rule") -> _Part:
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise self._deep(self._peek().at)
        part = inner()
        self._depth -= 1
        return part

    # -- tokens

    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _take(self, text: str) -> bool:
        if self._tokens[self._next].text != text:
            return False
        self._next += 1
        return True

    def _expect(self, text: str) -> None:
        if not self._take(text):
            raise self._unexpected(self._peek(), f"{text!r}")

    def _unexpected(self, token: _Token, wanted: str) -> ExpressionError:
        if token.kind == "end":
            return self._fail(token.at, f"the expression ends where {wanted} is expected")
        hint = "; there are no powers, write a product" if token.text == "*" else ""
        return self._fail(token.at, f"{token.text[:40]!r} stands where {wanted} is expected{hint}")

    def _deep(self, at: int) -> ExpressionError:
        return self._fail(at, f"nested deeper than {DEPTH_MAX} levels; simplify or split the rule")

    def _fail(self, at: int, message: str) -> ExpressionError:
        return _error(self._text, at, message)


class _Rule(Protocol):
    def __call__(self) -> _Part: ...


def _near(name: str, known: Mapping[str, object] | tuple[str, ...]) -> str:
    if len(name) > 64:  # comparing long text costs its square
        return ""
    close = difflib.get_close_matches(name, list(known)[:1000], n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _unit(text: str) -> str:
    return PLAIN if text in {"", "1"} else text.replace("°", "")


def _product_unit(op: str, left: str | None, right: str | None) -> str | None:
    if right == PLAIN:
        return left
    if op == "*" and left == PLAIN:
        return right
    return PLAIN if op == "/" and left == right and left is not None else None
