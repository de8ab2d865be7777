"""`/profiles`: the list, whose they are, the quarantine and the sync, through the real application."""

import asyncio
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select

from app.database import Database
from app.models import Event, Profile, WorkerRun, utc_now
from app.services.keys.service import Scope
from app.services.operations.worker_runs import PeriodicRuns
from sandbox.admin import ProfileInfo
from sandbox.admin_client import SandboxAdmin
from sandbox.config import SandboxInfo
from tests.fixtures.api import Api, OpenApi, answered, refused
from tests.fixtures.factories import AddRow, new_profile
from tests.fixtures.waiting import eventually

pytestmark = pytest.mark.databases("sqlite")

NUL = "\x00"

ROUTES = [
    ("GET", "/profiles"),
    ("POST", "/profiles/sync"),
    ("GET", "/profiles/sync/x"),
    ("GET", "/profiles/by-account/anna"),
    ("GET", "/profiles/x"),
    ("PUT", "/profiles/x/account"),
    ("DELETE", "/profiles/x/account"),
    ("POST", "/profiles/x/release"),
]


async def events(database: Database, kind: str) -> list[tuple[str, str | None, str | None]]:
    """Actor, profile and account of each."""
    async with database.reading() as db:
        rows = await db.scalars(select(Event).where(Event.event_type == kind).order_by(Event.id))
        return [(row.actor, row.profile_id, row.account_id) for row in rows]


class TestKeys:
    async def test_request_without_a_key_is_refused(self, api: Api):
        del api.client.headers["X-API-Key"]
        for method, path in ROUTES:
            refused(await api.client.request(method, path, json={}), 401, "UNAUTHORIZED")

    async def test_key_without_the_scope_is_refused(self, api: Api):
        headers = await api.key(Scope.AUTHORIZE, Scope.TOKENS_READ)
        body = {"twitter_username": "anna"}
        for method, path in ROUTES:
            response = await api.client.request(method, path, json=body, headers=headers)
            assert "'profiles'" in refused(response, 403, "FORBIDDEN")

    async def test_key_with_the_scope_is_accepted(self, api: Api):
        for scope in (Scope.PROFILES, Scope.ADMIN):
            headers = await api.key(scope, name=scope)
            for method, path in ROUTES:
                response = await api.client.request(method, path, headers=headers)
                assert response.status_code not in (401, 403, 500)


class TestList:
    @pytest.fixture(autouse=True)
    async def rows(self, add_profile: AddRow) -> None:
        """Written in another order than any that is asked for."""
        began = datetime.fromisoformat("2026-01-01T00:00:00+00:00")

        async def add(name: str, hour: int, **values: Any) -> None:
            times = {
                "created_at": began + timedelta(hours=hour),
                "updated_at": began + timedelta(hours=10 - hour),
            }
            await add_profile(
                profile_id=f"id-{name}", profile_name=name.upper(), account_id=name, **times | values
            )

        await add("dora", 2, quarantined_at=utc_now(), quarantine_reason="It did not stop")
        await add("anna", 4, api_app="AIOTT1", is_linked=True, last_synced=began)
        await add("carl", 1, in_use=True, lease_owner="m:1")
        await add("bob_1", 3, is_active=False)

    async def names(self, api: Api, **query: Any) -> list[str]:
        response = await api.client.get("/profiles", params=query)
        assert response.status_code == 200, response.text
        return [row["profile_name"].lower() for row in response.json()["data"]]

    async def test_list_has_the_envelope(self, api: Api):
        body = (await api.client.get("/profiles", params={"page_size": 3})).json()
        own = {"success", "data", "total", "page", "page_size", "total_pages"}
        assert body.keys() == own | {"total_is_exact", "next_cursor", "request_id", "timestamp"}
        assert (body["success"], body["total"], body["page"]) == (True, 4, 1)
        assert (body["page_size"], body["total_pages"], len(body["data"])) == (3, 2, 3)

    async def test_every_profile_is_on_one_page(self, api: Api):
        pages = [await self.names(api, page=page, page_size=3) for page in (1, 2, 3)]
        assert pages == [["anna", "bob_1", "carl"], ["dora"], []]

    async def test_empty_list_has_no_pages(self, api: Api):
        body = (await api.client.get("/profiles", params={"account_id": "nobody"})).json()
        assert (body["data"], body["total"], body["total_pages"]) == ([], 0, 0)

    @pytest.mark.databases("sqlite", long="postgresql")
    async def test_list_is_filtered(self, api: Api):
        expected: list[tuple[dict[str, str], list[str]]] = [
            ({"account_id": "anna"}, ["anna"]),
            ({"account_id": " @ANNA"}, ["anna"]),
            ({"api_app": "AIOTT1"}, ["anna"]),
            ({"api_app": "aiott1"}, []),
            ({"is_active": "true"}, ["anna", "carl", "dora"]),
            ({"is_active": "false"}, ["bob_1"]),
            ({"in_use": "true"}, ["carl"]),
            ({"in_use": "false"}, ["anna", "bob_1", "dora"]),
            ({"is_quarantined": "true"}, ["dora"]),
            ({"is_quarantined": "false"}, ["anna", "bob_1", "carl"]),
            ({"text": "oR"}, ["dora"]),
            ({"text": "ID-C"}, ["carl"]),
            ({"text": "_"}, ["bob_1"]),
            ({"text": "%"}, []),
            ({"text": "\\"}, []),
            ({"text": ""}, ["anna", "bob_1", "carl", "dora"]),
            ({"is_active": "true", "in_use": "false", "text": "a"}, ["anna", "dora"]),
        ]
        found = [(query, await self.names(api, **query)) for query, _ in expected]
        assert found == expected

    @pytest.mark.databases("sqlite", "postgresql")
    async def test_list_is_sorted(self, api: Api):
        ascending = {
            "profile_name": ["anna", "bob_1", "carl", "dora"],
            "twitter_username": ["anna", "bob_1", "carl", "dora"],
            "created_at": ["carl", "dora", "bob_1", "anna"],
            "updated_at": ["anna", "bob_1", "dora", "carl"],
        }
        assert {sort: await self.names(api, sort=sort) for sort in ascending} == ascending
        descending = {sort: await self.names(api, sort=sort, order="desc") for sort in ascending}
        assert descending == {sort: names[::-1] for sort, names in ascending.items()}

    @pytest.mark.databases("sqlite", "postgresql")
    async def test_profiles_without_a_value_come_last_in_both_orders(self, api: Api):
        assert await self.names(api, sort="last_synced") == ["anna", "dora", "carl", "bob_1"]
        assert await self.names(api, sort="last_synced", order="desc") == ["anna", "bob_1", "carl", "dora"]

    async def test_invalid_query_is_refused(self, api: Api):
        mistakes: list[tuple[dict[str, Any], str]] = [
            ({"page": 0}, "page: "),
            ({"page": 10**9}, "page: "),
            ({"page_size": 0}, "page_size: "),
            ({"page_size": 501}, "page_size: "),
            ({"sort": "lease_token"}, "sort: "),
            ({"order": "down"}, "order: "),
            ({"is_active": "perhaps"}, "is_active: "),
            ({"account_id": "no handle"}, "account_id: must be"),
            ({"text": "x" * 201}, "text: "),
            ({"acount_id": "anna"}, "acount_id: Extra"),
        ]
        for query, said in mistakes:
            response = await api.client.get("/profiles", params=query)
            assert said in refused(response, 422, "INVALID_REQUEST")

    @pytest.mark.databases("sqlite", long="postgresql")
    async def test_nul_in_a_query_is_refused(self, api: Api):
        for name in ("text", "api_app", "account_id", "sort"):
            response = await api.client.get("/profiles", params={name: f"a{NUL}b"})
            assert response.status_code in (404, 422)

    @pytest.mark.databases("sqlite", long="postgresql")
    async def test_strange_texts_find_nothing(self, api: Api):
        for text in ("🦊", "%F0%9F", "'; --", "ß", "\\", "%"):
            assert await self.names(api, text=text) == []
            assert (await api.client.get(f"/profiles?text={text}&api_app={text}")).status_code == 200


class TestOne:
    async def test_profile_is_shown_with_all_its_fields(self, api: Api, add_profile: AddRow):
        row = await add_profile(
            profile_name="Anna's",
            account_id="anna",
            profile_metadata={"notes": "n", "tags": ["t"]},
            quarantined_at=utc_now(),
            quarantine_reason="It did not stop",
            in_use=True,
            lease_owner="m:1",
            lease_token="secret-token",
            ws_url="ws://127.0.0.1:1/x",
        )
        response = await api.client.get(f"/profiles/{row.profile_id}")
        data = answered(response)
        assert data.keys() == {
            "profile_id", "profile_name", "twitter_username", "api_app", "is_linked", "is_active", "in_use",
            "lease_owner", "lease_expires_at", "quarantined_at", "quarantine_reason", "metadata", "last_synced",
            "created_at", "updated_at",
        }  # fmt: skip
        assert (data["profile_name"], data["metadata"]) == ("Anna's", {"notes": "n", "tags": ["t"]})
        assert (data["quarantine_reason"], data["lease_owner"]) == ("It did not stop", "m:1")
        assert "secret-token" not in response.text

    @pytest.mark.parametrize("profile_id", ["0" * 24, "x", "x" * 3000, "%F0%9F%98%80", "%00"])
    async def test_unknown_profile_is_not_found(self, api: Api, profile_id: str):
        refusal = (422, "INVALID_REQUEST") if profile_id == "%00" else (404, "UNKNOWN_PROFILE")
        body = {"twitter_username": "anna"}
        for method, path in (("GET", ""), ("PUT", "/account"), ("DELETE", "/account"), ("POST", "/release")):
            response = await api.client.request(method, f"/profiles/{profile_id}{path}", json=body)
            refused(response, *refusal)


class TestOfAnAccount:
    @pytest.mark.databases("sqlite", long="postgresql")
    async def test_first_profile_of_an_account_is_the_one_to_use(self, api: Api, add_profile: AddRow):
        async def add(profile_id: str, **values: Any) -> None:
            await add_profile(profile_id=profile_id, account_id="anna", **values)

        await add("rule")
        await add("rule-app", api_app="AIOTT1")
        await add("link", is_linked=True)
        await add("link-app", is_linked=True, api_app="AIOTT1")
        await add("link-other-app", is_linked=True, api_app="AIOTT2")
        await add("gone", is_active=False)
        await add_profile(profile_id="bobs", account_id="bob")

        async def found(account: str, **query: str) -> list[str]:
            response = await api.client.get(f"/profiles/by-account/{account}", params=query)
            return [row["profile_id"] for row in answered(response)]

        assert await found("anna") == ["link-app", "link-other-app", "link", "rule-app", "rule"]
        assert await found("@ANNA", api_app="AIOTT1") == ["link-app", "link", "rule-app", "rule"]
        assert await found("anna", api_app="AIOTT2") == ["link-other-app", "link", "rule"]
        assert await found("anna", api_app="NONE") == ["link", "rule"]
        assert await found("nobody") == []

    async def test_invalid_handle_is_refused(self, api: Api):
        for account in ("a b", "@", "x" * 65, "x" * 200, "%F0%9F%98%80"):
            refused(await api.client.get(f"/profiles/by-account/{account}"), 422, "INVALID_REQUEST")


class TestLinks:
    @pytest.fixture
    async def profile_id(self, add_profile: AddRow) -> str:
        """Profile that the rule gives to bob."""
        return (await add_profile(profile_name="bob", account_id="bob")).profile_id

    async def link(self, api: Api, profile_id: str, account: str, app: str | None = None) -> Any:
        body = {"twitter_username": account} | ({"api_app": app} if app else {})
        return await api.client.put(f"/profiles/{profile_id}/account", json=body)

    async def test_profile_is_linked_and_unlinked(self, api: Api, database: Database, profile_id: str):
        headers = await api.key(Scope.PROFILES, name="anna's key")
        body = {"twitter_username": " @ANNA", "api_app": "AIOTT1"}
        url = f"/profiles/{profile_id}/account"
        data = answered(await api.client.put(url, json=body, headers=headers))
        assert (data["twitter_username"], data["api_app"], data["is_linked"]) == ("anna", "AIOTT1", True)
        shown = answered(await api.client.get(f"/profiles/{profile_id}"))
        assert (shown["twitter_username"], shown["is_linked"]) == ("anna", True)
        assert await events(database, "profile.linked") == [("anna's key", profile_id, "anna")]

        data = answered(await api.client.delete(url, headers=headers))
        assert (data["twitter_username"], data["api_app"], data["is_linked"]) == ("bob", None, False)
        assert answered(await api.client.delete(url))["is_linked"] is False
        assert await events(database, "profile.unlinked") == [("anna's key", profile_id, "anna")]

    async def test_repeated_link_changes_nothing(self, api: Api, profile_id: str):
        for _ in range(2):
            assert answered(await self.link(api, profile_id, "anna"))["is_linked"]

    @pytest.mark.databases("sqlite", "postgresql")
    async def test_an_account_has_one_profile_in_an_app(self, api: Api, add_profile: AddRow, profile_id: str):
        other = (await add_profile()).profile_id
        for app in (None, "AIOTT1"):
            answered(await self.link(api, profile_id, "anna", app))
            sentence = refused(await self.link(api, other, "@Anna", app), 409, "PROFILE_CONFLICT")
            assert profile_id in sentence
            assert other in sentence
            assert not answered(await api.client.get(f"/profiles/{other}"))["is_linked"]
        answered(await self.link(api, other, "anna", "AIOTT2"))

    @pytest.mark.databases("sqlite", "postgresql")
    async def test_simultaneous_links_have_one_winner(self, api: Api, add_profile: AddRow, profile_id: str):
        ids = [profile_id, *[(await add_profile()).profile_id for _ in range(4)]]
        answers = await asyncio.gather(*(self.link(api, each, "anna", "AIOTT1") for each in ids))
        assert sorted(answer.status_code for answer in answers) == [200, 409, 409, 409, 409]
        linked = answered(await api.client.get("/profiles/by-account/anna"))
        assert len(linked) == 1

    async def test_a_profile_that_is_gone_gives_way(self, api: Api, add_profile: AddRow, profile_id: str):
        gone = await add_profile(account_id="anna", is_linked=True, is_active=False)
        assert answered(await self.link(api, profile_id, "anna"))["is_linked"]
        assert not answered(await api.client.get(f"/profiles/{gone.profile_id}"))["is_linked"]

    async def test_invalid_body_is_refused(self, api: Api, database: Database, profile_id: str):
        mistakes: list[tuple[dict[str, Any], str]] = [
            ({}, "twitter_username: Field required"),
            ({"twitter_username": None}, "twitter_username: "),
            ({"twitter_username": ""}, "twitter_username: must be"),
            ({"twitter_username": "a b"}, "twitter_username: must be"),
            ({"twitter_username": "x" * 65}, "twitter_username: must be"),
            ({"twitter_username": f"anna{NUL}"}, "twitter_username: must be"),
            ({"twitter_username": "anna", "api_app": ""}, "api_app: "),
            ({"twitter_username": "anna", "api_app": f"A{NUL}"}, "api_app: "),
            ({"twitter_username": "anna", "api_app": "A\n"}, "api_app: "),
            ({"twitter_username": "anna", "api_app": "x" * 65}, "api_app: "),
            ({"twitter_username": "anna", "app": "AIOTT1"}, "app: Extra"),
        ]
        for body, said in mistakes:
            response = await api.client.put(f"/profiles/{profile_id}/account", json=body)
            assert said in refused(response, 422, "INVALID_REQUEST")
        assert await events(database, "profile.linked") == []


class TestAuthorize:
    """`POST /authorize` of an account with such profiles."""

    async def ask(self, api: Api) -> Any:
        return await api.client.post("/authorize", json={"account_id": "anna", "api_app": "AIOTT1"})

    async def test_two_profiles_are_a_conflict_until_one_is_linked(self, api: Api, add_profile: AddRow):
        ids = [(await add_profile(account_id="anna")).profile_id for _ in range(2)]
        sentence = refused(await self.ask(api), 409, "PROFILE_CONFLICT")
        assert all(profile_id in sentence for profile_id in ids)
        await api.client.put(f"/profiles/{ids[1]}/account", json={"twitter_username": "anna"})
        assert answered(await self.ask(api), 202)["profile_id"] == ids[1]

    async def test_quarantined_profile_is_refused_until_it_is_released(
        self, api: Api, database: Database, add_profile: AddRow
    ):
        row = await add_profile(
            account_id="anna", quarantined_at=utc_now(), quarantine_reason="It did not stop"
        )
        url = f"/profiles/{row.profile_id}/release"
        assert url in refused(await self.ask(api), 409, "PROFILE_QUARANTINED")
        data = answered(await api.client.post(url))
        assert (data["quarantined_at"], data["quarantine_reason"]) == (None, None)
        assert answered(await self.ask(api), 202)["profile_id"] == row.profile_id
        answered(await api.client.post(url))
        assert await events(database, "profile.released") == [("bootstrap", row.profile_id, None)]

    async def test_inactive_profile_is_not_used(self, api: Api, add_profile: AddRow):
        await add_profile(account_id="anna", is_active=False)
        refused(await self.ask(api), 404, "PROFILE_NOT_FOUND")

    async def test_refusals_of_a_profile_are_documented(self, api: Api):
        paths = (await api.client.get("/openapi.json")).json()["paths"]
        described = paths["/authorize"]["post"]["x-error-codes"]["409"]
        assert "PROFILE_CONFLICT" in described
        assert "PROFILE_QUARANTINED" in described


class TestSync:
    @pytest.fixture
    def addresses(self, info: SandboxInfo) -> dict[str, Any]:
        return {
            "gologin_api_url": info.gologin_api_url,
            "gologin_local_url": info.gologin_local_url,
            "gologin_api_token": info.gologin_api_token,
            "gologin_requests_per_minute": 1_000_000,
            "rate_limit_per_minute": 1_000_000,
        }

    @pytest.fixture
    def elsewhere(self, database: Database) -> PeriodicRuns:
        """Another process on the same database."""
        return PeriodicRuns(database=database, owner="elsewhere:1", lease_seconds=600)

    async def ended(self, api: Api, sync_id: str) -> Any:
        async def look() -> Any:
            data = answered(await api.client.get(f"/profiles/sync/{sync_id}"))
            return data if data["completed_at"] is not None else None

        return await eventually(look)

    async def sync(self, api: Api, **body: bool) -> Any:
        """Ask for one, and the sync when it has ended and none follows by itself."""
        data = answered(await api.client.post("/profiles/sync", json=body), 202)
        assert data["status"] in ("pending", "running")
        done = await self.ended(api, data["sync_id"])
        await self.nothing_due(api)
        return done

    async def nothing_due(self, api: Api) -> None:
        """The turn of the last pass is given back, and the next one is not due."""
        query = select(WorkerRun).where(WorkerRun.name == "sync")

        async def is_given_back() -> bool:
            async with api.context.database.reading() as db:
                run = await db.scalar(query)
            return bool(run and run.lease_token is None and run.next_run_at > utc_now())

        await eventually(is_given_back)

    @pytest.mark.databases("sqlite", long="postgresql")
    async def test_sync_reports_what_it_found(
        self, open_api: OpenApi, addresses: dict[str, Any], admin: SandboxAdmin, profile: ProfileInfo
    ):
        async with open_api(**addresses) as api:
            await self.sync(api)
            await admin.rename_profile(profile.account, "renamed")
            added = await admin.add_profile("test_added")
            try:
                second = await self.sync(api)
            finally:
                await admin.remove_profile("test_added")
            third = await self.sync(api)
            nothing = await self.sync(api)
            gone = answered(await api.client.get(f"/profiles/{added.id}"))
            renamed = answered(await api.client.get("/profiles/by-account/renamed"))
        counts = ("status", "pages", "seen", "created", "updated", "returned", "gone", "error", "error_code")
        assert [second[name] for name in counts] == ["completed", 3, 67, 1, 1, 0, 0, None, None]
        assert [third[name] for name in counts] == ["completed", 3, 66, 0, 0, 0, 1, None, None]
        assert [nothing[name] for name in counts] == ["completed", 3, 66, 0, 0, 0, 0, None, None]
        assert gone["is_active"] is False
        assert [row["profile_id"] for row in renamed] == [profile.id]
        assert second["requested_by"] == "bootstrap"
        assert 0 < second["seconds"] < 30
        assert second["created_at"] <= second["started_at"] <= second["completed_at"]

    @pytest.mark.databases("sqlite", long="postgresql")
    async def test_request_beside_a_waiting_sync_gets_the_same_sync(
        self, open_api: OpenApi, addresses: dict[str, Any], elsewhere: PeriodicRuns
    ):
        """The sync waits because another process is in the middle of one."""
        turn = await elsewhere.claim("sync")
        assert turn is not None
        async with open_api(**addresses) as api:
            asked = [answered(await api.client.post("/profiles/sync"), 202) for _ in range(3)]
            assert {data["status"] for data in asked} == {"pending"}
            assert len({data["sync_id"] for data in asked}) == 1
            assert (asked[0]["started_at"], asked[0]["seconds"], asked[0]["pages"]) == (None, None, 0)
            await elsewhere.finish("sync", turn, succeeded=True, next_in=0)
            api.context.sync_worker.wake()
            done = await self.ended(api, asked[0]["sync_id"])
            assert (done["status"], done["created"]) == ("completed", done["seen"])
            another = answered(await api.client.post("/profiles/sync"), 202)
            assert another["sync_id"] != asked[0]["sync_id"]

    async def test_a_fleet_that_vanishes_is_kept_until_somebody_confirms(
        self, open_api: OpenApi, addresses: dict[str, Any], database: Database
    ):
        """Twice as many as GoLogin lists."""
        async with database.transaction() as db:
            db.add_all(new_profile() for _ in range(150))
        async with open_api(**addresses) as api:
            refusal = await self.sync(api)
            assert (refusal["status"], refusal["error_code"]) == ("failed", "SYNC_MASS_REMOVAL")
            assert "150" in refusal["error"]
            assert "allow_mass_removal" in refusal["error"]
            assert refusal["gone"] == 0
            listed = await api.client.get("/profiles", params={"is_active": "false"})
            assert listed.json()["total"] == 0
            allowed = await self.sync(api, allow_mass_removal=True)
            assert (allowed["status"], allowed["gone"]) == ("completed", 150)
            listed = await api.client.get("/profiles", params={"is_active": "false"})
            assert listed.json()["total"] == 150

    async def test_the_confirmation_is_for_one_pass(
        self, open_api: OpenApi, addresses: dict[str, Any], database: Database, elsewhere: PeriodicRuns
    ):
        """A confirmation counts for those who have asked already."""
        turn = await elsewhere.claim("sync")
        assert turn is not None
        async with open_api(**addresses) as api:
            plain = answered(await api.client.post("/profiles/sync"), 202)
            confirmed = answered(
                await api.client.post("/profiles/sync", json={"allow_mass_removal": True}), 202
            )
            assert confirmed["sync_id"] == plain["sync_id"]
            async with database.transaction() as db:
                db.add_all(new_profile() for _ in range(150))
            await elsewhere.finish("sync", turn, succeeded=True, next_in=0)
            api.context.sync_worker.wake()
            assert (await self.ended(api, plain["sync_id"]))["gone"] == 150
            async with database.transaction() as db:
                db.add_all(new_profile() for _ in range(150))
            assert (await self.sync(api))["error_code"] == "SYNC_MASS_REMOVAL"

    async def test_failed_sync_names_its_error(
        self, open_api: OpenApi, addresses: dict[str, Any], admin: SandboxAdmin
    ):
        async with open_api(**addresses) as api:
            await self.sync(api)
            await admin.set_fault("gologin.list", "html")
            failed = await self.sync(api)
            assert (failed["status"], failed["error_code"]) == ("failed", "GOLOGIN_API_ERROR")
            assert failed["error"] == "GoLogin API error (502): Error Bad gateway"
            await admin.clear_faults()
            assert (await self.sync(api))["status"] == "completed"

    async def test_no_proxy_password_is_shown(
        self, open_api: OpenApi, addresses: dict[str, Any], database: Database
    ):
        async with open_api(**addresses) as api:
            await self.sync(api)
            response = await api.client.get("/profiles", params={"page_size": 500})
        assert response.json()["total"] >= 65
        assert "proxy" not in response.text
        async with database.reading() as db:
            assert "proxy" not in str(list(await db.scalars(select(Profile.profile_metadata))))

    async def test_unknown_sync_is_not_found(self, api: Api):
        for sync_id in ("x", "x" * 3000, "00000000-0000-4000-8000-000000000000"):
            refused(await api.client.get(f"/profiles/sync/{sync_id}"), 404, "SYNC_NOT_FOUND")
        refused(await api.client.get("/profiles/sync/%00"), 422, "INVALID_REQUEST")

    async def test_invalid_body_of_a_sync_is_refused(self, api: Api):
        for body in ({"allow": True}, {"allow_mass_removal": "perhaps"}, [], "x"):
            refused(await api.client.post("/profiles/sync", json=body), 422, "INVALID_REQUEST")
