"""`GET /accounts?state=…` and the problem of each account, and actions on many accounts."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select

from app.models import (
    ActorKind,
    AppState,
    BatchRow,
    Credential,
    CredentialStatus,
    Event,
    SessionStatus,
    utc_now,
)
from app.services.keys.service import Scope
from app.services.shared.access import AccessScope
from tests.fixtures.api import Api, OpenApi, answered, refused
from tests.fixtures.factories import new_credential, new_profile, new_session
from tests.fixtures.routes import granting

pytestmark = pytest.mark.databases("sqlite", long="postgresql")

BROKEN = CredentialStatus.REAUTHORIZATION_REQUIRED


async def add(api: Api, *rows: Any) -> None:
    async with api.context.database.transaction() as db:
        db.add_all(rows)


async def listed(api: Api, headers: dict[str, str] | None = None, **params: Any) -> list[dict[str, Any]]:
    answer = await api.client.get("/accounts", params=params, headers=headers)
    assert answer.status_code == 200, answer.text
    rows: list[dict[str, Any]] = answer.json()["data"]
    return rows


async def problem_of(api: Api, account: str, state: str) -> dict[str, Any]:
    (row,) = [row for row in await listed(api, state=state) if row["account_id"] == account]
    assert row["state"] == state
    problem: dict[str, Any] = row["problem"]
    return problem


def moment(value: str | None) -> datetime:
    assert value is not None
    return datetime.fromisoformat(value)


async def act(api: Api, action: str, headers: dict[str, str] | None = None, **values: Any) -> Any:
    body = {"action": action, **values}
    return await api.client.post("/accounts/actions", json=body, headers=headers)


async def confirmed(
    api: Api, action: str, filters: dict[str, Any], headers: dict[str, str] | None = None
) -> Any:
    """Return the answer to a dry run followed by the action."""
    plan = answered(await act(api, action, headers, filter=filters))
    assert (plan["dry_run"], plan["changed"], plan["count_is_exact"]) == (True, None, True)
    answer = await act(api, action, headers, filter=filters, dry_run=False, expected_count=plan["count"])
    return answered(answer, 202)


async def rows_of(api: Api, model: Any, *conditions: Any) -> Sequence[Any]:
    async with api.context.database.reading() as db:
        return (
            await db.scalars(select(model).where(*conditions).order_by(model.__mapper__.primary_key[0]))
        ).all()


class TestStates:
    async def test_account_has_the_state_in_every_view(self, api: Api):
        await add(api, new_credential("whole"), new_credential("lost", status=BROKEN))
        states = {row["account_id"]: (row["state"], row["problem"] is None) for row in await listed(api)}
        assert states == {"whole": ("working", True), "lost": ("broken", False)}
        (row,) = answered(await api.client.get("/accounts/lost"))
        assert (row["state"], row["problem"]["code"]) == ("broken", "REAUTHORIZATION_REQUIRED")

    async def test_expiring_accounts_are_listed_the_soonest_first(self, api: Api):
        now = utc_now()
        await add(
            api,
            *(
                new_credential(f"in_{seconds}", token_expires_at=now + timedelta(seconds=seconds))
                for seconds in (400, -10, 100, 5000)
            ),
            new_credential("never", token_expires_at=None),
        )
        rows = await listed(api, state="expiring")
        assert [row["account_id"] for row in rows] == ["in_-10", "in_100", "in_400"]
        problem = rows[0]["problem"]
        assert (problem["code"], problem["session_id"]) == ("TOKEN_EXPIRED", None)
        assert problem["sentence"] == "The access token has expired. The service refreshes it by itself."
        assert problem["next_try_at"] == rows[0]["next_refresh_at"]
        page = (await api.client.get("/accounts", params={"state": "expiring", "page_size": 2})).json()
        assert (page["total"], page["total_is_exact"]) == (3, True)
        rows = await listed(api, state="expiring", page_size=2, cursor=page["next_cursor"])
        assert [row["account_id"] for row in rows] == ["in_400"]

    async def test_accounts_are_listed_by_their_expiry(self, api: Api):
        now = utc_now()
        await add(
            api,
            *(
                new_credential(f"in_{seconds}", token_expires_at=now + timedelta(seconds=seconds))
                for seconds in (7200, -10, 0, 3600)
            ),
            new_credential("never", token_expires_at=None),
            new_credential("lost", status=BROKEN, token_expires_at=now),
        )
        start, end = now.isoformat(), (now + timedelta(hours=1)).isoformat()
        for params, expected in (
            ({"expires_until": start}, ["in_-10"]),
            ({"expires_since": start}, ["in_0", "in_3600", "in_7200"]),
            ({"expires_since": start, "expires_until": end}, ["in_0"]),
            ({"expires_since": start, "text": "36"}, ["in_3600"]),
            ({"expires_since": start, "api_app": "other"}, []),
        ):
            assert [row["account_id"] for row in await listed(api, **params)] == expected, params
        page = (await api.client.get("/accounts", params={"expires_since": start, "page_size": 2})).json()
        assert (page["total"], page["total_is_exact"]) == (3, True)
        rows = await listed(api, expires_since=start, page_size=2, cursor=page["next_cursor"])
        assert [row["account_id"] for row in rows] == ["in_7200"]

    async def test_list_by_expiry_refuses_what_it_does_not_have(self, api: Api):
        for other in ({"state": "working"}, {"status": "active"}, {"sort": "updated_at"}, {"page": 2}):
            params = {"expires_until": utc_now().isoformat(), **other}
            sentence = refused(await api.client.get("/accounts", params=params), 422, "INVALID_REQUEST")
            assert "expiry" in sentence, other

    async def test_expiring_account_says_what_hinders_its_refresh(self, api: Api):
        soon = utc_now() + timedelta(seconds=60)
        await add(
            api,
            AppState(api_app="AIOTT1", paused_at=utc_now(), reason="INVALID_CLIENT 5 times in a row"),
            AppState(api_app="AIOTT2", limited_until=utc_now() + timedelta(hours=1)),
            new_credential("paused", token_expires_at=soon),
            new_credential(
                "limited", "AIOTT2", token_expires_at=soon, refresh_error_code="TWITTER_API_ERROR"
            ),
            new_credential("unrefreshable", "AIOTT3", token_expires_at=soon, refresh_token=None),
        )
        paused = await problem_of(api, "paused", "expiring")
        assert (paused["code"], paused["next_try_at"]) == ("APP_PAUSED", None)
        assert "POST /apps/AIOTT1/resume" in paused["sentence"]
        limited = await problem_of(api, "limited", "expiring")
        assert limited["code"] == "TWITTER_API_ERROR"
        assert "limit ends" in limited["sentence"]
        assert moment(limited["next_try_at"]) > utc_now() + timedelta(minutes=59)
        unrefreshable = await problem_of(api, "unrefreshable", "expiring")
        assert "authorize the account again" in unrefreshable["sentence"]
        assert unrefreshable["next_try_at"] is None

    async def test_broken_account_says_when_it_is_repaired(self, api: Api):
        broke_at = utc_now() - timedelta(hours=3)
        values: dict[str, Any] = {
            "status": BROKEN, "refresh_error_code": "INVALID_GRANT", "unusable_since": broke_at, "refresh_due_at": None,
        }  # fmt: skip
        failed_at = utc_now() - timedelta(minutes=5)
        profiles = {name: new_profile(account_id=name) for name in ("due", "failed", "running", "often")}
        repair: dict[str, Any] = {"requested_by_kind": ActorKind.SELF_HEALING}
        failed = new_session(
            profiles["failed"],
            status=SessionStatus.FAILED,
            error_code="BROWSER_CRASHED",
            completed_at=failed_at,
            **repair,
        )
        running = new_session(profiles["running"], status=SessionStatus.IN_PROGRESS)
        first_at = utc_now() - timedelta(hours=2)
        often = [
            new_session(
                profiles["often"],
                status=SessionStatus.FAILED,
                created_at=first_at + timedelta(minutes=number),
                completed_at=first_at + timedelta(minutes=number),
                **repair,
            )
            for number in range(api.context.settings.repair_per_day)
        ]
        quarantined = new_profile(account_id="quarantined", quarantined_at=utc_now())
        accounts = [*profiles, "homeless", "quarantined"]
        await add(
            api,
            *profiles.values(),
            quarantined,
            failed,
            running,
            *often,
            *(new_credential(account, **values) for account in accounts),
            new_credential("going", status=CredentialStatus.REVOKING),
        )
        due = await problem_of(api, "due", "broken")
        assert (due["code"], moment(due["since"]), moment(due["next_try_at"])) == (
            "INVALID_GRANT", broke_at, broke_at,
        )  # fmt: skip
        assert due["sentence"] == (
            "The provider refused the refresh token: it is spent or revoked. "
            "The service authorizes the account again by itself."
        )
        after_failure = await problem_of(api, "failed", "broken")
        assert after_failure["session_id"] == failed.session_id
        assert moment(after_failure["next_try_at"]) == failed_at + timedelta(minutes=15)
        in_repair = await problem_of(api, "running", "broken")
        assert (in_repair["session_id"], in_repair["next_try_at"]) == (running.session_id, None)
        assert "runs" in in_repair["sentence"]
        exhausted = await problem_of(api, "often", "broken")
        assert moment(exhausted["next_try_at"]) == first_at + timedelta(days=1)
        assert "Name or link a profile" in (await problem_of(api, "homeless", "broken"))["sentence"]
        assert "/release" in (await problem_of(api, "quarantined", "broken"))["sentence"]
        assert (await problem_of(api, "going", "broken"))["code"] == "TOKEN_REVOKED"

    async def test_account_of_an_app_without_repairs_waits_for_its_operator(self, open_api: OpenApi):
        async with open_api(workers=False, repair_apps=[]) as api:
            await add(api, new_profile(account_id="lost"), new_credential("lost", status=BROKEN))
            problem = await problem_of(api, "lost", "broken")
        assert problem["next_try_at"] is None
        assert "POST /authorize" in problem["sentence"]

    @pytest.mark.databases("sqlite", "postgresql")
    async def test_needs_person_lists_accounts_with_and_without_tokens(self, api: Api):
        ended = utc_now() - timedelta(minutes=1)
        profiles = [new_profile(account_id=name) for name in ("new", "lost", "declined")]
        end: dict[str, Any] = {"completed_at": ended}
        await add(
            api,
            *profiles,
            new_credential("lost", status=BROKEN),
            new_session(
                profiles[0], status=SessionStatus.NEEDS_ATTENTION, error_code="LOGIN_REQUIRED", **end
            ),
            new_session(
                profiles[1], status=SessionStatus.NEEDS_ATTENTION, error_code="LOGIN_REQUIRED", **end
            ),
            new_session(profiles[2], status=SessionStatus.FAILED, error_code="CONSENT_DECLINED", **end),
        )
        rows = {row["account_id"]: row for row in await listed(api, state="needs_person")}
        assert rows.keys() == {"new", "lost", "declined"}
        assert (rows["new"]["status"], rows["lost"]["status"]) == (None, BROKEN)
        problem = rows["lost"]["problem"]
        assert (problem["code"], moment(problem["since"])) == ("LOGIN_REQUIRED", ended)
        assert "Resume the session" in problem["sentence"]
        assert moment(problem["next_try_at"]) == ended + timedelta(days=1)
        assert rows["new"]["problem"]["next_try_at"] is None
        assert "retry the session" in rows["declined"]["problem"]["sentence"]
        assert await listed(api, state="never_authorized") == await listed(api, state="broken") == []

    async def test_never_authorized_accounts_are_those_of_profiles_without_tokens(self, api: Api):
        failed = new_profile(account_id="failed")
        session = new_session(
            failed, status=SessionStatus.TIMEOUT, error_code="AUTH_TIMEOUT", completed_at=utc_now()
        )
        await add(
            api,
            failed,
            session,
            new_profile(account_id="any"),
            new_profile(account_id="any"),
            new_profile(account_id="elsewhere"),
            new_profile(account_id="other", api_app="AIOTT2"),
            new_profile(account_id="gone", is_active=False),
            new_profile(account_id=None),
            new_credential("elsewhere", "AIOTT2"),
        )
        rows = await listed(api, state="never_authorized")
        assert [(row["account_id"], row["api_app"]) for row in rows] == [
            ("failed", None), ("any", None), ("other", "AIOTT2"),
        ]  # fmt: skip
        rows = await listed(api, state="never_authorized", api_app="AIOTT1")
        assert [(row["account_id"], row["api_app"]) for row in rows] == [
            ("failed", "AIOTT1"), ("any", "AIOTT1"), ("elsewhere", "AIOTT1"),
        ]  # fmt: skip
        problems = {row["account_id"]: row["problem"] for row in rows}
        assert problems["failed"]["code"] == "TOKEN_NOT_FOUND"
        assert problems["failed"]["session_id"] == session.session_id
        assert "AUTH_TIMEOUT" in problems["failed"]["sentence"]
        assert "More than one profile" in problems["any"]["sentence"]
        assert problems["elsewhere"]["sentence"].endswith("Authorize it with `POST /authorize`.")

    @pytest.mark.databases("sqlite")
    async def test_restricted_key_sees_its_accounts_in_each_state(self, api: Api):
        states = {"working": {}, "expiring": {"token_expires_at": utc_now()}, "broken": {"status": BROKEN}}
        rows: list[Any] = []
        for name in ("anna", "bob"):
            profile = new_profile(account_id=f"{name}_needs_person")
            rows += [
                *(new_credential(f"{name}_{state}", **values) for state, values in states.items()),
                profile,
                new_session(profile, status=SessionStatus.NEEDS_ATTENTION, completed_at=utc_now()),
                new_profile(account_id=f"{name}_never_authorized"),
            ]
        await add(api, *rows)
        anna = await api.key(Scope.AUTHORIZE, access=AccessScope.from_lists(["AIOTT1"], ["anna_*"]))
        for state in (*states, "needs_person", "never_authorized"):
            seen = await listed(api, anna, state=state, api_app="AIOTT1")
            assert [row["account_id"] for row in seen] == [f"anna_{state}"]

    @pytest.mark.databases("sqlite")
    @pytest.mark.parametrize(
        "other", [{"status": "active"}, {"sort": "account_id"}, {"order": "asc"}, {"page": 2}]
    )
    async def test_state_has_an_order_of_its_own(self, api: Api, other: dict[str, Any]):
        answer = await api.client.get("/accounts", params={"state": "broken", **other})
        assert "state" in refused(answer, 422, "INVALID_REQUEST")


class TestActions:
    async def test_refresh_is_made_due_and_no_provider_is_called(self, api: Api):
        leased = {
            "lease_token": "x",
            "lease_owner": "m",
            "lease_expires_at": utc_now() + timedelta(minutes=5),
        }
        await add(
            api,
            *(new_credential(f"account_{number}") for number in range(30)),
            new_credential("running", **leased),
            new_credential("unrefreshable", refresh_token=None),
            new_credential("elsewhere", "AIOTT2"),
        )
        result = await confirmed(api, "refresh", {"state": "working", "api_app": "AIOTT1"})
        assert (result["count"], result["changed"], len(result["accounts"])) == (32, 30, 20)
        due = await rows_of(api, Credential, Credential.refresh_due_at <= utc_now())
        assert {row.account_id for row in due} == {f"account_{number}" for number in range(30)}
        (event,) = await rows_of(api, Event, Event.event_type == "accounts.action_requested")
        assert (event.actor, event.api_app) == ("bootstrap", "AIOTT1")
        assert event.data == {
            "action": "refresh", "state": "working", "named_accounts": None, "accounts": 32, "changed": 30,
            "batch_id": None,
        }  # fmt: skip

    @pytest.mark.databases("sqlite", "postgresql")
    async def test_revocation_is_left_to_the_worker_with_an_event_for_each_account(self, api: Api):
        await add(
            api,
            new_credential("alice"),
            new_credential("bob", status=BROKEN),
            new_credential("carol", status=CredentialStatus.REVOKING, refresh_due_at=None),
            new_credential("dave"),
        )
        names = ["alice", "bob", "carol"]
        result = await confirmed(api, "revoke", {"account_ids": names})
        assert (result["count"], result["changed"]) == (3, 2)
        statuses = {row.account_id: row.status for row in await rows_of(api, Credential)}
        assert statuses == dict.fromkeys(names, CredentialStatus.REVOKING) | {"dave": CredentialStatus.ACTIVE}
        (alice, *_) = await rows_of(api, Credential, Credential.account_id == "alice")
        assert (alice.lease_owner, alice.lease_token) == ("bootstrap", None)
        assert alice.refresh_due_at <= utc_now()
        events = await rows_of(api, Event, Event.event_type == "credential.revoking")
        assert {(event.account_id, event.actor) for event in events} == {
            ("alice", "bootstrap"), ("bob", "bootstrap"),
        }  # fmt: skip
        answer = await api.client.get("/accounts/alice/token", params={"api_app": "AIOTT1"})
        refused(answer, 409, "TOKEN_REVOKED")

    async def test_authorize_makes_a_batch(self, api: Api):
        await add(api, *(new_profile(account_id=f"account_{number}") for number in range(3)))
        filters = {"state": "never_authorized", "api_app": "AIOTT1"}
        plan = answered(await act(api, "authorize", filter=filters))
        answer = await act(api, "authorize", filter=filters, dry_run=False, expected_count=plan["count"])
        result = answered(answer, 202)
        assert (plan["count"], result["changed"]) == (3, 3)
        assert answer.headers["location"] == f"/batches/{result['batch_id']}"
        rows = await rows_of(api, BatchRow, BatchRow.batch_id == result["batch_id"])
        assert [row.account_id for row in rows] == ["account_0", "account_1", "account_2"]
        assert all(row.session_id for row in rows)

    async def test_named_accounts_are_authorized_whatever_their_state(self, api: Api):
        await add(api, new_profile(account_id="alice"), new_credential("alice"))
        result = await confirmed(api, "authorize", {"account_ids": ["@Alice", "alice"], "api_app": "AIOTT1"})
        assert (result["count"], result["accounts"]) == (1, [{"account_id": "alice", "api_app": "AIOTT1"}])
        answer = await act(api, "authorize", filter={"account_ids": ["alice"]})
        assert "api_app" in refused(answer, 422, "INVALID_REQUEST")

    async def test_app_must_be_named_for_accounts_whose_profile_is_for_any(self, api: Api):
        await add(api, new_profile(account_id="alice"))
        answer = await act(api, "authorize", filter={"state": "never_authorized"})
        assert "filter.api_app" in refused(answer, 422, "INVALID_REQUEST")

    async def test_action_is_refused_when_the_number_has_changed(self, api: Api):
        await add(api, *(new_credential(f"account_{number}") for number in range(40)))
        filters = {"api_app": "AIOTT1"}
        for expected, status in ((38, 409), (42, 202), (43, 409), (0, 409)):
            answer = await act(api, "refresh", filter=filters, dry_run=False, expected_count=expected)
            assert answer.status_code == status, expected
        assert answer.json()["error_code"] == "ACCOUNT_COUNT_CHANGED"
        assert answer.json()["data"] == {"count": 40}
        assert len(await rows_of(api, Event, Event.event_type == "accounts.action_requested")) == 1

    @pytest.mark.databases("sqlite")
    async def test_action_has_a_maximum_of_accounts(self, open_api: OpenApi):
        async with open_api(workers=False, max_batch_rows=3) as api:
            await add(api, *(new_credential(f"account_{number}") for number in range(4)))
            plan = answered(await act(api, "refresh", filter={"state": "working"}))
            assert (plan["count"], plan["count_is_exact"]) == (3, False)
            answer = await act(api, "refresh", filter={"state": "working"}, dry_run=False, expected_count=3)
            assert "more than 3 accounts" in refused(answer, 422, "INVALID_REQUEST")

    async def test_restricted_key_acts_on_its_accounts_only(self, api: Api):
        await add(
            api, *(new_credential(name) for name in ("anna_1", "bob")), new_credential("anna_2", "AIOTT2")
        )
        access = AccessScope.from_lists(["AIOTT1"], ["anna_*"])
        anna = await api.key(Scope.TOKENS_READ, Scope.AUTHORIZE, access=access)
        for action in ("refresh", "revoke"):
            result = await confirmed(api, action, {"state": "working"}, anna)
            assert result["accounts"] == [{"account_id": "anna_1", "api_app": "AIOTT1"}]
        named = {"account_ids": ["bob", "anna_1"], "api_app": "AIOTT1"}
        plan = answered(await act(api, "authorize", anna, filter=named))
        assert plan["accounts"] == [{"account_id": "anna_1", "api_app": "AIOTT1"}]

    @pytest.mark.databases("sqlite")
    @pytest.mark.parametrize(
        ("action", "scope"),
        [("refresh", Scope.TOKENS_MANAGE), ("revoke", Scope.TOKENS_MANAGE), ("authorize", Scope.AUTHORIZE)],
    )
    async def test_action_wants_the_scope_of_the_single_one(self, api: Api, action: str, scope: Scope):
        others = await api.key(*(set(Scope) - granting(scope)), name="others")
        filters = {"state": "working"}
        assert scope in refused(await act(api, action, others, filter=filters), 403, "FORBIDDEN")
        answered(await act(api, action, await api.key(scope), filter=filters))

    @pytest.mark.databases("sqlite")
    @pytest.mark.parametrize(
        ("body", "problem"),
        [
            ({"action": "refresh", "filter": {}}, "at least one"),
            ({"action": "verify", "filter": {"state": "working"}}, "action"),
            ({"action": "refresh", "filter": {"state": "working"}, "dry_run": False}, "expected_count"),
            ({"action": "refresh", "filter": {"account_ids": ["a b"]}}, "account_ids"),
        ],
    )
    async def test_bad_request_says_what_to_do(self, api: Api, body: dict[str, Any], problem: str):
        assert problem in refused(
            await api.client.post("/accounts/actions", json=body), 422, "INVALID_REQUEST"
        )
