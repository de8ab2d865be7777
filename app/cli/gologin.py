"""`gologin`: GoLogin's cloud API."""

import typer

from app.cli.shared import asynchronous, settings
from app.context import open_context

commands = typer.Typer(no_args_is_help=True, help="Check GoLogin's cloud API, and resume calls to it.")


@commands.command("check")
@asynchronous
async def check_gologin() -> None:
    """Check with one call that GoLogin accepts GOLOGIN_API_TOKEN."""
    async with open_context(settings()) as context:
        await context.fleet.gologin.check_token()
    print("GoLogin accepts the API token.")


@commands.command("close-breaker")
@asynchronous
async def close_breaker() -> None:
    """Resume calls to GoLogin's cloud API, which a rate limit has stopped; replace a dead API token first."""
    async with open_context(settings()) as context, context.database.transaction() as db:
        was_open = await context.fleet.gate.close(db, actor="cli")
    print("The breaker is closed." if was_open else "The breaker was not open.")
