"""The views of the operators' page, and a service with something of everything that they show."""

import asyncio
from collections.abc import Iterator
from typing import Any, Final

from fastapi.routing import APIRoute
from sqlalchemy import update

from app.dashboard.routes import ROUTES
from app.models import Alarm, Profile, utc_now
from tests.e2e.harness import APP, ServiceHarness
from tests.fixtures.waiting import eventually

SINGLE_SIGN_ON: Final = {
    "oidc_issuer": "https://login.example.com",
    "oidc_client_id": "the-service",
    "oidc_redirect_uri": "https://gologin.example.com/ui/sign-in/callback",
    "oidc_rights": '{"admins": {"scopes": ["admin"]}}',
}
"""Settings with which the page of the sign-in shows its button; the provider itself is not asked."""
SETTINGS: Final[dict[str, Any]] = {
    "webhook_allow_private_addresses": True,
    "authorization_timeout": 600,  # what runs here runs until the test has seen it
    "callback_timeout": 600,
    **SINGLE_SIGN_ON,
}

VIEWS: Final[dict[str, tuple[str, ...]]] = {
    "/ui": ("/ui",),
    "/ui/sign-in": ("/ui/sign-in",),
    "/ui/enter": ("/ui/enter",),
    "/ui/sessions": ("/ui/sessions", "/ui/sessions?error_code=NO_SUCH_CODE"),
    "/ui/sessions/{session_id}": (
        "/ui/sessions/{running}",
        "/ui/sessions/{failed}",
        "/ui/sessions/{completed}",
    ),
    "/ui/sessions/{session_id}/cancel": ("/ui/sessions/{running}/cancel",),
    "/ui/sessions/{session_id}/live/view": ("/ui/sessions/{running}/live/view",),
    "/ui/accounts": ("/ui/accounts", "/ui/accounts?status=reauthorization_required"),
    "/ui/accounts/{account_id}": ("/ui/accounts/{account}", "/ui/accounts/{broken}"),
    "/ui/accounts/{account_id}/revoke": ("/ui/accounts/{account}/revoke?api_app={app}",),
    "/ui/profiles": ("/ui/profiles", "/ui/profiles?is_quarantined=true", "/ui/profiles?in_use=true"),
    "/ui/profiles/{profile_id}": ("/ui/profiles/{profile}", "/ui/profiles/{quarantined}"),
    "/ui/profiles/{profile_id}/unlink": ("/ui/profiles/{profile}/unlink",),
    "/ui/profiles/{profile_id}/release": ("/ui/profiles/{quarantined}/release",),
    "/ui/batches": ("/ui/batches",),
    "/ui/batches/new": ("/ui/batches/new",),
    "/ui/batches/{batch_id}": ("/ui/batches/{batch}",),
    "/ui/batches/{batch_id}/cancel": ("/ui/batches/{batch}/cancel",),
    "/ui/session-actions/{action}": ("/ui/session-actions/retry?batch_id={batch}",),
    "/ui/webhooks": ("/ui/webhooks",),
    "/ui/webhooks/new": ("/ui/webhooks/new",),
    "/ui/webhooks/{webhook_id}": ("/ui/webhooks/{webhook}",),
    "/ui/webhooks/{webhook_id}/deliveries/{delivery_id}": ("/ui/webhooks/{webhook}/deliveries/{delivery}",),
    "/ui/webhooks/{webhook_id}/rotate": ("/ui/webhooks/{webhook}/rotate",),
    "/ui/webhooks/{webhook_id}/delete": ("/ui/webhooks/{webhook}/delete",),
    "/ui/keys": ("/ui/keys",),
    "/ui/keys/new": ("/ui/keys/new",),
    "/ui/keys/{key_id}": ("/ui/keys/{key}",),
    "/ui/keys/{key_id}/rotate": ("/ui/keys/{key}/rotate",),
    "/ui/keys/{key_id}/revoke": ("/ui/keys/{key}/revoke",),
    "/ui/apps": ("/ui/apps",),
    "/ui/events": ("/ui/events", "/ui/events?event_type=dashboard.*"),
    "/ui/encryption-keys": ("/ui/encryption-keys",),
    "/ui/health": ("/ui/health",),
    "/ui/health/breaker": ("/ui/health/breaker",),
    "/ui/errors": ("/ui/errors#LOGIN_REQUIRED",),
    "/ui/{path:path}": ("/ui/nowhere",),
}
"""Addresses by the route's path, with the names of `make_content`."""
NO_VIEWS: Final = {
    "/ui/sign-in/callback",
    "/ui/overview/live",
    "/ui/sessions/{session_id}/live",
    "/ui/sessions/{session_id}/screenshot",
    "/ui/batches/{batch_id}/live",
    "/ui/batches/{batch_id}/results.csv",
    "/ui/events/export",
}
"""Parts of views, files, and the way back of a single sign-on."""


def view_addresses() -> list[str]:
    """Return the addresses of all views. A new view must be named above, so that no test of all views misses it."""
    paths = {route.path for route in ROUTES if isinstance(route, APIRoute) and "GET" in route.methods}
    assert paths - NO_VIEWS == VIEWS.keys(), "name an address of each view in VIEWS, or its route in NO_VIEWS"
    return [address for addresses in VIEWS.values() for address in addresses]


async def make_content(harness: ServiceHarness, accounts: Iterator[str]) -> dict[str, str]:
    """Return the names and ids of what is there, by what it is."""
    completed, failed, running, broken, quarantined = (next(accounts) for _ in range(5))
    await harness.admin.set_fault("provider.authorize", "signed_out_redirect", account=failed)
    await harness.admin.set_fault("provider.consent", "hang", account=running)
    webhook = await call(
        harness, "POST", "/webhooks", json={"url": "http://127.0.0.1:9/", "name": "a receiver"}
    )
    key = await call(harness, "POST", "/keys", json={"name": "a caller", "scopes": ["authorize"]})
    first = await harness.ask(running)
    batch = await batch_of(harness, accounts)
    ended = await asyncio.gather(*(harness.authorize(each) for each in (completed, failed, broken)))
    assert [each["status"] for each in ended] == ["completed", "needs_attention", "completed"], ended
    await break_tokens(harness, broken)
    await harness.reached(first, "consent_given")
    profile_id = await harness.profile_id(quarantined)
    await quarantine(harness, profile_id)
    return {
        "app": APP,
        "account": completed,
        "broken": broken,
        "completed": ended[0]["session_id"],
        "failed": ended[1]["session_id"],
        "running": first,
        "batch": batch,
        "profile": await harness.profile_id(completed),
        "busy_profile": await harness.profile_id(running),
        "quarantined": profile_id,
        "webhook": webhook["id"],
        "delivery": await failed_delivery(harness, webhook["id"]),
        "key": key["key_id"],
    }


async def call(harness: ServiceHarness, method: str, path: str, **request: Any) -> dict[str, Any]:
    answer = (await harness.call(method, path, **request)).json()
    assert answer["success"], answer
    found: dict[str, Any] = answer["data"]
    return found


async def batch_of(harness: ServiceHarness, accounts: Iterator[str]) -> str:
    """A batch that still runs, of which one session has completed, one has failed and one row is rejected."""
    good, locked, waiting = (next(accounts) for _ in range(3))
    await harness.admin.set_fault("provider.authorize", "locked", account=locked)
    await harness.admin.set_fault("provider.consent", "hang", account=waiting)
    rows = [{"account_id": each, "api_app": APP} for each in (good, locked, waiting, "nobody")]
    batch_id = str((await call(harness, "POST", "/authorize/batch", json={"rows": rows}))["batch_id"])

    async def has_both_ends() -> bool:
        counts = (await call(harness, "GET", f"/batches/{batch_id}"))["counts"]
        return bool(counts["completed"] and counts["in_progress"] == counts["pending"] + 1)

    await eventually(has_both_ends)
    return batch_id


async def failed_delivery(harness: ServiceHarness, webhook_id: str) -> str:
    async def find() -> str | None:
        rows = (await harness.call("GET", f"/webhooks/{webhook_id}/deliveries")).json()["data"]
        return next((str(row["id"]) for row in rows if row["attempts"]), None)

    found = await eventually(find)
    assert found
    return found


async def break_tokens(harness: ServiceHarness, account: str) -> None:
    """For good: its repair needs a person, too."""
    await harness.admin.set_fault("provider.authorize", "signed_out", account=account)
    await harness.admin.revoke_grants(account)
    refused = (await harness.call("POST", f"/accounts/{account}/verify", params={"api_app": APP})).json()
    assert refused["error_code"] == "REAUTHORIZATION_REQUIRED", refused


async def quarantine(harness: ServiceHarness, profile_id: str) -> None:
    """As after a browser that could not be stopped, which would take a minute; with an alarm of the monitor."""
    reason = "Its start failed, and it could not be stopped: HTTP 500 from GoLogin's local API"
    async with harness.writing() as db:
        await db.execute(
            update(Profile)
            .where(Profile.profile_id == profile_id)
            .values(quarantined_at=utc_now(), quarantine_reason=reason)
        )
        db.add(Alarm(name="quarantined_profiles", is_active=True, detail="1 profile is quarantined"))
