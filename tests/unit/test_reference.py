"""The generated tables of event types and error codes."""

import pytest

from app.models import EventType
from app.utils.exceptions import ErrorCode
from scripts import reference


@pytest.mark.parametrize(("name", "members"), [("events", EventType), ("errors", ErrorCode)])
def test_table_has_one_row_for_each_member(
    name: str, members: type[EventType | ErrorCode], capsys: pytest.CaptureFixture[str]
):
    assert reference.main([name]) == 0
    head, _, *rows = capsys.readouterr().out.splitlines()
    assert {row.split(" | ")[0].strip("| `") for row in rows} == set(members)
    assert len(rows) == len(members)
    assert {row.count(" | ") for row in rows} == {head.count(" | ")}


def test_row_of_a_code_has_its_status_and_description():
    rows = reference.errors_table().splitlines()
    assert f"| `KEY_ENDED` | 409 | no | {ErrorCode.KEY_ENDED.description} |" in rows
    assert f"| `CANCELLED` |  |  | {ErrorCode.CANCELLED.description} |" in rows


def test_unknown_table_is_refused(capsys: pytest.CaptureFixture[str]):
    assert reference.main(["nothing"]) == 2
    assert "events|errors" in capsys.readouterr().err
