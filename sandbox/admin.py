"""The sandbox's own API, for demo and tests: faults, browsers, statistics, settings, profiles, sign-in."""

from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, HTTPException, Query
from pydantic import BaseModel, ConfigDict, Field

from sandbox.browsers import Browser
from sandbox.config import SandboxInfo
from sandbox.faults import GENERAL_KINDS, SPECIAL_KINDS, Endpoint, Fault, FaultSpec
from sandbox.oauth import GrantState, IssuedSecrets
from sandbox.sandbox_state import SandboxState, StateDep
from sandbox.state import SESSION_COOKIE, Profile, SandboxSettings
from sandbox.traffic import RequestRecord, Stats

router = APIRouter()


class BrowserInfo(BaseModel):
    """A browser whose process is alive; `since` is unix time, `ws_url` is empty while it starts."""

    profile_id: str
    account: str
    pid: int
    pgid: int
    since: float
    ws_url: str


class ProfileInfo(BaseModel):
    """A profile; `account` is who is signed in inside it."""

    id: str
    account: str
    name: str


class ProfileSpec(BaseModel):
    """A profile to add; `name` defaults to the account's handle."""

    model_config = ConfigDict(extra="forbid")
    account: str = Field(min_length=1, max_length=100)
    name: str | None = None


class GrantSpec(BaseModel):
    """Accounts that give an app all that it may ask for."""

    model_config = ConfigDict(extra="forbid")
    app: str
    accounts: list[str]


class GrantTokens(BaseModel):
    """The tokens of a grant that nobody had to consent to."""

    account: str
    access_token: str
    refresh_token: str | None


class ProfileCount(BaseModel):
    accounts: int = Field(ge=0, le=1_000_000)


class ProfileName(BaseModel):
    name: str


@router.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}


@router.get("/info")
async def info(sandbox: StateDep) -> SandboxInfo:
    """Return the announcement of the start with the current accounts: enough for a client that did not start it."""
    accounts = [profile.account for profile in sandbox.profiles.all()]
    return sandbox.info.model_copy(update={"accounts": accounts})


@router.get("/issued")
async def issued(sandbox: StateDep) -> IssuedSecrets:
    """Every secret of an authorization that the provider has made or seen, to look for where none may be."""
    return sandbox.oauth.issued


@router.get("/grants")
async def grants(sandbox: StateDep, account: str | None = None) -> list[GrantState]:
    """Return the grants of accounts to apps, and whether a token of each still works."""
    return [
        grant
        for state in (sandbox.oauth, sandbox.oauth1, sandbox.plainbook)
        for grant in state.grants(account)
    ]


@router.post("/grants", status_code=201)
async def give_grants(spec: GrantSpec, sandbox: StateDep) -> list[GrantTokens]:
    """Grants without a consent page: what tests and benchmarks of thousands of accounts begin with."""
    app = sandbox.info.apps.get(spec.app)
    if app is None:
        raise HTTPException(404, "no such app")
    scope, lifetime = " ".join(app.scopes), sandbox.settings.access_token_seconds
    grants = [sandbox.oauth.give(app.client_id, account, scope, lifetime) for account in spec.accounts]
    return [
        GrantTokens(account=each.account, access_token=each.access_token, refresh_token=each.refresh_token)
        for each in grants
    ]


@router.post("/faults", status_code=201)
async def add_fault(spec: FaultSpec, sandbox: StateDep) -> Fault:
    return sandbox.faults.add(spec)


@router.get("/faults")
async def list_faults(sandbox: StateDep) -> list[Fault]:
    return sandbox.faults.all()


@router.get("/faults/kinds")
async def fault_kinds() -> dict[Endpoint, dict[str, str]]:
    """Every kind of fault of every endpoint, with what it does."""
    return {endpoint: GENERAL_KINDS | SPECIAL_KINDS.get(endpoint, {}) for endpoint in Endpoint}


@router.delete("/faults")
async def clear_faults(sandbox: StateDep, account: str | None = None) -> dict[str, int]:
    return {"removed": sandbox.faults.clear(account)}


@router.get("/browsers")
async def browsers(sandbox: StateDep) -> list[BrowserInfo]:
    return [_browser_info(browser) for browser in sandbox.browsers.running()]


@router.post("/browsers/{profile_id}/kill", status_code=204)
async def kill_browser(profile_id: str, sandbox: StateDep) -> None:
    """SIGKILLs the browser's process group; answers when it is gone."""
    account = next((b.account for b in sandbox.browsers.running() if b.profile_id == profile_id), None)
    if account is None:
        raise HTTPException(404, "no browser of this profile is running")
    await sandbox.browsers.kill(account)


@router.get("/stats")
async def stats(sandbox: StateDep) -> Stats:
    traffic = sandbox.traffic
    return Stats(
        requests=traffic.by_endpoint.total(),
        by_endpoint=dict(traffic.by_endpoint),
        by_account=dict(traffic.by_account),
        refreshes_by_account=dict(traffic.refreshes),
        codes_reused=sandbox.oauth.codes_reused,
        refresh_tokens_reused_by_account=dict(sandbox.oauth.refresh_tokens_reused),
        browsers_running=len(sandbox.browsers.running()),
        browsers_max=sandbox.browsers.most_at_once,
    )


@router.delete("/stats", status_code=204)
async def clear_stats(sandbox: StateDep) -> None:
    """Sets every count to zero and forgets the request log; `browsers_max` starts from what runs now."""
    sandbox.traffic.clear()
    sandbox.browsers.most_at_once = len(sandbox.browsers.running())


@router.get("/requests")
async def requests(
    sandbox: StateDep,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 100,
    endpoint: Endpoint | None = None,
    account: str | None = None,
) -> list[RequestRecord]:
    return sandbox.traffic.last(limit, endpoint=endpoint, account=account)


@router.get("/settings")
async def get_settings(sandbox: StateDep) -> SandboxSettings:
    return sandbox.settings


@router.put("/settings")
async def change_settings(changes: SandboxSettings, sandbox: StateDep) -> SandboxSettings:
    """Changes the settings that are given and leaves the others; rate limits that are given begin anew."""
    sandbox.settings = sandbox.settings.model_copy(update=changes.model_dump(exclude_unset=True))
    if "token_rate_limits" in changes.model_fields_set:
        sandbox.traffic.token_windows.clear()
    return sandbox.settings


@router.get("/profiles/{account}")
async def get_profile(account: str, sandbox: StateDep) -> ProfileInfo:
    return _profile_info(sandbox.profiles.find(account))


@router.post("/profiles", status_code=201)
async def add_profile(spec: ProfileSpec, sandbox: StateDep) -> ProfileInfo:
    """Adds an account with its profile; replaces the profile of an account that has one."""
    return _profile_info(sandbox.profiles.add(spec.account, name=spec.name))


@router.put("/profiles")
async def reset_profiles(count: ProfileCount, sandbox: StateDep) -> dict[str, int]:
    """Replaces all profiles with `sandbox_001` to `sandbox_N`."""
    sandbox.profiles.reset(count.accounts)
    return {"accounts": len(sandbox.profiles.all())}


@router.patch("/profiles/{account}")
async def rename_profile(account: str, change: ProfileName, sandbox: StateDep) -> ProfileInfo:
    """Changes the name in GoLogin's list; the signed-in account stays."""
    profile = sandbox.profiles.find(account)
    if profile is not None:
        profile.name = change.name
    return _profile_info(profile)


@router.post("/profiles/{account}/replace", status_code=201)
async def replace_profile(account: str, sandbox: StateDep) -> ProfileInfo:
    """Puts a new profile with another id in place of the account's profile."""
    _profile_info(sandbox.profiles.find(account))
    return _profile_info(sandbox.profiles.replace(account))


@router.delete("/profiles/{account}", status_code=204)
async def remove_profile(account: str, sandbox: StateDep) -> None:
    _profile_info(sandbox.profiles.remove(account))


@router.post("/accounts/{account}/cookies")
async def sign_in(account: str, sandbox: StateDep) -> dict[str, str]:
    """The cookies of a browser that is signed in at the provider as this account."""
    return {SESSION_COOKIE: sandbox.sessions.cookie_value(account)}


@router.post("/accounts/{account}/revoke")
async def revoke_grants(account: str, sandbox: StateDep) -> dict[str, int]:
    """Ends all grants of the account, as its owner could in the provider's settings."""
    states = (sandbox.oauth, sandbox.oauth1, sandbox.plainbook)
    return {"revoked": sum(state.revoke_grants(account) for state in states)}


def create_admin(sandbox: SandboxState) -> FastAPI:
    app = FastAPI(title="Sandbox admin")
    app.state.sandbox = sandbox
    app.include_router(router)
    return app


def _browser_info(browser: Browser) -> BrowserInfo:
    values: dict[str, Any] = {
        name: getattr(browser, name) for name in ("profile_id", "account", "pid", "since", "ws_url")
    }
    return BrowserInfo(pgid=browser.pid, **values)


def _profile_info(profile: Profile | None) -> ProfileInfo:
    if profile is None:
        raise HTTPException(404, "the account has no profile")
    return ProfileInfo(id=profile.id, account=profile.account, name=profile.name)
