"""One sandbox per test process, a fresh account per test, and nothing left set after a test."""

import base64
import hashlib
import secrets
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from urllib.parse import urlencode

import httpx
import pytest
import pytest_asyncio

from app.sandbox.admin import ProfileInfo
from app.sandbox.admin_client import SandboxAdmin
from app.sandbox.config import SandboxInfo
from app.sandbox.process import SandboxProcess
from app.sandbox.state import SandboxSettings

VERIFIER = "v" * 64


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def running_sandbox(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SandboxProcess]:
    folder: Path = tmp_path_factory.mktemp("profiles")
    async with SandboxProcess(accounts=65, data_dir=folder) as sandbox:
        yield sandbox


@pytest_asyncio.fixture(loop_scope="session")
async def sandbox(running_sandbox: SandboxProcess) -> AsyncIterator[SandboxProcess]:
    yield running_sandbox
    await running_sandbox.admin.clear_faults()
    await running_sandbox.admin.change_settings(**SandboxSettings().model_dump())


@pytest.fixture
def info(sandbox: SandboxProcess) -> SandboxInfo:
    return sandbox.info


@pytest.fixture
def admin(sandbox: SandboxProcess) -> SandboxAdmin:
    return sandbox.admin


@pytest_asyncio.fixture(loop_scope="session")
async def profile(admin: SandboxAdmin) -> AsyncIterator[ProfileInfo]:
    """A new account with its profile, known to this test alone."""
    profile = await admin.add_profile(f"test_{secrets.token_hex(6)}")
    yield profile
    await admin.remove_profile(profile.account)


@pytest_asyncio.fixture(loop_scope="session")
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
        yield client


@pytest.fixture
def authorize_url(info: SandboxInfo) -> Callable[..., str]:
    """`authorize_url("AIOTT1", state="…")`: a valid URL for `VERIFIER`; keywords replace or (None) remove parts."""

    def build(app_name: str, **changes: str | None) -> str:
        app = info.apps[app_name]
        challenge = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()
        query: dict[str, str | None] = {
            "response_type": "code",
            "client_id": app.client_id,
            "redirect_uri": app.redirect_uri,
            "scope": " ".join(app.scopes),
            "state": "state-1",
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        parts = {name: value for name, value in (query | changes).items() if value is not None}
        return f"{info.provider_url}/i/oauth2/authorize?{urlencode(parts)}"

    return build
