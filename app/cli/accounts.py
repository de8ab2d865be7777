"""`accounts`: import tokens, and list the accounts that have some."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from app.cli.shared import asynchronous, echo, echo_err, new_file, settings, show_progress
from app.context import open_context
from app.services.shared import import_files
from app.services.tokens import accounts_csv, importer
from app.services.tokens.importer import Entry, TokenImport

commands = typer.Typer(
    no_args_is_help=True, help="Import existing tokens, and list the accounts that have tokens."
)


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
