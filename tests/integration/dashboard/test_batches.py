"""Batches on the operators' page: a file is checked and shown before it starts, followed, cancelled and retried."""

import csv
import io

import pytest
from sqlalchemy import func, select

from app.dashboard.pages import code_text
from app.dashboard.uploads import pack
from app.models import AuthorizationSession, Batch, BatchStatus, SessionStatus
from app.services.keys.service import Scope
from app.services.shared.access import AccessScope
from app.utils.exceptions import LoginRequiredException
from tests.fixtures.api import Api, OpenApi
from tests.fixtures.batches import (
    account_names,
    add_accounts,
    end_session,
    input_rows,
    new_batch,
    place_batch,
    read_batch,
    sessions_of,
)
from tests.fixtures.costs import explained
from tests.fixtures.dashboard import (
    PageBrowser,
    assert_needs,
    hidden_fields,
    page_browser,
    shown_text,
    text_of,
)

pytestmark = pytest.mark.databases("sqlite", long="postgresql")

APP = "AIOTT1"
CHECK = "/ui/batches/check"
FILE = b"""account_id,api_app,priority
alice,AIOTT1,9
@Bob,AIOTT1,
alice,AIOTT1,
nobody,AIOTT1,
not a handle,AIOTT1,
carol,UNKNOWN,
carol,AIOTT1,12
"""


async def batches(api: Api) -> list[Batch]:
    async with api.context.database.reading() as db:
        return list(await db.scalars(select(Batch)))


async def count_sessions(api: Api) -> int:
    async with api.context.database.reading() as db:
        return await db.scalar(select(func.count()).select_from(AuthorizationSession)) or 0


async def test_file_is_checked_row_by_row_and_starts_once_confirmed(api: Api, browser: PageBrowser):
    await add_accounts(api.context.database, ["alice", "bob", "carol"])
    answer = await browser.upload(CHECK, FILE, max_running="2")
    text = shown_text(answer)
    assert answer.status_code == 200, text
    assert "accounts.csv" in text
    assert "3 rows are accepted" in text
    assert "4 rows are rejected" in text
    assert "3 @alice AIOTT1 follows the session of an earlier row" in text
    assert "2 @bob AIOTT1 a new session" in text
    for reason in (
        "4 nobody AIOTT1 No GoLogin profile found for account: nobody",
        "5 not a handle AIOTT1 account_id:",
        "6 carol UNKNOWN ",
        "7 carol AIOTT1 priority: must be a whole number from 0 to 9",
    ):
        assert reason in text, text
    assert (await batches(api), await count_sessions(api)) == ([], 0)

    fields = hidden_fields(answer.text)
    page = await browser.does("/ui/batches", **fields)
    assert "The batch is started." in page
    (batch,) = await batches(api)
    assert (batch.accepted, batch.rejected, batch.max_running) == (3, 4, 2)
    assert await count_sessions(api) == 2
    again = await browser.does("/ui/batches", **fields)
    assert "This batch was started before." in again
    assert len(await batches(api)) == 1

    checked = shown_text(await browser.upload(CHECK, b"account_id\nalice\n", api_app=APP))
    assert "1 @alice AIOTT1 follows its open session" in checked


@pytest.mark.databases("sqlite")
async def test_check_says_what_the_api_makes_of_each_row(api: Api, browser: PageBrowser):
    await add_accounts(api.context.database, ["alice", "bob", "carol"])
    await browser.upload(CHECK, FILE)
    command_rows = (
        await api.client.post("/authorize/batch", content=FILE, headers={"Content-Type": "text/csv"})
    ).json()["data"]["rows"]
    shown = shown_text(await browser.upload(CHECK, FILE))
    for row in command_rows:
        if row["error"] is not None:
            sentence = text_of(code_text(row["error"]))
            assert f"{row['row']} {row['account_id']} {row['api_app']} {sentence}" in shown


@pytest.mark.databases("sqlite")
async def test_file_that_is_no_batch_is_refused_with_a_sentence(open_sqlite_api: OpenApi):
    async with (
        open_sqlite_api(workers=False, max_batch_rows=3, max_batch_bytes=2_000) as api,
        page_browser(api) as browser,
    ):
        await add_accounts(api.context.database, ["alice"])
        for content, status, sentence in (
            (b"", 422, "choose a CSV file"),
            (b"name\nalice\n", 422, "The first line must name columns of account_id, api_app, priority"),
            (b"account_id,api_app\n\xff\xfe,AIOTT1\n", 422, "The CSV is not UTF-8 text"),
            (b"account_id,api_app\n" + b"alice,AIOTT1\n" * 4, 422, "A batch has 3 rows at most"),
        ):
            answer = await browser.upload(CHECK, content)
            assert (answer.status_code, sentence in shown_text(answer)) == (status, True), shown_text(answer)
        none_good = await browser.upload(CHECK, b"account_id,api_app\nnobody,AIOTT1\n")
        assert "No row can become a session." in none_good.text
        assert "Start the batch" not in none_good.text
        too_large = await browser.upload(CHECK, b"x" * 100_000)
        assert too_large.status_code == 422, shown_text(too_large)
        wrong = await browser.upload(CHECK, b"account_id,api_app\nalice,AIOTT1\n", max_running="many")
        assert (wrong.status_code, "INVALID_REQUEST" in wrong.text) == (422, True)
        plain = await browser.post(CHECK, file="account_id")
        assert (plain.status_code, "UNSUPPORTED_MEDIA_TYPE" in plain.text) == (415, True), plain.text
        for packed, status in ((pack(b"x" * 2_001), 413), ("AAAA", 422), (pack(FILE)[:-20], 422), ("é", 422)):
            answer = await browser.post("/ui/batches", content=packed)
            assert answer.status_code == status, shown_text(answer)
        assert await batches(api) == []


@pytest.mark.databases("sqlite")
@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", b""),
        ("multipart/form-data; boundary=b", b"--b\r\n"),
        ("multipart/form-data; boundary=b", b"--b\r\n\r\nx\r\n--b--\r\n"),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="a\x00"\r\n\r\nx\r\n--b--\r\n',
        ),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n\xff\r\n--b--\r\n',
        ),
        (
            "multipart/form-data; boundary=b",
            b'\r\n--b\r\nContent-Disposition: form-data; name="a"\r\n\r\nx' * 30,
        ),
        ("multipart/form-data; boundary=b", b"nothing"),
    ],
)
async def test_form_that_cannot_be_read_is_refused(browser: PageBrowser, content_type: str, body: bytes):
    headers = {
        "Content-Type": content_type,
        "Sec-Fetch-Site": "same-origin",
        "X-CSRF-Token": await browser.csrf(),
    }
    answer = await browser.client.post(CHECK, content=body, headers=headers)
    assert answer.status_code in (415, 422), shown_text(answer)
    assert "form" in shown_text(answer)


async def test_batch_is_followed_retried_and_cancelled(api: Api, browser: PageBrowser):
    batch_id = await new_batch(api.context, 4, max_running=4)
    path = f"/ui/batches/{batch_id}"
    rows = await sessions_of(api.context.database, batch_id)
    await end_session(api.context, rows[0])
    await end_session(api.context, rows[1], LoginRequiredException(rows[1].account_id))
    running = await browser.get(path)
    assert "2 of 4 sessions have ended" in shown_text(running)
    assert 'hx-trigger="every 5s"' in running.text
    assert "1 × LOGIN_REQUIRED" in shown_text(running)
    assert "2 of 4 sessions have ended" in shown_text(await browser.get(f"{path}/live"))
    assert "4 rows, page 2 of 2" in await browser.shows(f"{path}?page=2&page_size=3")
    assert batch_id[:8] in await browser.shows("/ui/batches")

    lines = list(csv.DictReader(io.StringIO((await browser.get(f"{path}/results.csv")).text)))
    assert [(each["row"], each["account_id"]) for each in lines] == [
        (str(number), name) for number, name in enumerate(account_names(4), start=1)
    ]
    assert [each["status"] for each in lines].count("completed") == 1

    confirm = await browser.shows(f"{path}/cancel")
    assert "Cancel the batch of 4 rows by" in confirm
    assert (await read_batch(api.context.database, batch_id)).status is BatchStatus.RUNNING
    assert "The batch is cancelled." in await browser.does(f"{path}/cancel")
    refused = await browser.post(f"{path}/cancel")
    assert (refused.status_code, "BATCH_ENDED" in refused.text) == (409, True)
    live = await browser.get(f"{path}/live")
    assert (live.headers.get("HX-Refresh"), live.content) == ("true", b"")
    assert "2 sessions of the batch start again." in await browser.does(f"{path}/retry")
    again = await sessions_of(api.context.database, batch_id, SessionStatus.PENDING)
    assert len(again) == 2
    page = await browser.does(f"{path}/retry", needs_attention="true")
    assert "1 session of the batch starts again." in page
    nothing = await browser.post(f"{path}/retry")
    assert (nothing.status_code, "NOTHING_TO_RETRY" in nothing.text) == (409, True)
    assert (await browser.get("/ui/batches/none")).status_code == 404


async def test_views_and_actions_need_their_scopes(api: Api):
    batch_id = await new_batch(api.context, 1)
    path = f"/ui/batches/{batch_id}"
    await assert_needs(api, Scope.SESSIONS_READ, ["/ui/batches", path, f"{path}/live", f"{path}/results.csv"])
    await assert_needs(
        api,
        Scope.AUTHORIZE,
        ["/ui/batches/new", f"{path}/cancel"],
        ["/ui/batches", f"{path}/cancel", f"{path}/retry"],
    )
    reader = (await api.key(Scope.SESSIONS_READ, name="reader"))["X-API-Key"]
    async with page_browser(api, reader) as browser:
        assert "Cancel" not in await browser.shows(path)
        assert "Upload a CSV" not in await browser.shows("/ui/batches")
        assert (await browser.upload(CHECK, FILE)).status_code == 403
    async with page_browser(api) as browser:
        refused = await browser.upload(CHECK, FILE, csrf="wrong")
        assert (refused.status_code, "FORM_REFUSED" in refused.text) == (403, True)
    async with page_browser(api, None) as browser:
        assert (await browser.upload(CHECK, FILE)).headers["Location"] == "/ui/sign-in"


async def test_restricted_key_sees_and_starts_its_own(api: Api):
    await add_accounts(api.context.database, ["anna_1", "bert"])
    other = (await place_batch(api.context, input_rows("bert"))).batch_id
    access = AccessScope.from_lists([APP], ["anna_*"])
    key = (await api.key(Scope.AUTHORIZE, access=access))["X-API-Key"]
    async with page_browser(api, key) as browser:
        assert "bert" not in await browser.shows("/ui/batches")
        for path in ("", "/live", "/results.csv", "/cancel"):
            assert (await browser.get(f"/ui/batches/{other}{path}")).status_code == 404
        for path in ("/cancel", "/retry"):
            assert (await browser.post(f"/ui/batches/{other}{path}")).status_code == 404
        checked = await browser.upload(CHECK, b"account_id,api_app\nanna_1,AIOTT1\nbert,AIOTT1\n")
        assert "1 rows are accepted" in shown_text(checked)
        assert "OUT_OF_REACH" in checked.text
        page = await browser.does("/ui/batches", **hidden_fields(checked.text))
        assert "anna_1" in page
        out_of_reach = await browser.upload(CHECK, b"account_id,api_app\nbert,AIOTT1\n")
        assert out_of_reach.status_code == 403


@pytest.mark.databases("sqlite")
async def test_text_of_a_file_runs_nowhere(api: Api, browser: PageBrowser):
    await add_accounts(api.context.database, ["alice"])
    script = b"<script>alert(1)</script>"
    content = b'account_id,api_app\nalice,AIOTT1\n"' + script + b'","' + script + b'"\n'
    checked = await browser.upload(CHECK, content, api_app="AIOTT1")
    assert checked.status_code == 200
    assert "<script>alert" not in checked.text
    page = await browser.does("/ui/batches", **hidden_fields(checked.text))
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page


@pytest.mark.databases("sqlite")
async def test_empty_list_says_what_to_do(browser: PageBrowser):
    assert "There is no batch yet." in await browser.shows("/ui/batches")
    assert "whose first line names the columns" in await browser.shows("/ui/batches/new")


async def test_statements_do_not_depend_on_the_rows(postgresql_api: Api):
    api = postgresql_api
    async with page_browser(api) as browser:

        async def count(path: str) -> int:
            with explained(api.context.database) as seen:
                await browser.shows(path)
            return len(seen)

        async def check(rows: int) -> int:
            content = b"account_id,api_app\n" + b"".join(
                f"{name},AIOTT1\n".encode() for name in account_names(rows)
            )
            token = await browser.csrf()
            with explained(api.context.database) as seen:
                assert (await browser.upload(CHECK, content, csrf=token)).status_code == 200
            return len(seen)

        few = await new_batch(api.context, 2)
        paths = ["/ui/batches", f"/ui/batches/{few}", f"/ui/batches/{few}/live"]
        counts = [await count(path) for path in paths] + [await check(2)]
        await add_accounts(api.context.database, [f"b{number}" for number in range(60)])
        many = (await place_batch(api.context, input_rows(*(f"b{number}" for number in range(60))))).batch_id
        paths = ["/ui/batches", f"/ui/batches/{many}", f"/ui/batches/{many}/live"]
        assert [await count(path) for path in paths] + [await check(200)] == counts
        assert counts == [3, 7, 5, 4]
