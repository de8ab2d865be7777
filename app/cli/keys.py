"""`keys`: the callers' API keys."""

import sys
from datetime import datetime, timedelta
from typing import Annotated, Any, Final

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from app.api.schemas.key import CreateKeyRequest, KeyResponse
from app.cli.backend import KeyOption, UrlOption, open_backend
from app.cli.shared import asynchronous, echo
from app.client import AsyncClient
from app.models import utc_now
from app.services.keys.service import Scope
from app.services.keys.status import KeyStatus
from app.utils.exceptions import KeyNotFoundException
from app.utils.foreign_text import visible

_DAY = 86_400
_WIDE = 1_000
_PAGE_SIZE: Final = 500

commands = typer.Typer(no_args_is_help=True, help="Create, list, rotate and revoke the callers' API keys.")

NameArgument = Annotated[str, typer.Argument(help="Name of the key, as `keys list` shows it.")]


@commands.command("create")
@asynchronous
async def create_key(
    name: Annotated[str, typer.Argument(help="Name of the caller; sessions and events show it.")],
    scope: Annotated[
        list[Scope] | None,
        typer.Option(
            help="Scope of the key, authorize and sessions:read by default; repeat the option for several."
        ),
    ] = None,
    app: Annotated[
        list[str] | None,
        typer.Option(
            "--app",
            "--api-app",
            help="OAuth app that the key may use, all by default; repeat the option for several.",
        ),
    ] = None,
    account: Annotated[
        list[str] | None,
        typer.Option(
            help="Account that the key may use, all by default; * is any text; repeat the option for several."
        ),
    ] = None,
    days: Annotated[
        int | None, typer.Option(min=1, help="Days until the key expires; it never expires by default.")
    ] = None,
    rate_limit: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=10_000,
            help="Number of requests a minute that the key may send; RATE_LIMIT_PER_MINUTE by default.",
        ),
    ] = None,
    url: UrlOption = None,
    key: KeyOption = None,
) -> None:
    """Create an API key and print it. It cannot be shown again."""
    try:
        request = CreateKeyRequest(
            name=name,
            scopes=set(scope or [Scope.AUTHORIZE, Scope.SESSIONS_READ]),
            api_apps=app or [],
            account_patterns=account or [],
            expires_at=utc_now() + timedelta(days=days) if days else None,
            rate_limit_per_minute=rate_limit,
        )
    except ValidationError as error:
        raise typer.BadParameter(error.errors()[0]["msg"]) from None
    async with open_backend(url, key) as backend:
        data = await backend.call("POST", "/keys", json=request.model_dump(mode="json"))
    echo(data["key"])  # plain, for scripts: nothing else goes to standard output


@commands.command("list")
@asynchronous
async def list_keys(
    status: Annotated[
        KeyStatus | None, typer.Option(help="List only keys of this status; all by default.")
    ] = None,
    url: UrlOption = None,
    key: KeyOption = None,
) -> None:
    """List the keys with their scopes, restrictions, expiry and last use, never the key itself."""
    async with open_backend(url, key) as backend:
        rows = await read_keys(backend, status=status)
    table = Table(
        "name", "prefix", "status", "scopes", "apps", "accounts", "a minute", "expires", "last used"
    )
    for row in rows:
        cells = (
            row.name,
            row.prefix,
            row.status,
            " ".join(row.scopes),
            " ".join(row.api_apps) or "all",
            " ".join(row.account_patterns) or "all",
            str(row.rate_limit_per_minute or ""),
            _moment(row.expires_at),
            _moment(row.last_used_at),
        )
        table.add_row(*map(visible, cells))
    # Whole, where a program reads it.
    Console(width=None if sys.stdout.isatty() else _WIDE, markup=False, emoji=False).print(table)


@commands.command("rotate")
@asynchronous
async def rotate_key(
    name: NameArgument,
    overlap: Annotated[
        int, typer.Option(min=0, max=30 * _DAY, help="Seconds for which the old key stays valid.")
    ] = _DAY,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Rotate even while the key that the last rotation replaced is still valid."
        ),
    ] = False,
    url: UrlOption = None,
    key: KeyOption = None,
) -> None:
    """Replace a key by a new one of the same caller and print it. It cannot be shown again."""
    async with open_backend(url, key) as backend:
        path = f"/keys/{await _find_key_id(backend, name)}/rotate"
        data = await backend.call("POST", path, json={"overlap": overlap, "force": force})
    echo(data["key"])


@commands.command("revoke")
@asynchronous
async def revoke_key(name: NameArgument, url: UrlOption = None, key: KeyOption = None) -> None:
    """Revoke a key at once and for good."""
    async with open_backend(url, key) as backend:
        await backend.call("DELETE", f"/keys/{await _find_key_id(backend, name)}")
    echo(f"The key {name} is revoked.")


async def read_keys(backend: AsyncClient, **filters: Any) -> list[KeyResponse]:
    """Return all keys that match `status` and `text`, by name; a key created meanwhile may repeat another one."""
    rows: list[dict[str, Any]] = []
    while len(rows) % _PAGE_SIZE == 0:
        params = {**filters, "page": len(rows) // _PAGE_SIZE + 1, "page_size": _PAGE_SIZE}
        page = await backend.call("GET", "/keys", params=params)
        rows += page
        if not page:
            break
    return [KeyResponse.model_validate(row) for row in rows]


async def _find_key_id(backend: AsyncClient, name: str) -> str:
    """Raises `KeyNotFoundException`."""
    for row in await read_keys(backend, text=name):
        if row.name == name:
            return row.key_id
    raise KeyNotFoundException(name)


def _moment(moment: datetime | None) -> str:
    return moment.strftime("%Y-%m-%d %H:%M") if moment else "never"
