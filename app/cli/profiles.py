"""`profiles`: links between profiles and accounts, as CSV."""

from pathlib import Path
from typing import Annotated

import typer

from app.cli.shared import asynchronous, echo, echo_err, new_file, settings, show_progress
from app.context import open_context
from app.services.profiles import links_csv
from app.services.shared import import_files

commands = typer.Typer(
    no_args_is_help=True, help="Import and export the links between profiles and accounts."
)


@commands.command("import")
@asynchronous
async def import_links(
    file: Annotated[
        Path,
        typer.Argument(
            exists=True,
            dir_okay=False,
            help="CSV file to read, with the columns profile_id, twitter_username and api_app.",
        ),
    ],
) -> None:
    """Link profiles to accounts. Bad lines are reported and skipped; then the exit code is 1."""
    with file.open("rb") as stream:
        content = import_files.read_import(stream)
    try:
        total = sum(1 for _ in import_files.decoded_lines(content))
    except UnicodeDecodeError:
        raise typer.BadParameter(f"{file} is not UTF-8 text") from None
    async with open_context(settings()) as context:
        with show_progress("Linking", total) as progress:
            report = await links_csv.import_links(
                context.database,
                context.fleet.directory,
                import_files.decoded_lines(content),
                actor="cli",
                progress=progress,
            )
    for bad in report.bad_lines:
        echo_err(f"line {bad.line}: {bad.reason}")
    echo(f"{report.linked} linked, {len(report.bad_lines)} bad lines")
    raise typer.Exit(1 if report.bad_lines else 0)


@commands.command("export")
@asynchronous
async def export_links(
    file: Annotated[Path, typer.Argument(dir_okay=False, help="CSV file to write.")],
    everything: Annotated[
        bool,
        typer.Option(
            "--all", help="Write also the accounts that profiles have by PROFILE_RULE, not only links."
        ),
    ] = False,
) -> None:
    """Write the links as a CSV file that `profiles import` can read."""
    with new_file(file) as stream:
        async with open_context(settings()) as context:
            written = await links_csv.export_links(context.database, stream, everything=everything)
    echo(f"{written} written to {file}")
