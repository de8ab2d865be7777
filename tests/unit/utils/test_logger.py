"""One JSON object a line, with every id and without any secret."""

import json
import logging

import pytest
import structlog

from app.utils.logger import get_logger
from tests.fixtures.logs import LogLines

CALLBACK = "http://localhost/callback?state=st4tes-and-s&code=c0des-and-more-s&scope=x"


def only(lines: list[dict[str, object]]) -> dict[str, object]:
    assert len(lines) == 1
    return lines[0]


def test_a_line_is_what_the_contract_shows(log_lines: LogLines):
    ids = {"profile_id": "p-1", "account_id": "alice", "api_app": "AIOTT1", "request_id": "r-1"}
    with structlog.contextvars.bound_contextvars(**ids):
        get_logger("app.services.automation").info("authorization.started")
    line = only(log_lines())
    assert str(line.pop("timestamp")).endswith("Z")
    assert line == {
        "level": "info",
        "logger": "app.services.automation",
        "event": "authorization.started",
        "service": "gologin-automation",
        "environment": "production",
        **ids,
    }


def test_lines_of_other_libraries_look_the_same(log_lines: LogLines):
    with structlog.contextvars.bound_contextvars(request_id="r-1"):
        logging.getLogger("some.library").warning("%s happened", "it")
    line = only(log_lines())
    assert (line["event"], line["level"], line["logger"]) == ("it happened", "warning", "some.library")
    assert (line["request_id"], line["service"]) == ("r-1", "gologin-automation")


@pytest.mark.parametrize(
    "key",
    [
        "access_token",
        "refresh_token",
        "token",
        "client_secret",
        "password",
        "code_verifier",
        "X_API_KEY",
        "X-API-Key",
        "Authorization",
        "Proxy-Authorization",
        "cookies",
    ],
)
def test_a_value_whose_key_names_a_secret_is_masked(log_lines: LogLines, key: str):
    get_logger("x").info("event", **{key: "hidden-value"})
    assert only(log_lines())[key] == "[masked]"


def test_value_whose_key_only_sounds_secret_is_shown(log_lines: LogLines):
    get_logger("x").info(
        "event", token_type="bearer", token_expires_at="2026", error_code="E", authorization_id=7
    )
    line = only(log_lines())
    assert (line["token_type"], line["token_expires_at"], line["error_code"]) == ("bearer", "2026", "E")
    assert line["authorization_id"] == 7


def test_code_and_state_in_a_url_are_masked_to_their_end(log_lines: LogLines):
    get_logger("x").info("event", url=CALLBACK)
    expected = "http://localhost/callback?state=[masked]&code=[masked]&scope=x"
    assert only(log_lines())["url"] == expected


@pytest.mark.parametrize("end", [" next", "\nnext", '"', "'", ">", ""])
def test_a_url_inside_a_sentence_is_masked_to_its_end(log_lines: LogLines, end: str):
    logging.getLogger("library").warning("visited %s%s", "http://h/?code=secrets-have-s", end)
    assert only(log_lines())["event"] == f"visited http://h/?code=[masked]{end}"


def test_a_traceback_shows_no_locals_and_no_code(log_lines: LogLines):
    def fail() -> None:
        access = "value-of-a-local"
        raise ValueError(f"cannot open {CALLBACK}") from KeyError(len(access))

    try:
        fail()
    except ValueError:
        get_logger("x").exception("worker.failed")
    text = json.dumps(only(log_lines()))
    assert "ValueError" in text
    assert "fail" in text
    assert "value-of-a-local" not in text
    assert "c0des" not in text
    assert "and-more" not in text


@pytest.mark.parametrize("name", ["httpx", "selenium", "uvicorn.access", "sqlalchemy.engine.Engine"])
def test_libraries_that_log_urls_are_quiet(log_lines: LogLines, name: str):
    logging.getLogger(name).debug("GET http://h/?code=1")
    if name != "sqlalchemy.engine.Engine":
        logging.getLogger(name).info("GET http://h/?code=1")
    assert log_lines() == []


def test_a_secret_is_masked_at_any_depth(log_lines: LogLines):
    get_logger("x").info("event", outer={"count": 1, "inner": {"access_token": "hidden-value"}})
    assert only(log_lines())["outer"] == {"count": 1, "inner": {"access_token": "[masked]"}}
