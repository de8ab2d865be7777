"""Providers that are not ours, each a process that the tests start, and what the tests do there as its users do."""

import json
import secrets
import shutil
import subprocess
import sys
from asyncio import create_subprocess_exec, timeout
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx

from app.utils.processes import dies_with_parent
from sandbox.admin_client import NO_TLS
from sandbox.devtools import command
from tests.e2e.harness import ServiceHarness
from tests.fixtures.waiting import eventually

HERE = Path(__file__).parent
_OIDC = HERE / "oidc"
_START_TIMEOUT = 60
_NODE_MAJOR = 20


@dataclass(frozen=True)
class ForeignProvider:
    name: str
    url: str
    app: dict[str, Any]

    @property
    def api_app(self) -> str:
        return self.name.upper()

    async def call(self, action: str, **params: str) -> httpx.Response:
        async with httpx.AsyncClient(trust_env=False, timeout=20, verify=NO_TLS) as http:
            answer = await http.get(f"{self.url}/test/{action}", params=params)
        return answer.raise_for_status()

    async def counts(self) -> dict[str, int]:
        found: dict[str, int] = (await self.call("counts")).json()
        return found

    async def sign_in(self, harness: ServiceHarness, account: str) -> None:
        """In the account's profile, which then stops as GoLogin itself stops it."""
        profile = {"profileId": await harness.profile_id(account)}
        async with httpx.AsyncClient(
            base_url=harness.sandbox.info.gologin_local_url, trust_env=False, timeout=60, verify=NO_TLS
        ) as http:

            async def started() -> str | None:
                """Asked again: on a busy machine a browser does not always come up in time."""
                answer = await http.post("/browser/start-profile", json={**profile, "sync": True})
                return str(answer.json()["wsUrl"]) if answer.is_success else None

            ws_url = str(await eventually(started, 90))
            page = f"{self.url}/test/sign-in?account={account}"
            await command(ws_url, "Target.createTarget", {"url": page})

            async def signed_in() -> bool:
                cookies = (await command(ws_url, "Storage.getCookies"))["cookies"]
                return any(cookie["name"] in ("_session", "sessionid") for cookie in cookies)

            await eventually(signed_in)
            (await http.post("/browser/stop-profile", json=profile)).raise_for_status()


def missing(name: str) -> str | None:
    """Why the provider cannot run here."""
    if name != "oidc":
        return None
    node = shutil.which("node")
    if node is None:
        return "there is no Node"
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
    if int(version.removeprefix("v").partition(".")[0]) < _NODE_MAJOR:
        return f"Node {version.strip()} is older than {_NODE_MAJOR}"
    if not (_OIDC / "node_modules" / "oidc-provider").exists():
        return "oidc-provider is not installed: run `make venv`"
    return None


@asynccontextmanager
async def running(
    name: str,
    redirect_uri: str,
    folder: Path,
    *,
    host: str = "127.0.0.1",
    groups: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> AsyncIterator[ForeignProvider]:
    """`host`: a name of this machine that addresses have. `groups`: of accounts, in ID tokens."""
    app = {
        "client_id": f"{name}-client",
        "client_secret": secrets.token_urlsafe(32),
        "redirect_uri": redirect_uri,
    }
    program = {
        "oidc": ["node", str(_OIDC / "server.js")],
        "django": [sys.executable, str(HERE / "django_provider.py")],
    }[name]
    given = json.dumps({**app, "folder": str(folder), "host": host, "groups": dict(groups)})
    with (folder / f"{name}.log").open("wb") as log:
        process = await create_subprocess_exec(
            *dies_with_parent("KILL"), *program, given, stdin=DEVNULL, stdout=PIPE, stderr=log
        )
    try:
        assert process.stdout is not None
        async with timeout(_START_TIMEOUT):
            line = await process.stdout.readline()
        assert line, (folder / f"{name}.log").read_text()
        yield ForeignProvider(name, json.loads(line)["url"], {**app, "provider": name})
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
