"""The generated references of event types and error codes."""

import re
from pathlib import Path

import pytest

from app.models import EventType
from app.utils.exceptions import ErrorCode, exceptions_by_code
from scripts import reference
from scripts.generated import ROOT


def rows(page: str) -> list[list[str]]:
    """Return the cells of each row of a page's tables."""
    lines = [line for line in page.splitlines() if line.startswith(("| `", "| [`"))]
    return [line.strip("| ").split(" | ") for line in lines]


def name(cell: str) -> str:
    return cell.partition("]")[0].strip("[`")


def test_pages_are_what_the_code_says():
    assert reference.EVENTS.read_text() == reference.render_events()
    assert reference.ERRORS.read_text() == reference.render_errors()


def test_events_page_has_one_row_for_each_type():
    assert [name(row[0]) for row in rows(reference.render_events())] == list(EventType)


def test_errors_page_has_one_row_for_each_code_with_its_status_and_description():
    codes = {name(row[0]): row[1:] for row in rows(reference.render_errors())}
    assert codes.keys() == set(ErrorCode)
    for code, exception in exceptions_by_code().items():
        assert codes[code] == [str(exception.status_code), reference.fault(exception), code.description]
    for code in set(ErrorCode) - exceptions_by_code().keys():
        assert codes[code] == [code.description]


def test_code_with_a_section_in_operations_leads_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    page = tmp_path / "operations.md"
    page.write_text("### KEY_ENDED, app.paused\n")
    monkeypatch.setattr(reference, "OPERATIONS", page)
    assert "| [`KEY_ENDED`](operations.md#key_ended-apppaused) | 409 |" in reference.render_errors()
    assert "| `KEY_NOT_FOUND` | 404 |" in reference.render_errors()


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        (ErrorCode.INVALID_CURSOR, "request"),
        (ErrorCode.ACCOUNT_MISMATCH, "account"),
        (ErrorCode.LOGIN_REQUIRED, "person"),
        (ErrorCode.INVALID_CLIENT, "app"),
        (ErrorCode.BROWSER_CRASHED, "transient"),
        (ErrorCode.INTERNAL_ERROR, "service"),
    ],
)
def test_fault_says_what_must_change(code: ErrorCode, fault: str):
    assert reference.fault(exceptions_by_code()[code]) == fault


def test_operations_have_a_section_for_each_error_that_is_not_the_requests():
    of_requests = {code for code, each in exceptions_by_code().items() if reference.fault(each) == "request"}
    assert set(ErrorCode) - of_requests - reference.runbook_anchors().keys() == set()


def test_operations_have_a_section_for_each_alarm():
    source = (ROOT / "app" / "services" / "workers" / "monitor_worker.py").read_text()
    alarms = set(re.findall(r'"(\w+)": Reading\(|f"(\w+):', source))
    assert {"waiting_too_long", "slot_leak"} <= {one or other for one, other in alarms}
    assert {one or other for one, other in alarms} - reference.runbook_anchors().keys() == set()


def test_operations_name_each_error_of_the_log():
    logged: set[str] = set()
    for path in (ROOT / "app").rglob("*.py"):
        logged |= set(re.findall(r'log\.(?:error|exception|critical)\(\s*"([\w.]+)"', path.read_text()))
    assert "worker.died" in logged
    page = reference.OPERATIONS.read_text()
    assert [line for line in sorted(logged) if line not in page] == []
