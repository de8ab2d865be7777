"""`profiles`: links between profiles and accounts, as CSV."""

from pathlib import Path
from typing import Annotated

import typer

from app.cli.shared import asynchronous, counted, new_file, say, settings, tell
from app.context import open_context
from app.services.profiles import links_csv
from app.services.shared import import_files

commands = typer.Typer(no_args_is_help=True, help="Which profile belongs to which account.")


@commands.command("import")
@asynchronous
async def import_links(
    file: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="CSV: profile_id,twitter_username,api_app")
    ],
) -> None:
    """Link profiles to accounts; bad lines are reported and skipped. Exit code 1 if there were any."""
    with file.open("rb") as stream:
        content = import_files.read_import(stream)
    try:
        total = sum(1 for _ in import_files.decoded_lines(content))
    except UnicodeDecodeError:
        raise typer.BadParameter(f"{file} is not UTF-8 text") from None
    async with open_context(settings()) as context:
        with counted("Linking", total) as progress:
            report = await links_csv.import_links(
                context.database,
                context.fleet.directory,
                import_files.decoded_lines(content),
                actor="cli",
                progress=progress,
            )
    for bad in report.bad_lines:
        tell(f"line {bad.line}: {bad.reason}")
    say(f"{report.linked} linked, {len(report.bad_lines)} bad lines")
    raise typer.Exit(1 if report.bad_lines else 0)


@commands.command("export")
@asynchronous
async def export_links(
    file: Annotated[Path, typer.Argument(dir_okay=False, help="CSV to write.")],
    everything: Annotated[
        bool, typer.Option("--all", help="Also what follows from the rule, not only links.")
    ] = False,
) -> None:
    """Write the links as CSV, as `profiles import` reads them."""
    with new_file(file) as stream:
        async with open_context(settings()) as context:
            written = await links_csv.export_links(context.database, stream, everything=everything)
    say(f"{written} written to {file}")
