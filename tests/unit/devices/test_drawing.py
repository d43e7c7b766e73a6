"""docs/commands.md draws the table the code uses."""

from pathlib import Path

from devices.lifecycle import TABLE, drawing

DOCUMENT = Path(__file__).parents[3] / "docs" / "commands.md"


def test_drawing_in_the_document_equals_the_table() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    drawn = text.split("<!-- table: begin -->\n")[1].split("<!-- table: end -->")[0]
    assert drawn == drawing()


def test_drawing_has_a_line_for_every_step() -> None:
    assert sum(" --> " in line for line in drawing().splitlines()) == len(TABLE) + 1
