"""`accounts`: import tokens, list accounts by state, act on many of them; `fleet`: the fleet in numbers."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from app.cli.backend import KeyOption, UrlOption, open_backend
from app.cli.shared import asynchronous, check_handle, echo, echo_err, new_file, settings, show_progress
from app.client import Account
from app.context import open_context
from app.services.batches.account_actions import AccountAction
from app.services.shared import import_files
from app.services.tokens import accounts_csv, importer
from app.services.tokens.account_states import AccountState
from app.services.tokens.importer import Entry, TokenImport

commands = typer.Typer(
    no_args_is_help=True, help="Import existing tokens, list accounts by state, and act on many of them."
)
overview = typer.Typer()

_INDENT: Final = 2

StateOption = Annotated[
    AccountState | None, typer.Option(help="State of the accounts; by default accounts with tokens.")
]
AppOption = Annotated[str | None, typer.Option(help="OAuth app of the accounts.")]


@commands.command("import")
@asynchronous
async def import_tokens(
    file: Annotated[
        Path,
        typer.Argument(
            exists=True, dir_okay=False, help=f"File to read: CSV ({','.join(importer.COLUMNS)}) or .json."
        ),
    ],
    replace: Annotated[
        bool,
        typer.Option(
            "--replace",
            help="Replace the tokens of accounts that already have some; without it these are skipped.",
        ),
    ] = False,
) -> None:
    """Store existing tokens, encrypted. Bad lines are reported and skipped; then the exit code is 1."""
    is_json = file.suffix.lower() == ".json"
    async with open_context(settings()) as context:
        store = TokenImport(
            database=context.database,
            credentials=context.tokens.credentials,
            api_apps=sorted(context.settings.oauth_apps),
            handle_problem=context.tokens.oauth.handle_problem,
            replace=replace,
        )
        with file.open("rb") as stream:
            content = import_files.read_import(stream)
        if is_json:
            listed = importer.json_entries(content)
            entries: Iterable[Entry] = listed
            total = len(listed)
        else:
            entries = importer.csv_entries(import_files.decoded_lines(content))
            total = content.count(b"\n")
        with show_progress("Importing", total) as progress:
            report = await store.run(entries, actor="cli", progress=progress)
    for problem in sorted(report.skipped + report.bad_lines, key=lambda each: each.line):
        echo_err(f"{'entry' if is_json else 'line'} {problem.line}: {problem.reason}")
    echo(f"{report.stored} stored, {len(report.skipped)} skipped, {len(report.bad_lines)} bad lines")
    raise typer.Exit(1 if report.bad_lines else 0)


@commands.command("export")
@asynchronous
async def export_accounts(
    file: Annotated[Path, typer.Argument(dir_okay=False, help="CSV file to write.")],
) -> None:
    """Write a CSV file of all accounts that have tokens, without the tokens."""
    with new_file(file) as stream:
        async with open_context(settings()) as context:
            written = await accounts_csv.export(context.database, stream)
    echo(f"{written} written to {file}")


@commands.command("list")
@asynchronous
async def list_accounts(
    state: StateOption = None,
    api_app: AppOption = None,
    limit: Annotated[int, typer.Option(min=1, help="Number of accounts at most.")] = 100,
    url: UrlOption = None,
    key: KeyOption = None,
) -> None:
    """Print accounts with their state and problem, one a line: account, app, state, code, sentence."""
    filters: Any = {name: value for name, value in (("state", state), ("api_app", api_app)) if value}
    async with open_backend(url, key) as backend:
        printed = 0
        async for account in backend.accounts(**filters):
            if printed == limit:
                echo_err(f"The first {limit} accounts; --limit shows more.")
                break
            echo(_account_line(account))
            printed += 1


@commands.command("act")
@asynchronous
async def act_on_accounts(
    action: Annotated[AccountAction, typer.Argument(help="Action to do for each account.")],
    state: StateOption = None,
    api_app: AppOption = None,
    account: Annotated[
        list[str] | None, typer.Option(help="Handle of an account; repeat the option for several.")
    ] = None,
    expected_count: Annotated[
        int | None,
        typer.Option(min=0, help="Number of accounts that the dry run said; without it nothing is done."),
    ] = None,
    url: UrlOption = None,
    key: KeyOption = None,
) -> None:
    """Refresh, authorize or revoke all accounts that the options match; without --expected-count only count them."""
    filters: Any = {
        "state": state,
        "api_app": api_app,
        "account_ids": [check_handle(each) for each in account or ()],
    }
    filters = {name: value for name, value in filters.items() if value}
    async with open_backend(url, key) as backend:
        result = await backend.act_on_accounts(action, expected_count=expected_count, **filters)
    for each in result.accounts:
        echo(f"{each.account_id}\t{each.api_app}")
    if result.count > len(result.accounts):
        echo(f"... and {result.count - len(result.accounts)} more")
    if not result.dry_run:
        batch = f", batch {result.batch_id}" if result.batch_id else ""
        echo_err(f"{result.action}: {result.changed} of {result.count} accounts{batch}")
    elif result.count_is_exact:
        echo_err(f"{result.count} accounts; nothing was done. --expected-count {result.count} does it.")
    else:
        echo_err(f"More than {result.count} accounts: narrow the options.")


@overview.command("fleet")
@asynchronous
async def show_fleet(url: UrlOption = None, key: KeyOption = None) -> None:
    """Print the whole fleet in numbers, as JSON."""
    async with open_backend(url, key) as backend:
        echo(json.dumps(await backend.fleet(), indent=_INDENT))


def _account_line(account: Account) -> str:
    problem = account.problem
    columns = (account.account_id, account.api_app or "", account.state)
    return "\t".join((*columns, problem.code if problem else "", problem.sentence if problem else ""))
