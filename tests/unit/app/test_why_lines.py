"""What `fieldloom why` prints of an answer."""

import pytest

from api.why import CauseView, ReadingView, WhyView
from app.why import LINKS_MAX, sentences


@pytest.mark.parametrize(
    ("count", "links", "rest"), [(LINKS_MAX, LINKS_MAX, 0), (LINKS_MAX + 1, LINKS_MAX - 1, 2), (30, LINKS_MAX - 1, 23)]
)
def test_links_of_a_controller_that_reads_many_points_are_cut_and_the_rest_is_counted(count: int, links: int, rest: int) -> None:
    read = [ReadingView(text=f"p{k}", value=1.0, shown="1", unit="", history=[f"/history/{k}"]) for k in range(count)]
    cause = CauseView(
        kind="controller", source="climate.air@farm/h-0", controller="climate", level="temperature", reason="air", read=read
    )
    why = WhyView(subject="farm/h-0/vent", at_ms=0, zone="UTC", answer="controller", value=3.0, since_ms=0, cause=cause)
    lines = list(sentences(why))
    assert [line for line in lines if "/history/" in line] == [f"    p{k}: /history/{k}" for k in range(links)]
    assert [line for line in lines if "more" in line] == (
        [f"    ... and {rest} more; GET /sites/farm/why gives them all"] if rest else []
    )
