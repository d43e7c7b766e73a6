import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rules.expression import parse, references, shape
from rules.program import compile_program
from rules.tree import Binary, Bool, Call, Compare, If, Number, Unary
from telemetry import psychrometrics

NAN = math.nan
ODD = [NAN, math.inf, -math.inf, -0.0, 0.0, 5e-324, -5e-324, 1.7e308, -1.7e308, 2.0**63, -(2.0**63), 1.0, -1.0, 20.0, 60.0]
NUMBERS = st.one_of(st.sampled_from(ODD), st.floats(), st.floats(-50, 150))
COMPARE = {
    "<": lambda a, b: a < b, "<=": lambda a, b: a <= b, ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b, "==": lambda a, b: a == b, "!=": lambda a, b: a != b,
}  # fmt: skip


def known(x):
    return x if math.isfinite(x) else NAN


def naive(node, values):
    """One evaluation in plain Python; conditions are 1.0, 0.0, NaN."""
    match node:
        case Number(value):
            return value
        case Unary("-", arg):
            return -naive(arg, values)
        case Unary("not", arg):
            return 1.0 - naive(arg, values)
        case Binary(op, left, right):
            a, b = naive(left, values), naive(right, values)
            if op == "/" and b == 0:
                return NAN
            return known({"+": a + b, "-": a - b, "*": a * b}[op] if op != "/" else a / b)
        case Compare(op, left, right):
            a, b = naive(left, values), naive(right, values)
            return NAN if math.isnan(a) or math.isnan(b) else float(COMPARE[op](a, b))
        case Bool(op, args):
            parts, decides = [naive(arg, values) for arg in args], float(op == "or")
            if decides in parts:
                return decides
            return NAN if any(map(math.isnan, parts)) else 1.0 - decides
        case If(condition, then, other):
            c = naive(condition, values)
            return NAN if math.isnan(c) else naive(then if c else other, values)
        case Call(fn, args):
            return call(fn, [naive(arg, values) for arg in args])
        case _:
            return known(values[node])


def call(fn, args):
    if any(map(math.isnan, args)):
        return NAN
    if fn == "abs":
        return abs(args[0])
    if fn == "clamp":
        return min(max(args[0], args[1]), args[2])
    if fn in {"min", "max"}:
        return {"min": min, "max": max}[fn](args)
    with np.errstate(all="ignore"):
        derived = float(getattr(psychrometrics, fn)(*args))
    scaled = derived * 2.0**20
    return round(scaled) / 2**20 if math.isfinite(scaled) else NAN


TEXTS = [
    "a > b", "a >= b", "a < b", "a <= b", "a == b", "a != b", "not a > b", "a > b and c > 1", "a > b or c > 1", "a + b",
    "a - b", "a * b",
    "a / b", "-a", "abs(a)", "min(a, b, c)", "max(a, b, c)", "clamp(a, b, c)", "if(a > b, c, a)", "if(a > 1, b > 2, c < 3)",
    "1 / (a * b) > 0",
    "(a > 1 or b > 2) and not (c > 3 and a < 4) or a == c", "vpd_kpa(a, b)", "dew_point_c(a, b) > 12",
    "abs_humidity_g_m3(a, b)", "enthalpy_kj_kg(a, b)", "thi(a, b) > 72", "wet_bulb_c(a, b)",
    "mean(a, 3 s) > c", "if(a > b, 1, 0) + c",
]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
@settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), min_size=1, max_size=30))
def test_same_as_naive(text, rows):
    node = parse(text)
    slots = references(node)
    columns = [np.array([row[k] for row in rows]) for k in range(len(slots))]
    got = compile_program(node)(columns, shape(node)[1])
    assert got.shape == (len(rows),)
    assert got.dtype == np.float64
    for k, row in enumerate(rows):
        want = naive(node, dict(zip(slots, row, strict=False)))
        if "(a, b)" in text and not math.isnan(want):
            assert got[k] == pytest.approx(want, rel=1e-12, abs=2**-20)
        else:
            assert got[k] == want or (math.isnan(got[k]) and math.isnan(want)), (text, row, got[k], want)


@pytest.mark.parametrize(
    "text", ["a > 1", "a < 1", "a != 1", "not a == 1", "a / 0 > 1", "a > 1 and a < 2", "if(a > 1, a < 0, a > 0)"]
)
@pytest.mark.parametrize("value", [NAN, math.inf, -math.inf])
def test_unknown_neither_raises_nor_clears(text, value):
    node = parse(text)
    assert np.isnan(compile_program(node)([np.array([value])], shape(node)[1])).all()


def test_constants_may_be_columns():
    program = compile_program(parse("a > 3 and b < 4"))
    assert (program.slots, program.constants) == (2, 2)
    got = program([np.array([2.0, 2.0, 2.0]), np.zeros(3)], [np.array([1.0, 3.0, 1.0]), np.array([1.0, 1.0, -1.0])])
    assert got.tolist() == [1.0, 0.0, 0.0]


def test_no_rows_and_no_slots():
    assert compile_program(parse("a + 1"))([np.zeros(0)], [1.0]).shape == (0,)
    assert float(compile_program(parse("2 * 3"))([], [2.0, 3.0])) == 6.0


def test_derived_values_are_rounded():
    value = compile_program(parse("vpd_kpa(t, rh)"))([np.array([25.0]), np.array([60.0])], [])[0]
    assert value == pytest.approx(1.267, abs=5e-4)
    assert (value * 2**20).is_integer()
