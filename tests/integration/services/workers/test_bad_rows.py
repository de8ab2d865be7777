"""A row that fails in a step of a worker's maintenance: all other rows are still looked after."""

import uuid
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any, Final

import pytest
import pytest_asyncio
from sqlalchemy import select, update

from app.context import Context
from app.models import (
    Alarm,
    AuthorizationSession,
    Batch,
    BatchStatus,
    Credential,
    CredentialStatus,
    DeliveryStatus,
    Event,
    Evidence,
    IdempotencyKey,
    Profile,
    ProfileSync,
    SessionStatus,
    SyncStatus,
    WebhookDelivery,
    utc_now,
)
from app.services.tokens.refresh_results import RefreshClaim
from sandbox.admin_client import SandboxAdmin
from tests.fixtures.bad_rows import refuse_changes
from tests.fixtures.batches import new_batch, sessions_of
from tests.fixtures.factories import new_profile, new_session, new_tokens
from tests.fixtures.receiver import Receiver, running_receiver
from tests.fixtures.services import OpenContext
from tests.fixtures.tokens import due_chains, spill_of
from tests.fixtures.waiting import eventually
from tests.fixtures.webhooks import (
    FAST,
    add_webhook,
    answered,
    fetch_all,
    record_events,
    running_worker,
    wait_for_fanout,
)

pytestmark = pytest.mark.databases("sqlite", long="postgresql")

PAST: Final = utc_now() - timedelta(days=400)
COUNT: Final = 5
BAD: Final = 2
"""Position of the bad row among `COUNT`."""


def others(rows: Sequence[Any]) -> list[Any]:
    return [row for position, row in enumerate(rows) if position != BAD]


async def added(context: Context, rows: Sequence[Any]) -> Sequence[Any]:
    """`rows` in the database, the one at `BAD` refusing every change."""
    async with context.database.transaction() as db:
        db.add_all(rows)
    await refuse_changes(context.database, rows[BAD])
    return rows


async def added_sessions(context: Context, **values: Any) -> Sequence[AuthorizationSession]:
    profiles = [new_profile() for _ in range(COUNT)]
    async with context.database.transaction() as db:
        db.add_all(profiles)
    return await added(context, [new_session(profile, **values) for profile in profiles])


async def statuses(context: Context, rows: Sequence[AuthorizationSession]) -> list[SessionStatus]:
    query = select(AuthorizationSession.id, AuthorizationSession.status)
    async with context.database.reading() as db:
        found = dict((await db.execute(query)).all())
    return [found[row.id] for row in rows]


def new_evidence(*, size: int = 100, taken_at: Any = None) -> Evidence:
    texts = {"url": "http://h/", "title": "", "test_ids": [], "console": []}
    ids = {"session_id": str(uuid.uuid4()), "attempt": 1}
    return Evidence(taken_at=taken_at or utc_now(), size_bytes=size, **ids, **texts)


def new_old_batch(number: int) -> Batch:
    limits = {"max_running": 1, "stop_percent": 50, "stop_window": 20}
    return Batch(batch_id=str(number), requested_by="a", completed_at=PAST, **limits)


OLD_ROWS: Final = {
    "batches": new_old_batch,
    "syncs": lambda number: ProfileSync(
        sync_id=str(number), requested_by="a", status=SyncStatus.COMPLETED, completed_at=PAST
    ),
    "events": lambda number: Event(event_type="x", actor="a", occurred_at=PAST),
    "keys": lambda number: IdempotencyKey(
        caller="a", key_hash=str(number), body_hash="x", session_id="s", expires_at=PAST
    ),
    "evidence": lambda number: new_evidence(taken_at=PAST),
}


@pytest.mark.parametrize("kind", OLD_ROWS)
async def test_cleanup_deletes_the_other_old_rows(context: Context, kind: str):
    rows = await added(context, [OLD_ROWS[kind](number) for number in range(COUNT)])
    async with context.database.transaction() as db:
        db.add(Event(event_type="x", actor="a"))  # the last event is kept, whatever its age
    await context.workers.get("cleanup").run_once()
    left = await fetch_all(context.database, select(type(rows[0]).id))
    assert set(left) & {row.id for row in rows} == {rows[BAD].id}


async def test_cleanup_deletes_the_other_old_sessions(context: Context):
    rows = await added_sessions(context, status=SessionStatus.COMPLETED, completed_at=PAST)
    await context.workers.get("cleanup").run_once()
    assert await fetch_all(context.database, select(AuthorizationSession.id)) == [rows[BAD].id]


async def test_cleanup_deletes_the_other_evidence_that_is_too_much(open_services: OpenContext):
    async with open_services(evidence_max_total_mb=1) as context:
        rows = await added(context, [new_evidence(size=900_000) for _ in range(COUNT)])
        await context.workers.get("cleanup").run_once()
        assert await fetch_all(context.database, select(Evidence.id)) == [rows[BAD].id]


@pytest.mark.parametrize(
    "values",
    [
        {"status": SessionStatus.IN_PROGRESS, "started_at": PAST, "lease_token": "x"},
        {"status": SessionStatus.PENDING, "expires_at": PAST},
    ],
    ids=["running", "waiting"],
)
async def test_cleanup_ends_the_other_overdue_sessions(context: Context, values: dict[str, Any]):
    rows = await added_sessions(context, **values)
    await context.workers.get("cleanup").run_once()
    assert await statuses(context, others(rows)) == [SessionStatus.TIMEOUT] * 4
    assert await statuses(context, [rows[BAD]]) == [values["status"]]


async def test_cleanup_frees_the_other_profiles_of_dead_processes(sandbox_context: Context):
    lease = {"in_use": True, "lease_owner": "gone:1", "lease_token": "x", "ws_url": "ws://127.0.0.1:9/x"}
    rows = await added(sandbox_context, [new_profile(**lease, lease_expires_at=PAST) for _ in range(COUNT)])
    await sandbox_context.workers.get("cleanup").run_once()
    in_use = await fetch_all(sandbox_context.database, select(Profile.id).where(Profile.in_use))
    assert in_use == [rows[BAD].id]


async def test_a_failing_step_of_the_cleanup_stops_no_other(
    context: Context, monkeypatch: pytest.MonkeyPatch
):
    """The worker has failed all the same, for its status and the readiness."""
    rows = [new_evidence(taken_at=PAST)]
    async with context.database.transaction() as db:
        db.add_all(rows)

    async def fail() -> int:
        raise ValueError("a step fails")

    cleanup = context.workers.get("cleanup")
    monkeypatch.setattr(context.sessions.runs, "end_overdue", fail)
    monkeypatch.setattr(context.fleet.gologin, "stop_orphans", fail)
    monkeypatch.setattr(cleanup._retention._events, "delete_old", fail)
    with pytest.raises(ValueError, match="a step fails"):
        await cleanup.run_once()
    assert await fetch_all(context.database, select(Evidence.id)) == []


async def test_the_other_lost_sessions_are_put_back(context: Context):
    rows = await added_sessions(
        context,
        status=SessionStatus.IN_PROGRESS,
        started_at=utc_now(),
        lease_token="x",
        lease_expires_at=utc_now() - timedelta(seconds=1),
    )
    assert await context.sessions.runs.recover_lost() == 4
    assert await statuses(context, others(rows)) == [SessionStatus.PENDING] * 4


async def test_the_other_sessions_of_a_batch_are_released_and_cancelled(context: Context):
    batch_id = await new_batch(context, COUNT, max_running=1)
    rows = await sessions_of(context.database, batch_id)
    await refuse_changes(context.database, rows[BAD])
    async with context.database.transaction() as db:
        await db.execute(update(Batch).values(max_running=4))
    await context.sessions.pacing.reconcile()
    held = await sessions_of(context.database, batch_id, held=True)
    assert [row.id for row in held] == [rows[BAD].id]
    async with context.database.transaction() as db:
        await db.execute(update(Batch).values(status=BatchStatus.CANCELLED, reason="over"))
    await context.sessions.pacing.reconcile()
    assert await statuses(context, others(rows)) == [SessionStatus.CANCELLED] * 4


@pytest.mark.databases("sqlite", "postgresql")
async def test_the_other_tokens_are_refreshed(sandbox_context: Context, admin: SandboxAdmin):
    chains = await due_chains(sandbox_context, admin, COUNT)
    await refuse_changes(sandbox_context.database, await chains[BAD].active_row())
    worker = sandbox_context.workers.get("refresh")
    await worker.run_once()
    await worker.finish_started()
    assert [(await chain.active_row()).version for chain in others(chains)] == [2] * 4
    assert await chains[BAD].refreshes() == 0, "a token that cannot be marked is not spent"


async def test_the_other_spilled_tokens_are_picked_up(sandbox_context: Context, admin: SandboxAdmin):
    chains = await due_chains(sandbox_context, admin, COUNT)
    refresher, spill = sandbox_context.tokens.refresher, spill_of(sandbox_context)
    for chain in chains:
        row = await chain.active_row()
        held = RefreshClaim(
            credential_id=row.id,
            account_id=row.account_id,
            api_app=row.api_app,
            version=row.version,
            lease_token="x",
            refresh_token=new_tokens().refresh_token,
            row_made_at=row.created_at,
        )
        await spill.write(held, new_tokens(), answered_at=utc_now())
    await refuse_changes(sandbox_context.database, await chains[BAD].active_row())
    assert await refresher.pick_up_spilled() == 4
    assert [(await chain.active_row()).version for chain in others(chains)] == [2] * 4
    assert len(await spill.read_all()) == 1, "what is not saved is kept"


async def test_the_other_revocations_are_made(sandbox_context: Context, admin: SandboxAdmin):
    chains = await due_chains(sandbox_context, admin, COUNT)
    for chain in chains:
        await chain.change(status=CredentialStatus.REVOKING, refresh_due_at=PAST)
    await refuse_changes(sandbox_context.database, await chains[BAD].active_row())
    assert await sandbox_context.tokens.credentials.revoke_due(20) == 4
    assert [await chain.row() for chain in others(chains)] == [None] * 4


async def test_the_other_accounts_are_repaired(sandbox_context: Context, admin: SandboxAdmin):
    """The bad account has no profile, and cannot be put off either."""
    chains = await due_chains(sandbox_context, admin, COUNT)
    async with sandbox_context.database.transaction() as db:
        db.add_all(new_profile(account_id=chain.account) for chain in others(chains))
        broken = {"status": CredentialStatus.REAUTHORIZATION_REQUIRED, "refresh_due_at": None}
        await db.execute(update(Credential).values(**broken))
    await refuse_changes(sandbox_context.database, await chains[BAD].active_row())
    await sandbox_context.workers.get("repair").run_once()
    repaired = await fetch_all(sandbox_context.database, select(AuthorizationSession.account_id))
    assert set(repaired) == {chain.account for chain in others(chains)}


async def test_the_other_alarms_are_recorded(context: Context):
    async with context.database.transaction() as db:
        names = ("too_many_waiting", "too_many_failures", "quarantined_profiles", "waiting_too_long")
        rows = [Alarm(name=name, is_active=True, changed_at=PAST, detail="") for name in names]
        db.add_all(rows)
    await refuse_changes(context.database, rows[BAD], key="name")
    with pytest.raises(Exception, match="cannot be changed"):
        await context.workers.get("monitor").run_once()
    active = await fetch_all(
        context.database, select(Alarm.name).where(Alarm.is_active, Alarm.name.in_(names))
    )
    assert active == [names[BAD]]


@pytest_asyncio.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with running_receiver() as running:
        yield running


@pytest.mark.parametrize("concurrency", [1, 20])
async def test_the_other_deliveries_are_sent(
    open_services: OpenContext, receiver: Receiver, concurrency: int
):
    async with open_services(**FAST | {"webhook_concurrency": concurrency}) as context:
        await add_webhook(context, receiver)
        for account in "abcde":
            await record_events(context.database, 1, account=account)
        await wait_for_fanout(context, COUNT)
        rows = await fetch_all(
            context.database, select(WebhookDelivery).order_by(WebhookDelivery.next_attempt_at)
        )
        await refuse_changes(context.database, rows[0])

        async def done() -> bool:
            pending = select(WebhookDelivery.id).where(WebhookDelivery.status == DeliveryStatus.PENDING)
            return await fetch_all(context.database, pending) == [rows[0].id]

        async with running_worker(context):
            await eventually(done)
        assert {received.account for received in receiver.taken} == {row.account_id for row in rows[1:]}


async def test_the_other_results_of_deliveries_are_kept(open_services: OpenContext, receiver: Receiver):
    """The bad row fails once it was sent: its attempt cannot be noted."""
    async with open_services(**FAST | {"webhook_concurrency": COUNT}) as context:
        await add_webhook(context, receiver)
        for account in "abcde":
            await record_events(context.database, 1, account=account)
        await wait_for_fanout(context, COUNT)
        rows = await fetch_all(context.database, select(WebhookDelivery).order_by(WebhookDelivery.id))
        deliveries = context.events.deliveries
        claims = await deliveries.claim(rows[0].endpoint_row_id, under_way=0)
        assert len(claims) == COUNT
        await refuse_changes(context.database, rows[BAD])
        await deliveries.apply(rows[0].endpoint_row_id, [(claim, answered(200)) for claim in claims])
        delivered = select(WebhookDelivery.id).where(WebhookDelivery.status == DeliveryStatus.DELIVERED)
        assert set(await fetch_all(context.database, delivered)) == {row.id for row in others(rows)}


async def test_cleanup_deletes_the_other_deliveries(open_services: OpenContext, receiver: Receiver):
    async with open_services(**FAST) as context:
        await add_webhook(context, receiver)
        for account in "abcde":
            await record_events(context.database, 1, account=account)
        await wait_for_fanout(context, COUNT)
        async with context.database.transaction() as db:
            await db.execute(update(WebhookDelivery).values(completed_at=PAST))
        rows = await fetch_all(context.database, select(WebhookDelivery).order_by(WebhookDelivery.id))
        await refuse_changes(context.database, rows[BAD])
        await context.workers.get("cleanup").run_once()
        assert await fetch_all(context.database, select(WebhookDelivery.id)) == [rows[BAD].id]


async def test_the_other_profiles_are_synced(sandbox_context: Context):
    await sandbox_context.fleet.gologin.sync_profiles()
    rows = await fetch_all(sandbox_context.database, select(Profile).order_by(Profile.id))
    async with sandbox_context.database.transaction() as db:
        await db.execute(update(Profile).values(profile_name="an old name"))
    await refuse_changes(sandbox_context.database, rows[BAD])
    result = await sandbox_context.fleet.gologin.sync_profiles()
    assert (result.updated, result.gone) == (len(rows) - 1, 0)
    old = await fetch_all(
        sandbox_context.database, select(Profile.id).where(Profile.profile_name == "an old name")
    )
    assert old == [rows[BAD].id]
