"""Which messages of the browser are errors, and what is kept of them."""

from typing import Any

import pytest

from app.clients.browsers.console import error_line


def called(*args: dict[str, Any], kind: str = "error") -> dict[str, Any]:
    return {"method": "Runtime.consoleAPICalled", "params": {"type": kind, "args": list(args)}}


def test_an_error_is_its_words():
    error = {"type": "object", "description": "Error: x\n    at f (http://h/a.js:1:2)"}
    line = error_line(called({"value": "it failed:"}, {"value": 3}, error))
    assert line == "it failed: 3 Error: x at f (http://h/a.js:1:2)"


def test_the_preview_of_an_object_is_not_kept():
    """It holds the beginning and the end of a long string: no mask would know it."""
    preview = {"properties": [{"name": "token", "value": "begin…end"}]}
    assert error_line(called({"description": "Object", "preview": preview})) == "Object"


@pytest.mark.parametrize("kind", ["log", "warning", "info", "debug"])
def test_message_that_is_no_error_is_not_kept(kind: str):
    assert error_line(called({"value": "x"}, kind=kind)) is None


def test_exception_and_failed_load_are_errors():
    details = {"text": "Uncaught", "exception": {"description": "Error: late"}, "url": "http://h/"}
    thrown = {"method": "Runtime.exceptionThrown", "params": {"exceptionDetails": details}}
    entry = {"level": "error", "text": "Failed to load resource", "url": "http://h/x"}
    assert error_line(thrown) == "Uncaught Error: late http://h/"
    assert error_line({"method": "Log.entryAdded", "params": {"entry": entry}}) == (
        "Failed to load resource http://h/x"
    )
    warning = {"method": "Log.entryAdded", "params": {"entry": entry | {"level": "warning"}}}
    assert error_line(warning) is None


def test_a_line_is_cut_between_words():
    assert error_line(called({"value": "word " * 1000 + "secret" * 1000})) == ("word " * 1000).strip()


@pytest.mark.parametrize("message", [{}, {"id": 1}, {"method": "Page.loadEventFired", "params": {}}])
def test_other_messages_are_no_errors(message: dict[str, Any]):
    assert error_line(message) is None
