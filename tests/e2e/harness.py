"""The service and the sandbox as real processes, and what a test asks of them."""

import secrets
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import func, select

from app.config import ProcessRole, Settings, load_settings
from app.database import Database
from app.models import AuthorizationSession, Credential, Event, Profile
from app.services.interfaces import TokenSet
from app.services.tokens.vault import CredentialVault
from sandbox.admin_client import NO_TLS, SandboxAdmin
from sandbox.demo.service_process import ServiceProcess, settings_for
from sandbox.modules import ModuleStarter
from sandbox.process import SandboxProcess
from tests.e2e.processes import processes_with
from tests.fixtures.waiting import eventually

APP = "AIOTT1"
WAIT = 60
"""Seconds that a test waits for the end of an authorization, which takes one or two."""

DEFAULTS = {"rate_limit_per_minute": 100_000, "shutdown_grace": 15, "max_attempts": 1}
"""The deadlines stay the long ones of the service, so that a busy machine fails no test; a test shortens its own."""


class ServiceHarness:
    """One service over one sandbox, with a client that has the service's bootstrap key."""

    def __init__(
        self, sandbox: SandboxProcess, service: ServiceProcess, environment: dict[str, str], folder: Path
    ) -> None:
        self.sandbox = sandbox
        self.service = service
        self.environment = environment
        self.folder = folder
        self.key = environment["API_KEY"]

    @property
    def admin(self) -> SandboxAdmin:
        return self.sandbox.admin

    @property
    def settings(self) -> Settings:
        given = {name.lower(): value for name, value in self.environment.items() if name != "TMPDIR"}
        return load_settings(env_file=None, **given)

    @property
    def temp_dir(self) -> Path:
        """Where all temporary files of the service go."""
        return Path(self.environment["TMPDIR"])

    # Over HTTP

    async def post(
        self, account: str, app: str = APP, *, wait: int = 0, request_id: str | None = None, **more: Any
    ) -> httpx.Response:
        headers = {"Prefer": f"wait={wait}"} if wait else {}
        headers |= {"X-Request-ID": request_id} if request_id else {}
        return await self.call(
            "POST", "/authorize", headers=headers, json={"account_id": account, "api_app": app, **more}
        )

    async def ask(self, account: str, app: str = APP, *, request_id: str | None = None, **more: Any) -> str:
        """POST; the new session's id."""
        answer = await self.post(account, app, request_id=request_id, **more)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["data"]["session_id"])

    async def authorize(
        self, account: str, app: str = APP, *, request_id: str | None = None
    ) -> dict[str, Any]:
        """POST, and the session when it has ended."""
        return await self.ended(await self.ask(account, app, request_id=request_id))

    async def session(self, session_id: str, *, wait: int = 0) -> dict[str, Any]:
        headers = {"Prefer": f"wait={wait}"} if wait else {}
        answer = await self.call("GET", f"/authorize/{session_id}", headers=headers)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()["data"]
        return found

    async def ended(self, session_id: str) -> dict[str, Any]:
        session = await self.session(session_id, wait=WAIT)
        assert session["completed_at"] is not None, f"still {session['status']}, {session['stage']}"
        return session

    async def reached(self, session_id: str, stage: str) -> dict[str, Any]:
        """The session as soon as it has come to the stage."""

        async def there() -> dict[str, Any] | None:
            session = await self.session(session_id)
            assert session["completed_at"] is None or stage in session["stage_seconds"], session
            return session if stage in session["stage_seconds"] else None

        return await eventually(there)

    async def ready(self) -> None:
        """The workers run and the first sync has brought the profiles."""

        async def synced() -> bool:
            report = (await self.call("GET", "/health/ready")).json()["data"]
            return any(worker["name"] == "sync" and worker["last_success"] for worker in report["workers"])

        await eventually(synced)

    async def call(self, method: str, path: str, **request: Any) -> httpx.Response:
        headers = {"X-API-Key": self.key, **request.pop("headers", {})}
        async with httpx.AsyncClient(
            base_url=self.service.url, trust_env=False, timeout=WAIT + 10, verify=NO_TLS
        ) as http:
            return await http.request(method, path, headers=headers, **request)

    # In the database

    async def row(self, session_id: str) -> AuthorizationSession:
        """The session's row; works while the service is down."""
        query = select(AuthorizationSession).where(AuthorizationSession.session_id == session_id)
        async with self.reading() as db:
            return (await db.scalars(query)).one()

    async def credential(self, account: str, app: str = APP) -> Credential | None:
        query = select(Credential).where(Credential.account_id == account, Credential.api_app == app)
        async with self.reading() as db:
            found: Credential | None = await db.scalar(query)
            return found

    async def tokens(self, account: str, app: str = APP) -> TokenSet:
        """The stored tokens, opened with the settings' key."""
        async with self.reading() as db:
            return await CredentialVault(key_ring=self.settings.key_ring).load_tokens(db, account, app)

    async def profile_is_free(self, profile_id: str) -> bool:
        async with self.reading() as db:
            row = (await db.scalars(select(Profile).where(Profile.profile_id == profile_id))).one()
        return not row.in_use and row.lease_token is None

    async def events(self, session_id: str) -> list[Event]:
        query = select(Event).where(Event.session_id == session_id).order_by(Event.id)
        async with self.reading() as db:
            return list(await db.scalars(query))

    async def count(self, table: type[Any]) -> int:
        async with self.reading() as db:
            return int(await db.scalar(select(func.count()).select_from(table)) or 0)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Any]:
        async with self._database() as database, database.reading() as db:
            yield db

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[Any]:
        """A transaction, for what the service would take too long to do."""
        async with self._database() as database, database.transaction() as db:
            yield db

    @asynccontextmanager
    async def _database(self) -> AsyncIterator[Database]:
        database = Database.from_settings(self.settings, ProcessRole.COMMAND, pool_size=1)
        try:
            yield database
        finally:
            await database.close()

    # At GoLogin and at the provider

    async def profile_id(self, account: str) -> str:
        return (await self.admin.profile(account)).id

    async def owner(self, access_token: str) -> str | None:
        """The account that the provider says the token speaks for; None when it does not work."""
        async with httpx.AsyncClient(trust_env=False, timeout=10, verify=NO_TLS) as http:
            url = f"{self.sandbox.info.provider_url}/2/users/me"
            answer = await http.get(url, headers={"Authorization": f"Bearer {access_token}"})
        return str(answer.json()["data"]["username"]) if answer.is_success else None

    async def browser_is_gone(self, profile_id: str) -> bool:
        """Neither GoLogin nor the kernel knows of a process that works in the profile's folder."""
        known = [browser for browser in await self.admin.browsers() if browser.profile_id == profile_id]
        return not known and not processes_with(self.profile_folder(profile_id))

    def profile_folder(self, profile_id: str) -> str:
        """Its path tells this sandbox's browser from those of other sandboxes, whose profiles have the same ids."""
        assert self.sandbox.data_dir is not None
        return str(self.sandbox.data_dir / profile_id)

    async def nothing_left(self, account: str) -> None:
        """After the end: no browser, the profile free. Both follow the session's end, so they are waited for."""
        profile_id = await self.profile_id(account)

        async def left() -> bool:
            return await self.browser_is_gone(profile_id) and await self.profile_is_free(profile_id)

        await eventually(left)


def environment_for(sandbox: SandboxProcess, folder: Path, **changes: Any) -> dict[str, str]:
    """A service's environment: secrets of its own, temporary files in its folder."""
    temp = folder / "tmp"
    temp.mkdir(parents=True, exist_ok=True)
    return settings_for(sandbox.info, folder=folder, **(DEFAULTS | changes)) | {"TMPDIR": str(temp)}


@asynccontextmanager
async def open_harness(
    sandbox: SandboxProcess, parent: Path, *, start_module: ModuleStarter | None = None, **changes: Any
) -> AsyncIterator[ServiceHarness]:
    """A service with a database of its own; killed at the end if it does not stop.

    `start_module`: what starts its processes, where a test needs another one than the rest.
    """
    folder = parent / f"service-{secrets.token_hex(4)}"
    folder.mkdir(mode=0o700)
    environment = environment_for(sandbox, folder, **changes)
    service = ServiceProcess(folder, environment)
    if start_module is not None:
        service.start_module = start_module
    await _migrate(service, folder / "service.db", parent / "migrated.db")
    await service.start()
    try:
        harness = ServiceHarness(sandbox, service, environment, folder)
        await harness.ready()
        yield harness
    finally:
        await service.stop()


async def _migrate(service: ServiceProcess, database: Path, template: Path) -> None:
    """Migrate by the service's own command, once: further services of this test process get a copy."""
    if template.exists():
        shutil.copy(template, database)
        return
    await service.run("migrate")
    if database.exists():  # it is not PostgreSQL
        shutil.copy(database, template)
