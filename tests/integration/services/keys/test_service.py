"""Only the hash of a key is kept, only a living key opens the door, and no key makes one that may more."""

from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import select, text, update

from app.config import Settings
from app.context import Context
from app.database import Database
from app.models import ApiKey, Event, utc_now
from app.services.keys.service import COMMAND_LINE, IMPLIED, Caller, KeyService, MadeKey, Scope
from app.services.keys.status import KeyFilter, KeyStatus
from app.services.shared.access import AccessScope
from app.services.shared.paging import PageRequest
from app.utils.exceptions import (
    AuthenticationException,
    InvalidRequestException,
    KeyEndedException,
    KeyEscalationException,
    KeyNameTakenException,
    KeyNotFoundException,
    RotationUnderWayException,
    UnknownApiAppException,
)
from tests.fixtures.logs import logged
from tests.fixtures.routes import SPLIT_OFF, granting
from tests.fixtures.services import OpenContext

pytestmark = pytest.mark.databases("sqlite", long="postgresql")

AUTHORIZE = frozenset({Scope.AUTHORIZE})
ADMIN = frozenset({Scope.ADMIN})
HOUR = timedelta(hours=1)
SHOPS = AccessScope.from_lists(["AIOTT1"], ["shop_*"])
LIMITED = Caller("limited", ADMIN, SHOPS)
"""An admin of some accounts in one app."""


async def make(context: Context, name: str = "reporting", **values: Any) -> MadeKey:
    wanted = {"scopes": AUTHORIZE, "caller": COMMAND_LINE} | values
    async with context.database.transaction() as db:
        return await context.keys.create(db, name=name, **wanted)


async def create(context: Context, name: str = "reporting", **values: Any) -> str:
    return (await make(context, name, **values)).key.get_secret_value()


async def rotate(
    context: Context, made: MadeKey, overlap: timedelta, caller: Caller = COMMAND_LINE, *, force: bool = False
) -> str:
    async with context.database.transaction() as db:
        again = await context.keys.rotate(db, made.row.key_id, overlap=overlap, force=force, caller=caller)
    return again.key.get_secret_value()


async def revoke(context: Context, made: MadeKey, caller: Caller = COMMAND_LINE) -> ApiKey:
    async with context.database.transaction() as db:
        return await context.keys.revoke(db, made.row.key_id, caller=caller)


async def change(context: Context, **values: Any) -> None:
    async with context.database.transaction() as db:
        await db.execute(update(ApiKey).values(**values))


async def authenticate(context: Context, key: str | None) -> Caller:
    return await context.keys.authenticate(key)


async def refuse(context: Context, key: str | None, reason: str = "Missing or unknown API key") -> None:
    with pytest.raises(AuthenticationException, match=reason):
        await authenticate(context, key)


async def names(context: Context, caller: Caller = COMMAND_LINE, **wanted: Any) -> list[str]:
    async with context.database.reading() as db:
        request = PageRequest(size=100, sort="name")
        page = await context.keys.fetch_page(db, KeyFilter(**wanted), request, caller=caller)
    assert page.total.number == len(page.rows)
    return [row.name for row in page.rows]


class TestAuthentication:
    async def test_a_made_key_names_its_caller_and_what_it_may(self, context: Context):
        key = await create(context, access=SHOPS, rate_limit_per_minute=7)
        caller = await authenticate(context, key)
        assert caller == Caller("reporting", AUTHORIZE, SHOPS, 7)
        ends = utc_now() + HOUR
        assert (
            await authenticate(context, await create(context, "brief", expires_at=ends))
        ).expires_at == ends
        assert caller.may(Scope.AUTHORIZE)
        assert not caller.may(Scope.TOKENS_READ)

    @pytest.mark.databases("sqlite")
    @pytest.mark.parametrize("scope", Scope)
    async def test_key_may_use_its_scope_and_those_that_were_split_off(self, context: Context, scope: Scope):
        caller = await authenticate(context, await create(context, scopes=frozenset({scope})))
        allowed = {each for each in Scope if caller.may(each)}
        assert allowed == {each for each in Scope if scope in granting(each)}
        assert not any(IMPLIED.get(each) for included in IMPLIED.values() for each in included), "one level"

    @pytest.mark.databases("sqlite")
    async def test_admin_may_do_all(self, context: Context):
        caller = await authenticate(context, await create(context, scopes=ADMIN))
        assert all(caller.may(scope) for scope in Scope)

    async def test_row_and_event_do_not_reveal_the_key(self, context: Context, database: Database):
        made = await make(context)
        keys = [made.key.get_secret_value(), await rotate(context, made, HOUR)]
        async with database.reading() as db:
            rows = str((await db.execute(text("SELECT * FROM api_keys"))).all())
            rows += str((await db.execute(text("SELECT * FROM events"))).all())
        for key in keys:
            assert key[:12] in rows
            assert key[12:] not in rows
            assert key[13:] not in repr(made)

    @pytest.mark.databases("sqlite")
    @pytest.mark.parametrize("spoil", [
        lambda key: key[:-1],
        lambda key: f"{key}x",
        lambda key: key.swapcase(),
        lambda key: "_".join(key.split("_", 2)[:2]),
        lambda key: f" {key}",
    ])  # fmt: skip
    async def test_an_almost_right_key_is_refused(self, context: Context, spoil):
        await refuse(context, spoil(await create(context)))

    @pytest.mark.databases("sqlite")
    @pytest.mark.parametrize(
        "key", [None, "", "x", "gla_00000000_x", "ключ", "' OR 1=1 --", "gla_\x00", "a" * 10_000]
    )
    async def test_an_unknown_key_is_refused(self, context: Context, key: str | None):
        await create(context)
        await refuse(context, key)

    async def test_an_expired_key_is_refused(self, context: Context):
        key = await create(context, expires_at=utc_now() + HOUR)
        assert await authenticate(context, key)
        await change(context, expires_at=utc_now() - timedelta(seconds=1))
        await refuse(context, key, "is expired")
        await refuse(context, f"{key}x")

    @pytest.mark.databases("sqlite")
    async def test_the_settings_key_works_before_any_other(self, context: Context):
        caller = await authenticate(context, context.settings.api_key.get_secret_value())
        assert caller == Caller("bootstrap", frozenset(Scope))

    @pytest.mark.databases("sqlite")
    async def test_empty_key_is_refused_even_where_the_bootstrap_key_is_empty(self, context: Context):
        keys = KeyService(
            database=context.database, bootstrap_key=SecretStr(""), api_apps=(), rate_limit_per_minute=100
        )
        for key in (None, ""):
            with pytest.raises(AuthenticationException):
                await keys.authenticate(key)


class TestMaking:
    async def test_a_name_is_taken_for_good(self, context: Context):
        await revoke(context, await make(context))
        with pytest.raises(KeyNameTakenException, match="'reporting' exists already, or did"):
            await make(context)

    @pytest.mark.databases("sqlite")
    @pytest.mark.parametrize("name", ["bootstrap", "CLI", "service", "", "  ", " x", "a\nb", "x" * 101])
    async def test_invalid_name_is_refused(self, context: Context, name: str):
        with pytest.raises(InvalidRequestException, match="choose another name"):
            await make(context, name)

    @pytest.mark.databases("sqlite")
    async def test_an_app_must_be_a_configured_one(self, context: Context):
        with pytest.raises(UnknownApiAppException, match="'NOPE'"):
            await make(context, access=AccessScope.from_lists(["NOPE"], []))

    @pytest.mark.databases("sqlite")
    async def test_account_patterns_are_handles_with_stars(self, context: Context):
        made = await make(context, access=AccessScope.from_lists([], ["@Shop_*", "a.b@c"]))
        assert made.row.account_patterns == ["shop_*", "a.b@c"]
        for bad in ("", "shop%", "[a-z]*", "a?c", "*" * 65):
            with pytest.raises(InvalidRequestException, match="account_patterns: must be"):
                await make(context, "bad", access=AccessScope.from_lists([], [bad]))
        with pytest.raises(InvalidRequestException, match="account_patterns: at most 20"):
            await make(
                context, "bad", access=AccessScope.from_lists([], [f"a_{number}" for number in range(21)])
            )

    @pytest.mark.databases("sqlite")
    async def test_an_expiry_in_the_past_is_refused(self, context: Context):
        with pytest.raises(InvalidRequestException, match="expires_at"):
            await make(context, expires_at=utc_now())

    async def test_the_list_finds_by_state_and_name(self, context: Context):
        await make(context, "old", expires_at=utc_now() + HOUR)
        await change(context, expires_at=utc_now() - HOUR)
        await make(context, "living_one")
        await revoke(context, await make(context, "gone"))
        assert await names(context) == ["gone", "living_one", "old"]
        assert await names(context, status=KeyStatus.ACTIVE) == ["living_one"]
        assert await names(context, status=KeyStatus.EXPIRED) == ["old"]
        assert await names(context, status=KeyStatus.REVOKED) == ["gone"]
        assert await names(context, text="G_O") == ["living_one"]


class TestRotation:
    async def test_both_keys_work_until_the_overlap_is_over(self, context: Context):
        made = await make(context)
        old, new = made.key.get_secret_value(), await rotate(context, made, HOUR)
        assert (await authenticate(context, old)) == (await authenticate(context, new))
        await change(context, previous_expires_at=utc_now() - timedelta(seconds=1))
        await refuse(context, old, "replaced by a rotation")
        assert await authenticate(context, new)

    async def test_old_key_without_an_overlap_ends_at_once(self, context: Context):
        made = await make(context)
        new = await rotate(context, made, timedelta())
        await refuse(context, made.key.get_secret_value())
        assert await authenticate(context, new)

    async def test_a_second_rotation_within_the_overlap_changes_nothing_unless_it_is_forced(
        self, context: Context
    ):
        """Whose answer was lost asks again; everybody else still uses the first key."""
        made = await make(context)
        second = await rotate(context, made, HOUR)
        for overlap in (HOUR, timedelta()):
            with pytest.raises(RotationUnderWayException, match="--force"):
                await rotate(context, made, overlap)
        assert await authenticate(context, made.key.get_secret_value())
        third = await rotate(context, made, HOUR, force=True)
        await refuse(context, made.key.get_secret_value())
        assert await authenticate(context, second)
        assert await authenticate(context, third)
        await change(context, previous_expires_at=utc_now() - timedelta(seconds=1))
        assert await authenticate(context, await rotate(context, made, timedelta()))

    async def test_a_revoked_key_is_refused_with_its_predecessor_and_not_rotated(self, context: Context):
        made = await make(context)
        new = await rotate(context, made, HOUR)
        row = await revoke(context, made)
        await refuse(context, made.key.get_secret_value())
        await refuse(context, new, "is revoked")
        with pytest.raises(KeyEndedException, match="'reporting' is revoked"):
            await rotate(context, made, HOUR)
        assert (await revoke(context, made)).revoked_at == row.revoked_at

    async def test_every_step_is_an_event_with_its_actor(self, context: Context, database: Database):
        anna = Caller("anna", ADMIN)
        made = await make(context, caller=anna)
        await rotate(context, made, HOUR, caller=anna)
        await revoke(context, made, caller=anna)
        await revoke(context, made, caller=anna)
        async with database.reading() as db:
            rows = (await db.scalars(select(Event).order_by(Event.id))).all()
        assert [(row.event_type, row.actor, row.data["name"]) for row in rows] == [
            (f"api_key.{what}", "anna", "reporting") for what in ("created", "rotated", "revoked")
        ]


@pytest.mark.databases("sqlite")
class TestNoEscalation:
    @pytest.mark.parametrize("access", [
        AccessScope(),
        AccessScope.from_lists(["AIOTT1"], []),
        AccessScope.from_lists([], ["shop_*"]),
        AccessScope.from_lists(["AIOTT1", "AIOTT2"], ["shop_1"]),
        AccessScope.from_lists(["AIOTT1"], ["shop_1", "sho*"]),
        AccessScope.from_lists(["AIOTT1"], ["*"]),
    ])  # fmt: skip
    async def test_a_restricted_key_makes_none_with_more_reach(
        self, open_services: OpenContext, settings: Settings, access: AccessScope
    ):
        apps = dict.fromkeys(("AIOTT1", "AIOTT2"), settings.oauth_apps["AIOTT1"])
        async with open_services(oauth_apps=apps) as context:
            with pytest.raises(KeyEscalationException):
                await make(context, access=access, caller=LIMITED)

    async def test_a_key_makes_none_with_more_scopes(self, context: Context):
        caller = Caller("half", frozenset({Scope.AUTHORIZE, Scope.EVIDENCE}))
        with pytest.raises(KeyEscalationException):
            await make(context, scopes=frozenset({Scope.AUTHORIZE, Scope.ADMIN}), caller=caller)

    @pytest.mark.parametrize(("older", "split_off"), sorted((o, s) for s, o in SPLIT_OFF.items()))
    async def test_older_scope_gives_the_one_that_was_split_off_and_not_the_reverse(
        self, context: Context, older: Scope, split_off: Scope
    ):
        with_older, with_part = Caller("older", frozenset({older})), Caller("part", frozenset({split_off}))
        made = await make(context, "narrow", scopes=frozenset({split_off}), caller=with_older)
        assert made.row.scopes == [split_off], "what it includes is not written down"
        assert await authenticate(context, await rotate(context, made, HOUR, with_older))
        wide = await make(context, "wide", scopes=frozenset({older}), caller=with_older)
        for call in (
            lambda: make(context, "wider", scopes=frozenset({older}), caller=with_part),
            lambda: make(context, "wider", scopes=frozenset({older, split_off}), caller=with_part),
            lambda: rotate(context, wide, HOUR, with_part),
        ):
            with pytest.raises(KeyEscalationException):
                await call()

    async def test_without_the_inclusion_the_maker_rotates_its_narrower_key_no_more_and_may_revoke_it(
        self, context: Context, monkeypatch: pytest.MonkeyPatch
    ):
        """The state of release 0.3, with a key that was made before."""
        maker = Caller("maker", frozenset({Scope.TOKENS_READ}))
        made = await make(context, scopes=frozenset({Scope.TOKENS_MANAGE}), caller=maker)
        monkeypatch.setattr("app.services.keys.service.IMPLIED", {})
        assert (await authenticate(context, made.key.get_secret_value())).may(Scope.TOKENS_MANAGE)
        assert not maker.may(Scope.TOKENS_MANAGE)
        with pytest.raises(KeyEscalationException):
            await rotate(context, made, HOUR, maker)
        assert (await revoke(context, made, maker)).revoked_at is not None

    async def test_a_key_that_ends_makes_and_rotates_none_that_lives_longer(self, context: Context):
        ends = utc_now() + HOUR
        brief = Caller("brief", ADMIN, expires_at=ends)
        forever = await make(context, "forever")
        for call in (
            lambda: make(context, "own", caller=brief),
            lambda: make(context, "own", expires_at=ends + timedelta(seconds=1), caller=brief),
            lambda: rotate(context, forever, HOUR, brief),
        ):
            with pytest.raises(KeyEscalationException, match="expires_at must be"):
                await call()
        own = await make(context, "own", expires_at=ends, caller=brief)
        assert await authenticate(context, await rotate(context, own, HOUR, brief))

    @pytest.mark.parametrize(
        ("caller", "most"),
        [
            (Caller("slow", ADMIN, rate_limit_per_minute=5), 5),
            (Caller("fast", ADMIN, SHOPS, rate_limit_per_minute=500), 500),
            (LIMITED, 100),  # of the settings
            (Caller("admin", ADMIN), 10_000),
            (Caller("bootstrap", frozenset(Scope)), 10_000),
        ],
    )
    async def test_a_key_makes_and_rotates_none_that_may_send_more(
        self, context: Context, caller: Caller, most: int
    ):
        for limit in (most, most + 1, None):
            wanted = {"access": SHOPS, "rate_limit_per_minute": limit}
            is_more = (limit or 100) > most and caller.name not in ("admin", "bootstrap")
            made = await make(context, f"made by {caller.name} {limit}", **wanted, caller=COMMAND_LINE)
            await change(context, created_by=caller.name)
            with (
                pytest.raises(KeyEscalationException, match="rate_limit_per_minute")
                if is_more
                else nullcontext()
            ):
                await rotate(context, made, HOUR, caller)
            with (
                pytest.raises(KeyEscalationException, match="rate_limit_per_minute")
                if is_more
                else nullcontext()
            ):
                await make(context, f"more {caller.name} {limit}", **wanted, caller=caller)

    async def test_a_restricted_key_manages_what_it_made_and_itself(self, context: Context):
        itself = await make(context, "limited", scopes=ADMIN, access=SHOPS)
        stronger = await make(context, "stronger", scopes=ADMIN)
        own = await make(
            context, "own", access=AccessScope.from_lists(["AIOTT1"], ["shop_1*"]), caller=LIMITED
        )
        assert await names(context, LIMITED) == ["limited", "own"]
        for call in (
            lambda: rotate(context, stronger, HOUR, LIMITED),
            lambda: revoke(context, stronger, LIMITED),
        ):
            with pytest.raises(KeyNotFoundException):
                await call()
        assert (await revoke(context, own, LIMITED)).revoked_at is not None
        assert (await authenticate(context, await rotate(context, itself, HOUR, LIMITED))).access == SHOPS
        assert await authenticate(context, stronger.key.get_secret_value())


class TestLastUse:
    async def test_last_use_is_written_at_most_once_a_minute(self, context: Context):
        key = await create(context)

        async def used_at() -> Any:
            await context.keys.close()
            async with context.database.reading() as db:
                query = select(ApiKey.id, ApiKey.last_used_at, ApiKey.updated_at)
                return (await db.execute(query)).one()

        made = await used_at()
        assert made.last_used_at is None
        await authenticate(context, key)
        first = await used_at()
        assert first.last_used_at is not None
        assert first.updated_at == made.updated_at, "using a key does not change it"
        await authenticate(context, key)
        assert not context.keys._noting, "no transaction for nothing"
        await context.keys._write_use(made.id)  # by another process that has not seen it yet
        assert await used_at() == first
        long_ago = utc_now() - timedelta(seconds=61)
        await change(context, last_used_at=long_ago, updated_at=made.updated_at)
        await authenticate(context, key)
        assert (await used_at()).last_used_at > first.last_used_at

    @pytest.mark.databases("sqlite", "postgresql")
    async def test_a_write_that_must_wait_holds_up_no_request_and_is_one(self, context: Context):
        key = await create(context)
        async with context.database.transaction() as db:
            await db.scalar(select(ApiKey).with_for_update())
            for _ in range(5):
                assert await authenticate(context, key)
            assert len(context.keys._noting) == 1
        await context.keys.close()

    @pytest.mark.databases("sqlite")
    async def test_a_refused_key_is_not_used(self, context: Context):
        made = await make(context)
        await revoke(context, made)
        await refuse(context, made.key.get_secret_value(), "is revoked")
        assert context.keys._noting == {}

    async def test_a_use_that_cannot_be_written_does_not_fail_the_request(
        self,
        context: Context,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ):
        key = await create(context)
        without_tables = Database(f"sqlite+aiosqlite:///{tmp_path}/empty.db")
        monkeypatch.setattr(context.keys, "_database", without_tables)
        try:
            assert await authenticate(context, key)
            await context.keys.close()
        finally:
            await without_tables.close()
        assert len(logged(caplog, "api_key.use_not_noted")) == 1
