"""The events reference lists the types that the code records."""

import re
from collections.abc import Iterator
from pathlib import Path

from app.models import EventType

ROOT = Path(__file__).parents[2]


def test_readme_lists_every_event_type_and_no_other():
    assert sorted(listed_types()) == sorted(EventType)


def listed_types() -> Iterator[str]:
    """Yield the types of the table, where only the first type of a row has its whole name."""
    table = (
        (ROOT / "docs" / "events-reference.md")
        .read_text()
        .partition("| types | what happened |")[2]
        .partition("\n\n")[0]
    )
    for row in table.splitlines():
        area = ""
        for name in re.findall(r"`([a-z_.]+)`", row):
            area = name.partition(".")[0] or area
            yield name if not name.startswith(".") else area + name
