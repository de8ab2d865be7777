"""Logs and database after good and bad authorizations: they hold all that operators need, and no secret."""

import json

import pytest

from app.models import ApiKey
from tests.e2e.fault_run import Run
from tests.e2e.harness import ServiceHarness

# The group of tests/e2e/test_faults.py, which look at the same run.
pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.xdist_group("faults"),
    pytest.mark.timeout(600),
]

KEYS = {"timestamp", "level", "logger", "event", "service", "environment"}


def files_of(harness: ServiceHarness) -> dict[str, bytes]:
    """All that the service has written anywhere."""
    return {path.name: path.read_bytes() for path in harness.folder.rglob("*") if path.is_file()}


async def secrets_of(fault_run: Run) -> dict[str, str]:
    environment, info = fault_run.harness.environment, fault_run.harness.sandbox.info
    issued = await fault_run.harness.admin.issued()
    lists = issued.model_dump() | {"cookie": fault_run.cookies}
    single = {
        "API key": fault_run.api_key,
        "bootstrap key": environment["API_KEY"],
        "encryption key": environment["ENCRYPTION_KEYS"].partition(":")[2],
        "GoLogin token": info.gologin_api_token,
        "proxy password": "proxy-password-",
        **{
            f"client secret of {name}": app.client_secret
            for name, app in info.apps.items()
            if app.client_secret
        },
    }
    return single | {f"{kind} {n}": value for kind, values in lists.items() for n, value in enumerate(values)}


async def test_no_secret_is_written_anywhere(fault_run: Run):
    secrets, files = await secrets_of(fault_run), files_of(fault_run.harness)
    assert {"service.db", "service.log"} <= files.keys()
    assert all(len(secret) > 10 for secret in secrets.values())
    assert len(secrets) > 50
    leaks = [
        f"{name} in {file}"
        for name, secret in secrets.items()
        for file, content in files.items()
        if secret.encode() in content
    ]
    assert leaks == []


async def test_no_secret_is_answered(fault_run: Run):
    secrets = await secrets_of(fault_run)
    answers = json.dumps(
        [await fault_run.harness.session(session["session_id"]) for session in fault_run.sessions.values()]
    )
    assert [name for name, secret in secrets.items() if secret in answers] == []


async def test_every_line_is_json_with_the_same_keys(fault_run: Run):
    lines = fault_run.harness.service.log_path.read_text().splitlines()
    parsed = [json.loads(line) for line in lines]
    assert len(parsed) > 100
    for line in parsed:
        assert line.keys() >= KEYS, line
        assert line["timestamp"].endswith("Z")
        assert line["level"] in ("debug", "info", "warning", "error")
        assert (line["service"], line["environment"]) == ("gologin-automation", "development")
        assert "\n" not in line["event"]
    assert [line for line in parsed if "exception" in line] == []


async def test_every_line_about_an_authorization_carries_its_request_id(fault_run: Run):
    of_session = {session["session_id"]: session for session in fault_run.sessions.values()}
    of_account = {session["account_id"]: session for session in fault_run.sessions.values()}
    lines = fault_run.log_lines
    about = [line for line in lines if "session_id" in line or "account_id" in line or "profile_id" in line]
    assert len(about) > 5 * len(fault_run.sessions)
    for line in about:
        session = of_session.get(line.get("session_id", "")) or of_account[line["account_id"]]
        assert line["request_id"] == session["request_id"], line
        assert (line["account_id"], line["api_app"]) == (session["account_id"], session["api_app"]), line
        assert line["profile_id"] == session["profile_id"], line


async def test_request_id_leads_from_the_post_to_the_end(fault_run: Run):
    lines = fault_run.log_lines
    for session in fault_run.sessions.values():
        mine = [line["event"] for line in lines if line.get("request_id") == session["request_id"]]
        assert mine.count("http.request") == 1
        assert mine.count("authorization.started") == 1
        end = "authorization.completed" if session["status"] == "completed" else "authorization.failed"
        assert mine.count(end) == 1
        assert mine.count("authorization.stage") == len(session["stage_seconds"]) - (
            session["status"] == "completed"
        )


async def test_only_hashes_of_keys_are_stored(fault_run: Run):
    assert await fault_run.harness.count(ApiKey) == 1
    assert fault_run.api_key.encode() not in b"".join(files_of(fault_run.harness).values())
