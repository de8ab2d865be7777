"""`secrets`: the keys that encrypt the stored tokens."""

from typing import Annotated

import typer

from app.utils.crypto import generate_key

commands = typer.Typer(no_args_is_help=True, help="The keys that encrypt the stored tokens.")


@commands.command("generate")
def generate(key_id: Annotated[str, typer.Argument(help="A name for the key.")] = "k1") -> None:
    """Make an entry for ENCRYPTION_KEYS."""
    print(f"{key_id}:{generate_key()}")
