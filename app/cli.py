"""The command line: `python -m app --help`."""

import asyncio
import io
import sys
from collections.abc import Callable, Coroutine
from datetime import timedelta
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Final, ParamSpec, TextIO

import typer
from rich.console import Console
from rich.progress import Progress
from sqlalchemy.exc import DBAPIError

from app import main as web
from app.cli_authorize import CALLER, AuthorizeOptions, authorize_file
from app.config import Settings, SettingsError, load_settings
from app.context import open_context
from app.database import Database
from app.demo import DemoOptions, run_demo
from app.sandbox.config import SandboxConfig
from app.sandbox.server import main as run_sandbox
from app.services import profile_csv
from app.services.key_service import Scope
from app.services.workers.base import PeriodicWorker
from app.utils.crypto import generate_key
from app.utils.exceptions import AppException
from app.utils.logger import setup_logging

P = ParamSpec("P")

_USAGE_ERROR: Final = 2

cli = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
keys = typer.Typer(no_args_is_help=True, help="API keys and encryption keys.")
profiles = typer.Typer(no_args_is_help=True, help="Which profile belongs to which account.")
gologin = typer.Typer(no_args_is_help=True, help="GoLogin's cloud API.")
worker = typer.Typer(help="The background workers.")
batches = typer.Typer(no_args_is_help=True, help="Many accounts authorised together.")
for _name, _group in (
    ("keys", keys),
    ("profiles", profiles),
    ("gologin", gologin),
    ("worker", worker),
    ("batches", batches),
):
    cli.add_typer(_group, name=_name)

_out = Console()
_err = Console(stderr=True)


def main() -> None:
    """Run the command; what the user can mend ends in one readable line per mistake, without a trace."""
    try:
        cli()
    except SettingsError as error:
        _err.print(f"Wrong settings:\n{error}", markup=False, highlight=False, soft_wrap=True)
        sys.exit(_USAGE_ERROR)
    except AppException as error:
        _err.print(error.message, markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)
    except DBAPIError as error:
        reason = " ".join(str(error.orig).split())
        _err.print(f"The database cannot be used: {reason}", markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)


def _asynchronous(command: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """typer accepts `async def` commands and never runs them."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(command(*args, **kwargs))

    return run


@cli.command()
def serve() -> None:
    """Serve the API and run the workers (unless SERVE_WORKERS=false), until SIGTERM or Ctrl-C."""
    web.serve(_settings(sys.stdout))


@cli.command()
@_asynchronous
async def migrate() -> None:
    """Bring the database schema up to date."""
    database = Database(_settings().database_url, pool_size=1)
    try:
        await database.migrate()
    finally:
        await database.close()
    _out.print("The database schema is up to date.")


@cli.command()
@_asynchronous
async def demo(
    accounts: Annotated[int, typer.Option(min=1, max=1000, help="Accounts to authorise.")] = 5,
    keep: Annotated[bool, typer.Option(help="Go on serving afterwards, until Ctrl-C.")] = False,
    folder: Annotated[Path, typer.Option(help="Where the runs keep their database and logs.")] = Path(
        ".demo"
    ),
    sandbox: Annotated[
        str | None, typer.Option(help="Admin URL of a sandbox that runs already; by default one is started.")
    ] = None,
) -> None:
    """Run the main job against the sandbox: a real service, real browsers, nothing but loopback."""
    options = DemoOptions(accounts=accounts, keep=keep, folder=folder, sandbox_url=sandbox)
    raise typer.Exit(0 if await run_demo(options) else 1)


@cli.command()
def sandbox(
    accounts: Annotated[int, typer.Option(min=0, help="Accounts, each with a profile.")] = 5,
    data_dir: Annotated[
        Path | None, typer.Option(help="Profile folders; a temporary one by default.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    public_host: Annotated[str | None, typer.Option(help="Host name in the announced URLs.")] = None,
    gologin_api_port: Annotated[int, typer.Option(help="0: a free one; so the others.")] = 0,
    gologin_local_port: Annotated[int, typer.Option()] = 0,
    adspower_port: Annotated[int, typer.Option()] = 0,
    provider_port: Annotated[int, typer.Option()] = 0,
    admin_port: Annotated[int, typer.Option()] = 0,
) -> None:
    """Serve local stand-ins for GoLogin's APIs, AdsPower's and the OAuth provider; prints their addresses as JSON."""
    run_sandbox(
        SandboxConfig(
            accounts=accounts,
            data_dir=data_dir,
            host=host,
            public_host=public_host,
            gologin_api_port=gologin_api_port,
            gologin_local_port=gologin_local_port,
            adspower_port=adspower_port,
            provider_port=provider_port,
            admin_port=admin_port,
        )
    )


@cli.command()
@_asynchronous
async def authorize(
    file: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="CSV: account_id,api_app,priority")
    ],
    api_app: Annotated[str | None, typer.Option(help="For rows that do not say.")] = None,
    results: Annotated[
        Path | None, typer.Option(help="CSV to write; by default beside the file, as NAME.results.csv.")
    ] = None,
    max_running: Annotated[int | None, typer.Option(min=1, help="At once; as in the settings.")] = None,
    stop_percent: Annotated[
        int | None,
        typer.Option(min=0, max=100, help="Stop above this share of failures; as in the settings."),
    ] = None,
    work: Annotated[bool, typer.Option("--work", help="Do the work in this process, too.")] = False,
    again: Annotated[bool, typer.Option("--again", help="A new batch even if this file made one.")] = False,
) -> None:
    """Authorise the accounts of a CSV together; run again it goes on. Exit code 0 when all are authorised."""
    target = results or file.with_suffix(".results.csv")
    if not target.parent.is_dir():
        raise typer.BadParameter(f"{target.parent} is no folder")
    options = AuthorizeOptions(
        file=file,
        results=target,
        api_app=api_app,
        max_running=max_running,
        stop_percent=stop_percent,
        work=work,
        again=again,
    )
    raise typer.Exit(0 if await authorize_file(_settings(), options, out=_out, err=_err) else 1)


@batches.command("cancel")
@_asynchronous
async def cancel_batch(batch_id: Annotated[str, typer.Argument(help="As `authorize` showed it.")]) -> None:
    """End a batch: what waits at once, what runs within two seconds."""
    async with open_context(_settings()) as context:
        async with context.database.transaction() as session:
            await context.batches.cancel(session, batch_id, actor=CALLER.name)
        await context.batch_pacing.pace(batch_id)
    print(f"The batch {batch_id} is cancelled.")


@keys.command("create")
@_asynchronous
async def create_key(
    name: Annotated[str, typer.Argument(help="Whose key it is; shown in sessions and events.")],
    scope: Annotated[
        list[Scope] | None, typer.Option(help="What it may do (default: authorize); repeat for several.")
    ] = None,
    days: Annotated[int | None, typer.Option(min=1, help="Days until it expires; never by default.")] = None,
) -> None:
    """Make an API key and show it, once."""
    async with open_context(_settings()) as context, context.database.transaction() as session:
        lifetime = timedelta(days=days) if days else None
        key = await context.keys.create(
            session, name=name, scopes=frozenset(scope or [Scope.AUTHORIZE]), lifetime=lifetime
        )
    print(key)  # plain, for scripts: nothing else goes to standard output


@keys.command("encryption")
def create_encryption_key(key_id: Annotated[str, typer.Argument(help="A name for the key.")] = "k1") -> None:
    """Make an entry for ENCRYPTION_KEYS."""
    print(f"{key_id}:{generate_key()}")


@profiles.command("import")
@_asynchronous
async def import_links(
    file: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="CSV: profile_id,twitter_username,api_app")
    ],
) -> None:
    """Link profiles to accounts; bad lines are reported and skipped. Exit code 1 if there were any."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise typer.BadParameter(f"{file} is not UTF-8 text") from None
    async with open_context(_settings()) as context:
        with Progress(console=_err, transient=True) as progress:
            task = progress.add_task("Linking", total=len(text.splitlines()))
            report = await profile_csv.import_links(
                context.database,
                context.directory,
                io.StringIO(text, newline=""),
                actor="cli",
                progress=lambda line: progress.update(task, completed=line),
            )
    for bad in report.bad_lines:
        _err.print(f"line {bad.line}: {bad.reason}", markup=False, highlight=False, soft_wrap=True)
    print(f"{report.linked} linked, {len(report.bad_lines)} bad lines")
    raise typer.Exit(1 if report.bad_lines else 0)


@profiles.command("export")
@_asynchronous
async def export_links(
    file: Annotated[Path, typer.Argument(dir_okay=False, help="CSV to write.")],
    everything: Annotated[
        bool, typer.Option("--all", help="Also what follows from the rule, not only links.")
    ] = False,
) -> None:
    """Write the links as CSV, as `profiles import` reads them."""
    try:
        stream = file.open("w", encoding="utf-8", newline="")
    except OSError as error:
        raise typer.BadParameter(f"{file} cannot be written: {error.strerror}") from None
    with stream:
        async with open_context(_settings()) as context:
            written = await profile_csv.export_links(context.database, stream, everything=everything)
    print(f"{written} written to {file}")


@gologin.command("check")
@_asynchronous
async def check_gologin() -> None:
    """Ask GoLogin whether the API token of the settings works; one call."""
    async with open_context(_settings()) as context:
        await context.gologin.check_token()
    print("GoLogin accepts the API token.")


@gologin.command("close-breaker")
@_asynchronous
async def close_breaker() -> None:
    """Let calls to GoLogin's cloud API through again; look at the API token first."""
    async with open_context(_settings()) as context, context.database.transaction() as session:
        was_open = await context.gate.close(session, actor="cli")
    print("The breaker is closed." if was_open else "The breaker was not open.")


@worker.callback(invoke_without_command=True)
def work(invoked: typer.Context) -> None:
    """Run the workers without the API, beside others on the same PostgreSQL, until SIGTERM or Ctrl-C."""
    if invoked.invoked_subcommand is None:
        asyncio.run(web.work(_settings(sys.stdout)))


@worker.command("run-once")
@_asynchronous
async def run_worker_once(
    name: Annotated[str, typer.Argument(help="sync, cleanup, repair or monitor.")],
) -> None:
    """Run one iteration of a periodic worker now, due or not. Exit code 1 if another process is at it."""
    async with open_context(_settings()) as context:
        found = context.workers.named(name)
        if not isinstance(found, PeriodicWorker):
            known = [each.name for each in context.workers.workers if isinstance(each, PeriodicWorker)]
            raise typer.BadParameter(f"there is no such worker; there are: {', '.join(known)}")
        if not await found.run_once():
            _err.print(f"Another process runs '{name}' now; try again when it has ended.")
            raise typer.Exit(1)


def _settings(log_stream: TextIO = sys.stderr) -> Settings:
    """A command's own output is on standard output; logs go there only where they are the output."""
    settings = load_settings()
    setup_logging(level=settings.log_level, environment=settings.environment, stream=log_stream)
    return settings
