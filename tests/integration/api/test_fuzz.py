"""The API answers any request as `openapi.json` says: generated requests over all of it, with and without a key.

`FUZZ_CASES`: requests in one run; `make fuzz N=2000`. Each run sends others, unless it is the short one of the suite.
"""

import asyncio
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from app.api.errors import CODES
from app.api.http.rate_limit import FailedAuthentications
from app.context import Context
from app.database import Database
from app.models import (
    Batch,
    BatchRow,
    BatchStatus,
    ProfileSync,
    SessionStatus,
    SyncStatus,
    WebhookDelivery,
    WebhookEndpoint,
    utc_now,
)
from app.services.keys.service import COMMAND_LINE, Scope
from app.services.webhooks.vault import WebhookVault, new_secret
from tests.fixtures.api import API_KEY, NO_PLACE
from tests.fixtures.factories import new_profile, new_session, new_tokens
from tests.fixtures.fuzzing import CASES
from tests.fixtures.serving import Served, served
from tests.fixtures.settings import MakeSettings

pytestmark = pytest.mark.databases("sqlite", long="postgresql")

SHORT = 100
NUMBER = "00000000-0000-4000-8000-00000000000{}"
KNOWN = {
    "account_id": "alice",
    "api_app": "AIOTT1",
    "batch_id": NUMBER.format(1),
    "delivery_id": "1000000",
    "key_id": NUMBER.format(4),
    "profile_id": "profile-1",
    "session_id": NUMBER.format(2),
    "sync_id": NUMBER.format(3),
    "webhook_id": NUMBER.format(5),
}
"""Ids of rows that exist, for a part of the requests: nobody guesses an id."""
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
KEY_HEADERS = ("x-api-key", "authorization")
NOT_OURS = {502, 503}
"""Statuses that GoLogin and the provider are to blame for, which are not there."""


# The service runs beside hypothesis, which takes its use of `random` for the strategies' own.
@pytest.mark.filterwarnings("ignore:Do not use the `random` module")
async def test_every_answer_is_a_documented_one(
    make_settings: MakeSettings, database: Database, database_url: str
):
    await fill(database)
    settings = make_settings(
        database_url=database_url,
        api_key=API_KEY,
        gologin_api_url=NO_PLACE,
        gologin_local_url=NO_PLACE,
        x_api_url=NO_PLACE,
        rate_limit_per_minute=1_000_000,
        event_stream_lifetime=0.05,
        webhook_allow_private_addresses=True,
        webhook_timeout=0.2,
        max_wait=0.01,
        shutdown_grace=5,
    )
    async with served(settings) as service:
        service.app.state.failed_authentications = FailedAuthentications(per_minute=1_000_000)
        service.app.state.context.events.webhook_client.resolve = everywhere_is_here
        await fill_by_services(service.app.state.context)
        operations = operations_of(service)
        with_key = {"X-API-Key": API_KEY}
        await asyncio.to_thread(fuzz, service, operations, headers=with_key, cases=CASES or SHORT)
        await asyncio.to_thread(fuzz, service, operations, headers={}, cases=CASES or SHORT // 3)


def operations_of(service: Served) -> list[Any]:
    schema = schemathesis.openapi.from_dict(service.app.openapi())
    operations = [found.ok() for found in schema.get_all_operations()]
    return sorted(operations, key=lambda each: each.method == "delete")  # what is gone cannot be asked for


def fuzz(service: Served, operations: list[Any], *, headers: dict[str, str], cases: int) -> None:
    failures: list[str] = []
    with requests.Session() as session:
        for operation in operations:
            failures += fuzz_one(operation, service, session, headers, max(1, cases // len(operations)))
    assert not failures, "\n\n".join(failures)


def fuzz_one(
    operation: Any, service: Served, session: requests.Session, headers: dict[str, str], cases: int
) -> list[str]:
    """Return the failures found: not raised, because the same request a second time may find another state."""
    failures = []
    right = operation.as_strategy(generation_mode=schemathesis.GenerationMode.POSITIVE)
    wrong = operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE)

    @hypothesis_settings(
        max_examples=cases,
        deadline=None,
        database=None,
        derandomize=not CASES,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=right | wrong, is_known=st.booleans())
    def check(case: Any, is_known: bool) -> None:
        for place in (case.path_parameters, case.query, case.body) if is_known else ():
            if isinstance(place, dict):
                place |= {name: value for name, value in KNOWN.items() if name in place}
        own = {name: value for name, value in (case.headers or {}).items() if name.lower() not in KEY_HEADERS}
        case.headers = own | headers
        answer = case.call(base_url=service.url, session=session, timeout=20)
        try:
            case.validate_response(answer, checks=CHECKS[answer.status_code in NOT_OURS :])
            check_envelope(operation, answer, has_key=bool(headers))
        except (AssertionError, BaseExceptionGroup) as error:
            failures.append(f"{operation.label}: {error}\n{answer.content[:500]!r}")

    check()
    return failures


def check_envelope(operation: Any, answer: Any, *, has_key: bool) -> None:
    """Check what schemathesis cannot know."""
    assert answer.headers["cache-control"] == ["no-store"]
    if answer.headers.get("content-type") != ["application/json"]:
        return
    envelope = answer.json()
    assert envelope["request_id"] == answer.headers["x-request-id"][0]
    if not envelope["success"]:
        documented = operation.definition.raw[CODES][str(answer.status_code)]
        assert envelope["error_code"] in documented, envelope
    if not has_key and operation.definition.raw.get("security"):
        assert answer.status_code in (401, 414, 422), envelope


async def everywhere_is_here(_host: str, _port: int) -> list[str]:
    return ["127.0.0.1"]


async def fill_by_services(context: Context) -> None:
    async with context.database.transaction() as db:
        key = await context.keys.create(db, name="known", scopes=frozenset(Scope), caller=COMMAND_LINE)
        key.row.key_id = KNOWN["key_id"]
        hook = WebhookEndpoint(
            endpoint_id=KNOWN["webhook_id"],
            name="",
            url=f"{NO_PLACE}/hook",
            event_types=[],
            api_apps=[],
            account_patterns=[],
            secret=WebhookVault(key_ring=context.settings.key_ring).seal(KNOWN["webhook_id"], new_secret()),
            after_xact_id=0,
            after_event_id=0,
            created_by="tests",
        )
        db.add(hook)
        await db.flush()
        db.add(
            WebhookDelivery(
                id=int(KNOWN["delivery_id"]),
                endpoint_row_id=hook.id,
                event_id=1,
                event_type="batch.completed",
                account_id="alice",
            )
        )
        await context.tokens.credentials.store(
            db,
            account_id=KNOWN["account_id"],
            api_app=KNOWN["api_app"],
            provider_user_id="1",
            tokens=new_tokens(),
            session_id=None,
        )


async def fill(database: Database) -> None:
    profile = new_profile(profile_id=KNOWN["profile_id"], account_id=KNOWN["account_id"])
    ended = {"status": SessionStatus.FAILED, "error_code": "AUTH_TIMEOUT", "completed_at": utc_now()}
    async with database.transaction() as db:
        db.add_all(
            (
                profile,
                new_session(profile, session_id=KNOWN["session_id"], batch_id=KNOWN["batch_id"], **ended),
                Batch(
                    batch_id=KNOWN["batch_id"],
                    status=BatchStatus.COMPLETED,
                    requested_by="tests",
                    accepted=1,
                    max_running=1,
                    stop_percent=50,
                    stop_window=20,
                    completed_at=utc_now(),
                ),
                BatchRow(
                    batch_id=KNOWN["batch_id"],
                    number=1,
                    account_id="alice",
                    api_app="AIOTT1",
                    session_id=KNOWN["session_id"],
                ),
                ProfileSync(sync_id=KNOWN["sync_id"], status=SyncStatus.COMPLETED, requested_by="tests"),
            )
        )
