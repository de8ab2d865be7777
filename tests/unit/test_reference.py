"""The generated references of event types and error codes."""

import pytest

from app.models import EventType
from app.utils.exceptions import ErrorCode
from scripts import reference


def test_events_page_is_what_the_enum_says():
    assert reference.EVENTS.read_text() == reference.render_events()
    rows = [line for line in reference.render_events().splitlines() if line.startswith("| `")]
    assert [row.split(" | ")[0].strip("| `") for row in rows] == list(EventType)


def test_table_of_error_codes_has_one_row_for_each(capsys: pytest.CaptureFixture[str]):
    assert reference.main(["errors"]) == 0
    _, _, *rows = capsys.readouterr().out.splitlines()
    assert [row.split(" | ")[0].strip("| `") for row in rows] == sorted(ErrorCode)


def test_row_of_a_code_has_its_status_and_description():
    rows = reference.errors_table().splitlines()
    assert f"| `KEY_ENDED` | 409 | no | {ErrorCode.KEY_ENDED.description} |" in rows
    assert f"| `CANCELLED` |  |  | {ErrorCode.CANCELLED.description} |" in rows
