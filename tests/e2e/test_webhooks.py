"""The real service is killed while it tells a webhook: every event at least once, in order per account."""

import secrets
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.database import Database
from app.models import DeliveryStatus, EventType
from app.services.events import recorder
from app.utils.crypto import generate_key
from sandbox.demo.service_process import ServiceProcess
from tests.e2e.children import commands
from tests.fixtures.receiver import Received, reply, running_receiver
from tests.fixtures.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

ACCOUNTS = ("anna", "berta", "clara", "dora", "emma")
EVENTS = 8
KILLS = (3, 17)
"""After so many deliveries: the last one is taken, and the service does not live to hear it."""


def settings_of(database_url: str) -> dict[str, str]:
    return {
        "ENVIRONMENT": "development",
        "PORT": "0",
        "DATABASE_URL": database_url,
        "API_KEY": secrets.token_urlsafe(32),
        "ENCRYPTION_KEYS": f"test:{generate_key()}",
        "GOLOGIN_API_URL": "http://127.0.0.1:9",
        "LEASE_SECONDS": "2",
        "WEBHOOK_ALLOW_PRIVATE_ADDRESSES": "true",
        "WEBHOOK_RETRY_WAITS": "[0.1, 0.1, 0.1, 60]",
    }


@pytest.mark.parametrize(
    "database_url", ["sqlite", pytest.param("postgresql", marks=pytest.mark.long)], indirect=True
)
async def test_no_event_is_lost_or_overtaken_when_the_service_is_killed(database_url: str, tmp_path: Path):
    settings = settings_of(database_url)
    service = ServiceProcess(tmp_path, settings)
    database = Database(database_url, pool_size=2)
    async with running_receiver() as receiver:
        left = list(KILLS)

        def answer(received: Received) -> bytes | None:
            if left and len(receiver.taken) + 1 >= left[0]:
                left.pop(0)
                service.process.kill()  # type: ignore[union-attr]
                return reply()
            tries = [one.headers["webhook-id"] for one in receiver.arrived].count(
                received.headers["webhook-id"]
            )
            return (
                reply(503) if received.number == 4 and received.account == "anna" and tries == 1 else reply()
            )

        receiver.answer = answer
        await service.start()
        try:
            webhook = await call(
                service,
                settings,
                "POST",
                "",
                json={"url": receiver.url(), "event_types": [EventType.BATCH_COMPLETED]},
            )
            receiver.secrets["/"] = webhook["secret"]
            await happen(database, range(EVENTS // 2))
            await eventually(lambda: dead(service), 60)
            await happen(database, range(EVENTS // 2, EVENTS))  # nobody is there to see it
            await service.start()
            await eventually(lambda: dead(service), 60)
            await service.start()

            async def all_delivered() -> bool:
                params = {"status": DeliveryStatus.DELIVERED, "page_size": 500}
                rows = await call(service, settings, "GET", f"/{webhook['id']}/deliveries", params=params)
                return len(rows) == EVENTS * len(ACCOUNTS)

            await eventually(all_delivered, 60)
        finally:
            await service.stop()
            await database.close()
        for account in ACCOUNTS:
            assert receiver.first_numbers(account) == list(range(EVENTS))
            assert receiver.numbers(account) == sorted(receiver.numbers(account)), (
                "a repetition comes at once"
            )
        assert len(receiver.taken) >= EVENTS * len(ACCOUNTS) + len(KILLS)


async def dead(service: ServiceProcess) -> bool:
    assert service.process is not None
    return service.process.returncode is not None


async def happen(database: Database, numbers: range) -> None:
    for number in numbers:
        async with database.transaction() as db:
            for account in ACCOUNTS:
                recorder.record(db, EventType.BATCH_COMPLETED, account_id=account, number=number)


async def call(
    service: ServiceProcess, settings: dict[str, str], method: str, path: str, **request: Any
) -> Any:
    async with httpx.AsyncClient(base_url=service.url, trust_env=False, timeout=20) as http:
        answer = await http.request(
            method, f"/webhooks{path}", headers={"X-API-Key": settings["API_KEY"]}, **request
        )
    assert answer.is_success, answer.text
    return answer.json()["data"]


async def test_webhook_commands_work(sqlite_url: str, tmp_path: Path):
    environment = settings_of(sqlite_url)
    async with running_receiver() as receiver, commands(tmp_path / "cli") as run:

        async def done(*arguments: str, code: int = 0) -> str:
            ended = await run("webhooks", *arguments, environment=environment)
            assert ended.code == code, ended.text
            return ended.output.strip()

        made = ("--name", "crm", "--event-type", "authorization.*", "--account", "@Team_*", "--api-app", "X")
        webhook_id, secret = (await done("create", receiver.url(), *made)).splitlines()
        receiver.secrets["/"] = secret
        assert (await done("test", webhook_id)).startswith("200 in ")
        listed = await done("list")
        assert webhook_id in listed
        assert "whsec" not in listed
        receiver.secrets["/"] = await done("rotate", webhook_id, "--hours", "0")
        receiver.answer = lambda _: reply(500)
        assert (await done("test", webhook_id, code=1)).startswith("500 in ")
        await done("pause", webhook_id)
        shown = await done("show", webhook_id)
        for line in (
            "status: paused by cli",
            "accounts: team_*",
            "event types: authorization.*",
            "apps: X",
            "pending: 0",
        ):
            assert line in shown.splitlines()
        await done("resume", webhook_id)
        assert await done("replay", webhook_id, "--event-id", "1") == "Sending from event 1 on."
        await done("replay", webhook_id, code=2)
        await done("delete", webhook_id)
        await done("show", webhook_id, code=1)
