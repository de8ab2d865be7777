"""`keys`: the callers' API keys."""

import sys
from datetime import datetime, timedelta
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from app.api.schemas.key import CreateKeyRequest, KeyResponse
from app.cli.desk import KeyOption, UrlOption, desk
from app.cli.key_desk import LocalKeys, RemoteKeys
from app.cli.shared import asynchronous, say
from app.models import utc_now
from app.services.keys.service import Scope
from app.services.keys.status import KeyStatus
from app.utils.foreign_text import visible

_DAY = 86_400
_WIDE = 1_000

commands = typer.Typer(no_args_is_help=True, help="API keys.")

NameArgument = Annotated[str, typer.Argument(help="As it was made.")]


@commands.command("create")
@asynchronous
async def create_key(
    name: Annotated[str, typer.Argument(help="Whose key it is; shown in sessions and events.")],
    scope: Annotated[
        list[Scope] | None, typer.Option(help="What it may do (default: authorize); repeat for several.")
    ] = None,
    app: Annotated[
        list[str] | None,
        typer.Option("--app", "--api-app", help="An OAuth app it is for (default: all); repeat for several."),
    ] = None,
    account: Annotated[
        list[str] | None,
        typer.Option(
            help="An account it is for, with * for any characters (default: all); repeat for several."
        ),
    ] = None,
    days: Annotated[int | None, typer.Option(min=1, help="Days until it expires; never by default.")] = None,
    rate_limit: Annotated[
        int | None, typer.Option(min=1, max=10_000, help="Requests a minute; as in the settings.")
    ] = None,
    url: UrlOption = None,
    key: KeyOption = None,
) -> None:
    """Make an API key and show it, once."""
    try:
        wanted = CreateKeyRequest(
            name=name,
            scopes=set(scope or [Scope.AUTHORIZE]),
            api_apps=app or [],
            account_patterns=account or [],
            expires_at=utc_now() + timedelta(days=days) if days else None,
            rate_limit_per_minute=rate_limit,
        )
    except ValidationError as error:
        raise typer.BadParameter(error.errors()[0]["msg"]) from None
    async with desk(url, key, LocalKeys, RemoteKeys) as keys:
        say(await keys.create(wanted))  # plain, for scripts: nothing else goes to standard output


@commands.command("list")
@asynchronous
async def list_keys(
    status: Annotated[KeyStatus | None, typer.Option(help="Only those; all by default.")] = None,
    url: UrlOption = None,
    key: KeyOption = None,
) -> None:
    """Show the keys: what each may, for whom, and when it was last used; never the key."""
    async with desk(url, key, LocalKeys, RemoteKeys) as keys:
        rows = await keys.listed(status)
    table = Table(
        "name", "prefix", "status", "scopes", "apps", "accounts", "a minute", "expires", "last used"
    )
    for row in rows:
        table.add_row(*map(visible, _cells(row)))
    # Whole, where a program reads it.
    Console(width=None if sys.stdout.isatty() else _WIDE, markup=False, emoji=False).print(table)


@commands.command("rotate")
@asynchronous
async def rotate_key(
    name: NameArgument,
    overlap: Annotated[
        int, typer.Option(min=0, max=30 * _DAY, help="Seconds for which the old key works, too.")
    ] = _DAY,
    force: Annotated[
        bool, typer.Option("--force", help="Also while the key that the last rotation replaced still works.")
    ] = False,
    url: UrlOption = None,
    key: KeyOption = None,
) -> None:
    """Make another key for the same caller and show it, once."""
    async with desk(url, key, LocalKeys, RemoteKeys) as keys:
        say(await keys.rotate(name, overlap=overlap, force=force))


@commands.command("revoke")
@asynchronous
async def revoke_key(name: NameArgument, url: UrlOption = None, key: KeyOption = None) -> None:
    """End a key for good, at once."""
    async with desk(url, key, LocalKeys, RemoteKeys) as keys:
        await keys.revoke(name)
    say(f"The key {name} is revoked.")


def _cells(row: KeyResponse) -> list[str]:
    return [
        row.name,
        row.prefix,
        row.status,
        " ".join(row.scopes),
        " ".join(row.api_apps) or "all",
        " ".join(row.account_patterns) or "all",
        str(row.rate_limit_per_minute or ""),
        _moment(row.expires_at),
        _moment(row.last_used_at),
    ]


def _moment(moment: datetime | None) -> str:
    return moment.strftime("%Y-%m-%d %H:%M") if moment else "never"
