"""Evidence over HTTP: who may see it, what it looks like, and that it comes with the attempt's end or not at all."""

import pytest

from app.models import Evidence
from app.services.interfaces import PageEvidence
from app.services.keys.service import Scope
from app.utils.exceptions import BrowserCrashedException, LeaseLostException, LoginRequiredException
from tests.fixtures.api import Api, OpenApi, answered, refused
from tests.fixtures.factories import AddRow

pytestmark = [pytest.mark.databases("sqlite"), pytest.mark.databases("sqlite", long="postgresql")]

JPEG = b"\xff\xd8\xff\xe0 a picture"
SEEN = PageEvidence("http://h/login", "Log in", ("Button",), ("an error",), JPEG)


async def failed(api: Api, row, *errors_and_evidence) -> str:
    """One attempt for each error; the session's id."""
    for error, evidence in errors_and_evidence:
        job = await api.context.sessions.runs.claim(row.session_id)
        assert job is not None
        await api.context.sessions.runs.fail(job, error, evidence=evidence)
    return row.session_id


@pytest.fixture
async def quiet_api(open_api: OpenApi):
    """No worker takes anything: a test runs the sessions itself."""
    async with open_api(workers=False, retry_wait=1e-9) as api:
        yield api


async def test_every_attempt_has_evidence(quiet_api: Api, add_session: AddRow):
    row = await add_session()
    dark = PageEvidence("about:", "", (), (), None)
    session_id = await failed(
        quiet_api,
        row,
        (BrowserCrashedException(), SEEN),
        (BrowserCrashedException(), None),
        (LoginRequiredException("alice"), dark),
    )
    answer = await quiet_api.client.get(f"/authorize/{session_id}/evidence")
    assert answer.headers["cache-control"] == "no-store"
    first, last = answered(answer)
    assert first.pop("taken_at")
    assert first == {
        "attempt": 1,
        "url": "http://h/login",
        "title": "Log in",
        "test_ids": ["Button"],
        "console": ["an error"],
        "screenshot": f"/authorize/{session_id}/screenshot?attempt=1",
    }
    assert (last["attempt"], last["screenshot"]) == (3, None)

    for path in (f"/authorize/{session_id}/screenshot", first["screenshot"]):
        picture = await quiet_api.client.get(path)
        assert (picture.status_code, picture.content) == (200, JPEG)
        headers = {name: picture.headers[name] for name in ("content-type", "cache-control")}
        assert headers == {"content-type": "image/jpeg", "cache-control": "no-store"}
        assert picture.headers["content-disposition"] == f'inline; filename="{session_id}-attempt-1.jpg"'
    for attempt in (2, 3, 99):
        answer = await quiet_api.client.get(f"/authorize/{session_id}/screenshot?attempt={attempt}")
        refused(answer, 404, "SCREENSHOT_NOT_FOUND")


async def test_missing_evidence_is_not_found(api: Api, add_session: AddRow):
    row = await add_session()
    assert answered(await api.client.get(f"/authorize/{row.session_id}/evidence")) == []
    refused(await api.client.get(f"/authorize/{row.session_id}/screenshot"), 404, "SCREENSHOT_NOT_FOUND")
    for number in ("0", "x", "99999999999999999999"):
        answer = await api.client.get(f"/authorize/{row.session_id}/screenshot?attempt={number}")
        refused(answer, 422, "INVALID_REQUEST")
    for what in ("evidence", "screenshot"):
        refused(await api.client.get(f"/authorize/unknown/{what}"), 404, "SESSION_NOT_FOUND")


async def test_evidence_has_its_own_scope(api: Api, add_session: AddRow):
    row = await add_session()
    path = f"/authorize/{row.session_id}/evidence"
    others = await api.key(*(set(Scope) - {Scope.EVIDENCE, Scope.ADMIN}), name="others")
    refused(await api.client.get(path, headers=others), 403, "FORBIDDEN")
    refused(await api.client.get(path.replace("evidence", "screenshot"), headers=others), 403, "FORBIDDEN")
    answered(await api.client.get(path, headers=await api.key(Scope.EVIDENCE, name="operator")))


async def test_a_lost_lease_leaves_no_evidence(quiet_api: Api, add_session: AddRow, database):
    row = await add_session()
    job = await quiet_api.context.sessions.runs.claim(row.session_id)
    assert job is not None
    async with database.transaction() as db:
        await quiet_api.context.sessions.authorizations.cancel(db, row.session_id, actor="a")
    with pytest.raises(LeaseLostException):
        await quiet_api.context.sessions.runs.fail(job, BrowserCrashedException(), evidence=SEEN)
    async with database.reading() as db:
        assert await db.get(Evidence, 1) is None
