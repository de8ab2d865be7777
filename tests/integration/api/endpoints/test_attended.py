"""`consent`, `stage_timeouts` and `/resume` over HTTP."""

from typing import Any

import pytest

from app.utils.exceptions import LoginRequiredException
from tests.fixtures.api import Api, OpenApi, answered, refused
from tests.fixtures.factories import AddRow

pytestmark = pytest.mark.databases("sqlite")

BODY = {"account_id": "alice", "api_app": "AIOTT1"}


@pytest.fixture
async def quiet_api(open_api: OpenApi, add_profile: AddRow):
    """No worker takes anything: a test runs the sessions itself."""
    await add_profile(account_id="alice")
    async with open_api(workers=False) as api:
        yield api


async def test_a_session_that_needs_attention_is_resumed(quiet_api: Api):
    made = answered(await quiet_api.client.post("/authorize", json=BODY | {"consent": "automatic"}), 202)
    assert (made["consent"], made["awaits_person"]) == ("automatic", False)
    path = f"/authorize/{made['session_id']}/resume"
    refused(await quiet_api.client.post(path), 409, "ATTENTION_NOT_NEEDED")
    job = await quiet_api.context.sessions.runs.claim(made["session_id"])
    assert job is not None
    await quiet_api.context.sessions.runs.fail(job, LoginRequiredException("alice"))
    resumed = answered(await quiet_api.client.post(path), 202)
    assert (resumed["status"], resumed["awaits_person"]) == ("pending", True)
    refused(await quiet_api.client.post("/authorize/unknown/resume"), 404, "SESSION_NOT_FOUND")


async def test_requested_consent_and_timeouts_reach_the_job(quiet_api: Api):
    steps = {"profile_start": 5, "attach": 0.5, "page_load": 2.5, "consent_button": 3, "callback": 4}
    body = BODY | {"consent": "attended", "stage_timeouts": steps}
    made = answered(await quiet_api.client.post("/authorize", json=body), 202)
    assert (made["consent"], made["awaits_person"]) == ("attended", True)
    job = await quiet_api.context.sessions.runs.claim(made["session_id"])
    assert job is not None
    assert job.stage_timeouts == steps


@pytest.mark.parametrize(
    "more",
    [
        {"consent": "manual"},
        {"stage_timeouts": {"unknown": 1}},
        {"stage_timeouts": {"person": 1}},
        {"stage_timeouts": {"attach": 0.4}},
        {"stage_timeouts": {"attach": "soon"}},
        {"stage_timeouts": {"attach": True}},
        {"stage_timeouts": 5},
    ],
)
async def test_unknown_consent_and_timeouts_are_refused(quiet_api: Api, more: dict[str, Any]):
    refused(await quiet_api.client.post("/authorize", json=BODY | more), 422, "INVALID_REQUEST")
