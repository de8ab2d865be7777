"""Commands about accounts by state, and the fleet, in the command's own process."""

import inspect
import json
from datetime import timedelta

import pytest
import typer
from sqlalchemy import select

from app.cli import backend
from app.cli.accounts import act_on_accounts, list_accounts, show_fleet
from app.client import ServiceError
from app.context import Context
from app.models import Credential, CredentialStatus, Event, utc_now
from app.services.batches.account_actions import AccountAction
from app.services.tokens.account_states import AccountState
from tests.fixtures.factories import AddRow, new_credential, new_profile

pytestmark = pytest.mark.databases("sqlite")

list_locally, act_locally, show_locally = (
    inspect.unwrap(command) for command in (list_accounts, act_on_accounts, show_fleet)
)


@pytest.fixture(autouse=True)
def own_settings(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "settings", lambda: context.settings)


async def test_accounts_are_listed_with_their_problems(add: AddRow, capsys: pytest.CaptureFixture[str]):
    await add(
        new_credential("whole"),
        new_credential(
            "lost", status=CredentialStatus.REAUTHORIZATION_REQUIRED, refresh_error_code="INVALID_GRANT"
        ),
        new_profile(account_id="new"),
    )
    await list_locally()
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [line[:4] for line in lines] == [
        ["lost", "AIOTT1", "broken", "INVALID_GRANT"],
        ["whole", "AIOTT1", "working", ""],
    ]
    await list_locally(AccountState.NEVER_AUTHORIZED)
    assert capsys.readouterr().out.startswith(
        "new\t\tnever_authorized\tTOKEN_NOT_FOUND\tThe account has a profile"
    )
    await list_locally(limit=1)
    assert "--limit shows more" in capsys.readouterr().err


async def test_action_follows_its_dry_run(context: Context, add: AddRow, capsys: pytest.CaptureFixture[str]):
    await add(*(new_credential(f"account_{number}") for number in range(22)))
    await act_locally(AccountAction.REFRESH, AccountState.WORKING)
    output = capsys.readouterr()
    assert "--expected-count 22" in output.err
    assert output.out.splitlines()[-1] == "... and 2 more"
    with pytest.raises(ServiceError, match="at least one"):
        await act_locally(AccountAction.REFRESH)
    with pytest.raises(typer.BadParameter):
        await act_locally(AccountAction.REFRESH, account=["a b"])
    await act_locally(AccountAction.REFRESH, account=["@Account_1"], expected_count=1)
    assert capsys.readouterr().err == "refresh: 1 of 1 accounts\n"
    async with context.database.reading() as db:
        due = await db.scalars(
            select(Credential.account_id).where(Credential.refresh_due_at < utc_now() + timedelta(minutes=1))
        )
        assert due.all() == ["account_1"]
        event = (await db.scalars(select(Event))).one()
    assert (event.event_type, event.actor) == ("accounts.action_requested", "cli")


async def test_fleet_is_printed_as_json(context: Context, capsys: pytest.CaptureFixture[str]):
    await context.workers.get("monitor").run_once()
    await show_locally()
    fleet = json.loads(capsys.readouterr().out)
    assert fleet["accounts_by_state"]["working"] == 0
