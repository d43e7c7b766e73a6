"""The rule language: text to a checked tree (grammar and meaning in docs/rules.md).

A hand-written tokenizer and recursive descent; nothing of the text is ever executed. Limits come first, so that hostile text is
refused in bounded time. Names, kinds (condition or number) and units are checked while parsing, where the position is known.
"""

import difflib
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, Protocol

from rules.clock import CLOCKS
from rules.tree import (
    MIRRORED,
    Binary,
    Bool,
    Call,
    Clock,
    Compare,
    Group,
    If,
    Node,
    Number,
    PointRef,
    Quality,
    Silent,
    Stale,
    Unary,
    Vote,
    Window,
    with_hysteresis,
)
from telemetry.errors import ExpressionError
from telemetry.site import MODES

__all__ = ["ExpressionError", "Names", "parse", "with_hysteresis"]

TEXT_MAX: Final = 2_000
DEPTH_MAX: Final = 32
NODES_MAX: Final = 500
NS_PER_S: Final = 1_000_000_000
WINDOW_QUANTUM_NS: Final = 3 * NS_PER_S  # sixty panes of a whole number of milliseconds
DURATION_MAX_NS: Final = 31 * 86_400 * NS_PER_S
DURATIONS: Final = {"s": NS_PER_S, "min": 60 * NS_PER_S, "h": 3_600 * NS_PER_S, "d": 86_400 * NS_PER_S}
DERIVED: Final = {  # of air temperature [C] and relative humidity [%]: the unit of the result
    "vpd_kpa": "kPa",
    "dew_point_c": "C",
    "abs_humidity_g_m3": "g/m3",
    "enthalpy_kj_kg": "kJ/kg",
    "wet_bulb_c": "C",
    "thi": "",
}
# Functions of values of this moment: fewest and most arguments.
ARGUMENTS: Final = {
    "abs": (1, 1),
    "min": (2, 16),
    "max": (2, 16),
    "clamp": (3, 3),
    **dict.fromkeys(DERIVED, (2, 2)),
    "poisson": (2, 2),
}
# Functions over a length of event time: the parameters that stand between what is looked at and the length.
WINDOWS: Final[dict[str, tuple[str, ...]]] = {
    "mean": (), "min": (), "max": (), "std": (), "count": (), "rate": (), "delta": (), "ago": (), "slope": (), "shift": (),
    "median": (), "quantile": ("part of the values, 0..1",), "robust_z": (), "ewma": (), "cusum_high": ("target", "sigma", "k"),
    "cusum_low": ("target", "sigma", "k"), "rise": (),
}  # fmt: skip
SENSORS_MIN, SENSORS_MAX = 2, 8  # of a vote
NEEDS_POINT: Final = ("median", "quantile", "robust_z")  # whose range gives the resolution
PER_MINUTE: Final = ("rate", "slope")
PLAIN_RESULT: Final = ("count", "robust_z", "cusum_high", "cusum_low")
GROUPS: Final = ("any", "all", "count", "sum", "mean", "min", "max", "median", "spread", "worst")
SETS: Final = ("peers", "children", "members")
SPECIAL: Final = ("if", "silent", "stale", "held", "quality", "is", "mode_is", "between", "vote", *CLOCKS)
FUNCTIONS: Final = tuple(dict.fromkeys((*ARGUMENTS, *WINDOWS, *GROUPS, *SPECIAL)))
KEYWORDS: Final = ("and", "or", "not", "if")
PLAIN: Final = ""  # the unit of a plain number; None is an unknown unit


class Measured(Protocol):
    """What the checks need of a point's specification."""

    @property
    def unit(self) -> str:
        """Unit as declared, such as "C"."""

    @property
    def labels(self) -> Mapping[int, str] | None:
        """Names of the codes of an enumeration; None when it is none."""

    @property
    def members(self) -> int | None:
        """Length of an array point; None for a single value."""


Points = Mapping[str, Measured]
Want = Literal["condition", "number"]


@dataclass(frozen=True, slots=True)
class Names:
    """What a rule may speak of. None leaves names and units unchecked.

    points: the own device's by name; links: those of linked devices and of the parent; children: those of devices below it;
    setpoints: unit by name.
    """

    points: Points | None = None
    links: Mapping[str, Points] | None = None
    children: Points | None = None
    setpoints: Mapping[str, str] | None = None


ANYTHING: Final = Names()


def parse(text: str, names: Names = ANYTHING, *, want: Want | None = None, unit: str | None = None) -> Node:
    """The tree of `text`. want: which kind the whole must be; None accepts both. unit: what it must measure; a condition is a "bool".

    Raises ExpressionError with line, column and the likely fix.
    """
    if len(text) > TEXT_MAX:
        raise ExpressionError(f"the expression has {len(text)} characters, at most {TEXT_MAX} are allowed; split it")
    return _Parser(text, names).whole(want, unit)


# -- text to tokens ----------------------------------------------------------------------------------------------------

_TOKEN: Final = re.compile(
    r"(?P<space>[ \t\r\n]+)|(?P<number>(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)|(?P<name>[A-Za-z_][A-Za-z0-9_]*)"
    r"|(?P<op><=|>=|==|!=|[-+*/<>(),.:])",
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
    def __init__(self, text: str, names: Names) -> None:
        self._text, self._names = text, names
        self._points, self._links = names.points, names.links
        self._tokens = _tokens(text)
        self._next = 0
        self._arrays: list[int] | None = None  # lengths of those read, inside `members:`
        self._depth = 0
        self._nodes = 0

    def whole(self, want: str | None, unit: str | None) -> Node:
        part = self._or()
        token = self._peek()
        if token.kind != "end":
            raise self._unexpected(token, "an operator or the end")
        if want == "condition" and not part.condition:
            raise self._fail(part.at, f"a condition is expected here; compare it, such as `{self._text.strip()[:40]} > 0.5`")
        if want == "number" and part.condition:
            raise self._fail(part.at, "a number is expected here, not a condition; use if(condition, a, b)")
        made = "bool" if part.condition else part.unit
        if unit is not None and made not in {PLAIN, None, _unit(unit)}:
            raise self._fail(part.at, f"this gives {made}, and {unit or 'a plain number'} is wanted")
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

    def _reference(self, token: _Token, *, may_be_array: bool = False) -> _Part:
        if token.text == "if":
            raise self._fail(token.at, "write if(condition, a, b)")
        if token.text == "set":
            return self._setpoint(token)
        if token.text in SETS:
            raise self._fail(token.at, f"{token.text} are many; say what of them, such as median({token.text}.air_temp_c)")
        link, name, points = None, token, self._points
        if self._take("."):
            link, name = token.text, self._peek()
            if name.kind != "name":
                raise self._unexpected(name, f"a point of {link!r}")
            self._next += 1
            points = None
            if self._links is not None:
                if link not in self._links:
                    raise self._fail(token.at, f"no link {link!r} in the rule's area{near(link, self._links)}")
                points = self._links[link]
        if points is not None and name.text not in points:
            raise self._fail(name.at, f"no point {name.text!r}{self._near_point(name.text, points, link)}")
        unit = None if points is None else _unit(points[name.text].unit)
        if points is not None and (members := points[name.text].members) is not None and not may_be_array:
            self._note_array(name, members, link)
        return self._made(PointRef(link, name.text), token.at, [], condition=False, unit=unit)

    def _note_array(self, name: _Token, members: int, link: str | None) -> None:
        """An array stands where each of its members is looked at."""
        if link is not None:
            raise self._fail(name.at, f"{name.text} has {members} members and belongs to another device, whose rules may read them")
        if self._arrays is None:
            example = f"count(members: {name.text} > 3)"
            raise self._fail(name.at, f"{name.text} has {members} members; say what of them, such as {example}")
        if any(other != members for other in self._arrays):
            raise self._fail(name.at, f"{name.text} has {members} members, the other point {self._arrays[0]}")
        self._arrays.append(members)

    def _setpoint(self, token: _Token) -> _Part:
        self._expect(".")
        name, known = self._peek(), self._names.setpoints
        if name.kind != "name":
            raise self._unexpected(name, "the name of a set point")
        self._next += 1
        if known is not None and name.text not in known:
            raise self._fail(name.at, f"no set point {name.text!r} in the rule's areas{near(name.text, known)}")
        unit = None if known is None else _unit(known[name.text])
        return self._made(Clock(f"set.{name.text}"), token.at, [], condition=False, unit=unit)

    def _near_point(self, name: str, points: Points, link: str | None) -> str:
        others = {f"{key}.{point}": point for key, of in (self._links or {}).items() for point in of} if link is None else {}
        elsewhere = next((full for full, point in others.items() if point == name), None)
        return f"; did you mean {elsewhere}?" if elsewhere is not None else near(name, points)

    def _call(self, token: _Token) -> _Part:
        fn = token.text
        if fn not in FUNCTIONS:
            raise self._fail(token.at, f"no function {fn[:64]!r}{near(fn, FUNCTIONS)}")
        if fn in CLOCKS:
            self._expect(")")
            return self._made(Clock(fn), token.at, [], condition=fn == "sun_up", unit=_unit(CLOCKS[fn]))
        if fn in {"silent", "stale", "held", "quality", "is", "mode_is", "between", "vote"}:
            return getattr(self, f"_{fn}")(token)  # type: ignore[no-any-return]
        if fn in GROUPS and self._tokens[self._next].text in SETS and self._tokens[self._next + 1].text in {".", ":"}:
            return self._group(token)
        before = self._arrays_read()
        args = [self._or()]
        while self._take(","):
            if (length := self._duration()) is not None:
                if fn not in WINDOWS:
                    raise self._fail(token.at, f"{fn} takes no length")
                self._check_memory(token, before, of_each=fn == "rise")
                return self._window(token, args, length)
            args.append(self._or())
        self._expect(")")
        if fn == "if":
            return self._if(token, args)
        if fn == "ewma" and len(args) == 2:
            self._check_memory(token, before, of_each=False)
            return self._ewma(token, args)
        if fn in GROUPS and fn not in ARGUMENTS and fn not in WINDOWS:
            raise self._fail(token.at, f"{fn} is of peers, children or members, such as {fn}(members: ...)")
        if fn not in ARGUMENTS:
            raise self._fail(token.at, f"{fn} needs a value and a length, such as {fn}(air_temp_c, 10 min)")
        return self._function(token, args)

    def _silent(self, token: _Token) -> _Part:
        length = self._length("3 min")
        self._expect(")")
        return self._made(Silent(length), token.at, [], condition=True, unit=PLAIN)

    def _stale(self, token: _Token) -> _Part:
        point = self._point(token)
        self._expect(",")
        length = self._length("3 min")
        self._expect(")")
        return self._made(Stale(point, length), token.at, [], condition=True, unit=PLAIN)

    def _held(self, token: _Token) -> _Part:
        before = self._arrays_read()
        inner = self._or()
        self._need_condition(inner, "held")
        self._expect(",")
        wanted = self._length("10 min")
        if self._take(")"):
            self._check_memory(token, before, of_each=True)
            return self._made(Window("held", inner.node, wanted), token.at, [inner], condition=True, unit=PLAIN)
        self._check_memory(token, before, of_each=False)
        self._expect(",")
        length = self._length("15 min")
        self._expect(")")
        self._check_window(token, length)
        if wanted > length:
            raise self._fail(token.at, "held(condition, 10 min, 15 min): the first length cannot be longer than the second")
        node = Window("held", inner.node, length, (wanted / NS_PER_S,))
        return self._made(node, token.at, [inner], condition=True, unit=PLAIN)

    def _quality(self, token: _Token) -> _Part:
        point = self._point(token)
        self._expect(")")
        return self._made(Quality(point), token.at, [], condition=False, unit=PLAIN)

    def _vote(self, token: _Token) -> _Part:
        """`vote(0.5, air_temp_c, air_temp_2_c)`: the tolerance, then sensors in the order of preference."""
        tolerance, sensors = self._sum(), list[_Part]()
        if not isinstance(tolerance.node, Number) or tolerance.node.value < 0:
            raise self._fail(token.at, "write vote(tolerance, sensor, sensor, ...); the tolerance is a plain number, 0 or more")
        while self._take(","):
            sensors.append(self._reference(self._named("a sensor")))
        self._expect(")")
        nodes = tuple(part.node for part in sensors if isinstance(part.node, PointRef))
        if not SENSORS_MIN <= len(nodes) == len(sensors) <= SENSORS_MAX:
            raise self._fail(token.at, f"vote takes a tolerance and {SENSORS_MIN} to {SENSORS_MAX} points")
        unit = self._common_unit(sensors, token.at, "vote")
        return self._made(Vote(tolerance.node.value, nodes), token.at, sensors, condition=False, unit=unit)

    def _is(self, token: _Token) -> _Part:
        """A point against the labels of its codes."""
        point = self._point(token)
        table = self._points if point.link is None else (self._names.links or {}).get(point.link)
        spec = None if table is None else table.get(point.name)
        codes = {label: code for code, label in ((spec.labels or {}) if spec is not None else {}).items()}
        parts = [Compare("==", point, Number(float(codes.get(label.text, 0)))) for label in self._labels(codes, spec is not None)]
        return self._made(parts[0] if len(parts) == 1 else Bool("or", tuple(parts)), token.at, [], condition=True, unit=PLAIN)

    def _mode_is(self, token: _Token) -> _Part:
        codes = {mode: k for k, mode in enumerate(MODES)}
        labels = self._labels(codes, True, first=True)
        parts = [Compare("==", Clock("mode"), Number(float(codes[label.text]))) for label in labels]
        return self._made(parts[0] if len(parts) == 1 else Bool("or", tuple(parts)), token.at, [], condition=True, unit=PLAIN)

    def _labels(self, known: Mapping[str, int], is_checked: bool, *, first: bool = False) -> list[_Token]:
        found: list[_Token] = []
        while (first and not found) or self._take(","):
            label = self._peek()
            if label.kind != "name":
                raise self._unexpected(label, "a label")
            if is_checked and label.text not in known:
                raise self._fail(label.at, f"no label {label.text!r}; there are {', '.join(known) or 'none'}")
            self._next += 1
            found.append(label)
        self._expect(")")
        if not found:
            raise self._unexpected(self._peek(), "a label after the point")
        return found

    def _between(self, token: _Token) -> _Part:
        """The clock of the site between two hours, over midnight when the second is smaller."""
        hours = [self._sum()]
        self._expect(",")
        hours.append(self._sum())
        self._expect(")")
        if not all(isinstance(part.node, Number) and 0 <= part.node.value <= 24 for part in hours):
            raise self._fail(token.at, "between takes two hours of the day, such as between(22, 6.5)")
        low, high = (part.node for part in hours)
        after, before = Compare(">=", Clock("hour"), low), Compare("<", Clock("hour"), high)
        is_one_day = isinstance(low, Number) and isinstance(high, Number) and low.value <= high.value
        return self._made(Bool("and" if is_one_day else "or", (after, before)), token.at, [], condition=True, unit=PLAIN)

    def _group(self, token: _Token) -> _Part:
        """`median(peers.x)`, or with an expression of each, `count(children: rpm < 10)`."""
        of = self._peek().text
        self._next += 1
        outer, arrays = self._points, self._arrays
        if of != "members":
            self._points = self._names.children if of == "children" else self._names.points
        self._arrays = [] if of == "members" else None
        inner = self._nested(self._or) if self._take(":") else self._member_point(of)
        if self._arrays == [] and self._points is not None:
            raise self._fail(inner.at, f"{token.text} of members reads no point that has members{self._known_arrays()}")
        self._points, self._arrays = outer, arrays
        self._expect(")")
        fn = token.text
        if fn == "worst" and of != "members":
            raise self._fail(token.at, f"worst is of members; of {of} take max or min")
        if fn in {"any", "all", "count"}:
            self._need_condition(inner, f"{fn} of {of}")
        elif fn != "worst":
            self._need_number(inner, f"{fn} of {of}")
        unit = PLAIN if fn in {"count", "worst"} else inner.unit
        return self._made(Group(fn, of, inner.node), token.at, [inner], condition=fn in {"any", "all"}, unit=unit)

    def _arrays_read(self) -> int:
        return len(self._arrays or ())

    def _check_memory(self, token: _Token, before: int, *, of_each: bool) -> None:
        """What remembers something of each member stands inside `members:` and reads an array; what does not, reads none."""
        has_read = self._arrays_read() > before
        if of_each and (self._arrays is None or (self._points is not None and not has_read)):
            plain = "rate(x, 1 h)" if token.text == "rise" else "on_delay_s, or held(condition, 10 min, 15 min)"
            raise self._fail(token.at, f"{token.text} with one length looks at each member of an array; elsewhere take {plain}")
        if has_read and not of_each:
            raise self._fail(token.at, "of each member over time there are held(condition, 30 s) and rise(counter, 1 d)")

    def _known_arrays(self) -> str:
        names = [name for name, spec in (self._points or {}).items() if spec.members is not None]
        return f"; there are {', '.join(names[:5])}" if names else ", and the profile has none"

    def _member_point(self, of: str) -> _Part:
        self._expect(".")
        name = self._peek()
        if name.kind != "name":
            raise self._unexpected(name, f"a point of {of}")
        if self._tokens[self._next + 1].text != ")":
            raise self._fail(name.at, f"for more than a point write {of}: and an expression, such as count({of}: {name.text} < 10)")
        self._next += 1
        return self._reference(name)

    def _window(self, token: _Token, args: list[_Part], length: int) -> _Part:
        self._expect(")")
        fn = token.text
        self._need_number(args[0], f"{fn} over time")
        if fn in NEEDS_POINT and not isinstance(args[0].node, PointRef):
            raise self._fail(
                args[0].at, f"{fn} over time takes one point, such as {fn}(air_temp_c, 1 h): its range gives the resolution"
            )
        if not fn.startswith("cusum") and fn != "ewma":
            self._check_window(token, length)
        given = self._constants(token, args[1:], WINDOWS[fn])
        unit = PLAIN if fn in PLAIN_RESULT else args[0].unit
        if fn in PER_MINUTE and unit is not None:
            unit = f"{unit}/min"
        return self._made(Window(fn, args[0].node, length, given), token.at, args[:1], condition=False, unit=unit)

    def _ewma(self, token: _Token, args: list[_Part]) -> _Part:
        """With a weight of each sample instead of a time constant."""
        self._need_number(args[0], "ewma")
        (weight,) = self._constants(token, args[1:], ("weight",))
        if not 0.0 < weight <= 1.0:
            raise self._fail(
                args[1].at, "the weight of ewma lies in 0..1; or give a time constant such as ewma(air_temp_c, 30 min)"
            )
        return self._made(Window("ewma", args[0].node, 0, (weight,)), token.at, args[:1], condition=False, unit=args[0].unit)

    def _constants(self, token: _Token, args: list[_Part], wanted: tuple[str, ...]) -> tuple[float, ...]:
        if len(args) != len(wanted) or not all(isinstance(part.node, Number) for part in args):
            told = ", ".join(("value", *wanted, "length"))
            raise self._fail(token.at, f"write {token.text}({told}); what stands between are plain numbers")
        return tuple(part.node.value for part in args if isinstance(part.node, Number))

    def _check_window(self, token: _Token, length: int) -> None:
        if length % WINDOW_QUANTUM_NS:
            raise self._fail(token.at, "the length of a window must be a multiple of 3 s (sixty equal panes)")

    def _named(self, wanted: str) -> _Token:
        name = self._peek()
        if name.kind != "name":
            raise self._unexpected(name, wanted)
        self._next += 1
        return name

    def _point(self, token: _Token) -> PointRef:
        name = self._named(f"a point for {token.text}")
        part = self._reference(name, may_be_array=token.text == "stale")
        if not isinstance(part.node, PointRef):
            raise self._fail(name.at, f"{token.text} takes a point")
        return part.node

    def _length(self, example: str) -> int:
        length = self._duration()
        if length is None:
            raise self._unexpected(self._peek(), f"a length such as {example}")
        return length

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
        elif fn == "poisson":
            for part in args:
                self._need_number(part, fn)
            unit_of = PLAIN
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


def near(name: str, known: Iterable[str]) -> str:
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
