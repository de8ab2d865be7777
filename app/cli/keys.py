"""`keys`: the callers' API keys."""

from datetime import timedelta
from typing import Annotated

import typer

from app.cli.shared import asynchronous, settings
from app.context import open_context
from app.services.key_service import Scope

commands = typer.Typer(no_args_is_help=True, help="API keys.")


@commands.command("create")
@asynchronous
async def create_key(
    name: Annotated[str, typer.Argument(help="Whose key it is; shown in sessions and events.")],
    scope: Annotated[
        list[Scope] | None, typer.Option(help="What it may do (default: authorize); repeat for several.")
    ] = None,
    days: Annotated[int | None, typer.Option(min=1, help="Days until it expires; never by default.")] = None,
) -> None:
    """Make an API key and show it, once."""
    async with open_context(settings()) as context, context.database.transaction() as session:
        lifetime = timedelta(days=days) if days else None
        key = await context.keys.create(
            session, name=name, scopes=frozenset(scope or [Scope.AUTHORIZE]), lifetime=lifetime
        )
    print(key)  # plain, for scripts: nothing else goes to standard output
