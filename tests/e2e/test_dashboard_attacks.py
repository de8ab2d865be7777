"""Attacks on an operator's browser: text that others wrote, and pages of other origins."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Final
from urllib.parse import quote

import pytest
from selenium import webdriver
from sqlalchemy import func, select, update

from app.context import Context
from app.models import (
    Alarm,
    ApiKey,
    Batch,
    BatchRow,
    DeliveryStatus,
    EventType,
    Evidence,
    ProfileSync,
    SessionStatus,
    SyncStatus,
    WebhookAttempt,
    WebhookDelivery,
    WebhookEndpoint,
    WebhookStatus,
    utc_now,
)
from app.services.events import recorder
from app.services.keys.service import COMMAND_LINE, Scope
from tests.e2e.harness import APP
from tests.e2e.operators import Operator
from tests.e2e.page_content import view_addresses
from tests.fixtures.api import API_KEY, NO_PLACE
from tests.fixtures.chrome import complaints
from tests.fixtures.factories import new_profile, new_session, new_tokens
from tests.fixtures.serving import served
from tests.fixtures.settings import MakeSettings

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("dashboard")]

HOSTILE: Final = "\"'><img src=x onerror=alert(1)>"
INTRUDERS: Final = "return document.querySelectorAll('img[src=x], [onerror], script:not([src])').length"
STATUS: Final = "return performance.getEntriesByType('navigation')[0].responseStatus"


async def test_text_of_others_stays_text_on_every_view(
    make_settings: MakeSettings, sqlite_url: str, driver: webdriver.Chrome
):
    settings = make_settings(database_url=sqlite_url, gologin_api_url=NO_PLACE, gologin_local_url=NO_PLACE)
    async with served(settings) as service:
        content, key = await fill(service.app.state.context)
        operator = Operator(driver, service.url)

        def look_at_every_view() -> None:
            operator.sign_in(key)
            for address in view_addresses():
                operator.open(address.format(**content))
                assert driver.execute_script(INTRUDERS) == 0, address
                assert complaints(driver) == [] or address == "/ui/nowhere", address
                if "{" in address:
                    shown = driver.find_element("tag name", "main").text
                    assert (driver.execute_script(STATUS), HOSTILE in shown) == (200, True), (address, shown)

        await asyncio.to_thread(look_at_every_view)


async def fill(context: Context) -> tuple[dict[str, str], str]:
    """Write hostile text wherever others may write some; return what is there by its name, and an operator's key."""
    profile = new_profile(
        profile_id=HOSTILE,
        account_id=HOSTILE,
        profile_name=HOSTILE,
        is_linked=True,
        quarantined_at=utc_now(),
        quarantine_reason=HOSTILE,
        lease_owner=HOSTILE,
    )
    batch = Batch(
        batch_id="11111111-1111-4111-8111-111111111111",
        requested_by=HOSTILE,
        request_id=HOSTILE,
        accepted=1,
        rejected=1,
        max_running=1,
        stop_percent=100,
        stop_window=1,
        reason=HOSTILE,
        completed_at=utc_now(),
    )
    session = new_session(
        profile,
        status=SessionStatus.FAILED,
        completed_at=utc_now(),
        error_code=HOSTILE,
        error_message=HOSTILE,
        requested_by=HOSTILE,
        request_id=HOSTILE,
        batch_id=batch.batch_id,
    )
    async with context.database.transaction() as db:
        new_key = await context.keys.create(
            db, name="x", scopes=frozenset({Scope.ADMIN}), rate_limit_per_minute=10_000, caller=COMMAND_LINE
        )
        await db.execute(update(ApiKey).values(name=HOSTILE))
        db.add_all([profile, session, batch])
        db.add(
            BatchRow(
                batch_id=batch.batch_id,
                number=1,
                account_id=HOSTILE,
                api_app=APP,
                session_id=session.session_id,
            )
        )
        db.add(
            BatchRow(
                batch_id=batch.batch_id,
                number=2,
                account_id=HOSTILE,
                api_app=HOSTILE,
                error_code="X",
                error_message=HOSTILE,
            )
        )
        db.add(
            Evidence(
                session_id=session.session_id,
                attempt=1,
                url=HOSTILE,
                title=HOSTILE,
                test_ids=[HOSTILE],
                console=[HOSTILE],
            )
        )
        db.add(Alarm(name=HOSTILE, is_active=True, detail=HOSTILE))
        db.add(
            ProfileSync(
                sync_id="a-sync",
                status=SyncStatus.FAILED,
                requested_by=HOSTILE,
                error_code=HOSTILE,
                error_message=HOSTILE,
                started_at=utc_now(),
                completed_at=utc_now(),
            )
        )
        db.add(
            WebhookEndpoint(
                id=1,
                endpoint_id="a-webhook",
                name=HOSTILE,
                url=f"http://127.0.0.1:9/{HOSTILE}",
                event_types=[HOSTILE],
                api_apps=[HOSTILE],
                account_patterns=[HOSTILE],
                secret="sealed",
                pause_reason=HOSTILE,
                after_xact_id=0,
                after_event_id=0,
                created_by=HOSTILE,
                status=WebhookStatus.PAUSED,
            )
        )
        await db.flush()
        db.add(
            WebhookDelivery(
                id=1,
                endpoint_row_id=1,
                event_id=1,
                event_type=HOSTILE,
                account_id=HOSTILE,
                api_app=APP,
                status=DeliveryStatus.PARKED,
                completed_at=utc_now(),
            )
        )
        await db.flush()
        db.add(WebhookAttempt(delivery_id=1, milliseconds=1, error=HOSTILE, answer=HOSTILE))
        recorder.record(
            db,
            EventType.AUTHORIZATION_FAILED,
            session_id=session.session_id,
            account_id=HOSTILE,
            text=HOSTILE,
            **{HOSTILE: HOSTILE},
        )
        await context.tokens.credentials.store(
            db,
            account_id=HOSTILE,
            api_app=APP,
            provider_user_id=HOSTILE,
            tokens=new_tokens(scopes=(HOSTILE,)),
            session_id=session.session_id,
        )
        key_id = (await db.scalars(select(ApiKey.key_id))).one()
    await context.fleet.gate.reserve()
    await context.fleet.gate.open_breaker(HOSTILE)
    names = {
        **dict.fromkeys(("account", "broken"), quote(HOSTILE, safe="")),
        **dict.fromkeys(("completed", "failed", "running"), session.session_id),
        **dict.fromkeys(("profile", "busy_profile", "quarantined"), quote(HOSTILE, safe="")),
        "app": APP,
        "batch": batch.batch_id,
        "webhook": "a-webhook",
        "delivery": "1",
        "key": key_id,
    }
    return names, new_key.key.get_secret_value()


OTHER_PAGE: Final = """<!doctype html><title>Elsewhere</title>
<iframe src="{url}/ui/sessions"></iframe>
<form method="post" action="{url}/ui/profiles/sync"><input name="csrf" value="{csrf}"><button>Go</button></form>"""


async def test_page_of_another_origin_can_neither_show_nor_act(
    make_settings: MakeSettings, sqlite_url: str, driver: webdriver.Chrome
):
    """It is of the same site, so that the browser sends it the cookie, and it even knows the token of the form."""
    settings = make_settings(
        database_url=sqlite_url, api_key=API_KEY, gologin_api_url=NO_PLACE, gologin_local_url=NO_PLACE
    )
    async with served(settings) as service:
        operator = Operator(driver, service.url)

        def visit() -> str:
            operator.sign_in(API_KEY)
            csrf = driver.execute_script("return document.querySelector('[name=csrf]').value")
            with other_site(OTHER_PAGE.format(url=service.url, csrf=csrf)) as url:
                driver.get(url)
                operator.until(lambda: any("frame-ancestors" in each for each in complaints(driver)))
                driver.find_element("tag name", "button").click()
                operator.sees("h1", "That did not work")
                return driver.find_element("tag name", "main").text

        assert "FORM_REFUSED" in await asyncio.to_thread(visit)
        async with service.app.state.context.database.reading() as db:
            asked = (
                select(func.count()).select_from(ProfileSync).where(ProfileSync.requested_by == "bootstrap")
            )
            assert await db.scalar(asked) == 0


@contextmanager
def other_site(page: str) -> Iterator[str]:
    """Serve the page on another port; its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(page.encode())

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()
