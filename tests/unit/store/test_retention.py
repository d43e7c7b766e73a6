import pytest

from store.retention import SegmentFacts, TrimPlan, plan_trim

DAY_NS = 86_400 * 10**9
FACTS = [SegmentFacts(first, 100, day * DAY_NS) for day, first in enumerate((0, 10, 20, 30))]
CASES = {
    "all young": ({"slowest": 39, "needed": 39, "now_ns": 5 * DAY_NS}, TrimPlan(0, False)),
    "two old, all followed": ({"slowest": 39, "needed": 39, "now_ns": 8 * DAY_NS + 1}, TrimPlan(20, False)),
    "old but a follower is behind": ({"slowest": 12, "needed": 39, "now_ns": 90 * DAY_NS}, TrimPlan(10, False)),
    "too many bytes behind": ({"slowest": 39, "needed": 39, "now_ns": 0, "keep_bytes": 150}, TrimPlan(20, False)),
    "bytes ahead of the follower do not count": ({"slowest": 12, "needed": 39, "now_ns": 0, "keep_bytes": 150}, TrimPlan(0, False)),
    "short of space cuts the follower off": ({"slowest": -1, "needed": 39, "now_ns": 0, "free_bytes": 0}, TrimPlan(10, True)),
    "short of space trims what is followed first": (
        {"slowest": 39, "needed": 39, "now_ns": 0, "free_bytes": 0},
        TrimPlan(10, False),
    ),
    "what restart needs stays": ({"slowest": 39, "needed": 5, "now_ns": 90 * DAY_NS, "free_bytes": 0}, TrimPlan(0, False)),
    "the newest stays": ({"slowest": 39, "needed": 39, "now_ns": 90 * DAY_NS, "free_bytes": 0}, TrimPlan(30, False)),
}


@pytest.mark.parametrize("name", CASES)
def test_plan(name):
    given, expected = CASES[name]
    assert plan_trim(FACTS, **{"free_bytes": 1000, "disk_bytes": 1000} | given) == expected


def test_no_segments_need_no_trim():
    assert plan_trim([], slowest=0, needed=0, now_ns=0, free_bytes=0, disk_bytes=1) == TrimPlan(0, False)
