"""`token`: a valid access token of an account."""

from typing import Annotated

import typer

from app.cli.backend import KeyOption, UrlOption, open_backend
from app.cli.shared import asynchronous, check_handle, echo

commands = typer.Typer()


@commands.command()
@asynchronous
async def token(
    account: Annotated[str, typer.Argument(help="Handle of the account.", callback=check_handle)],
    api_app: Annotated[str, typer.Option(help="Name of the OAuth app, a key of OAUTH_APPS.")],
    min_ttl: Annotated[
        float,
        typer.Option(
            min=0,
            max=3600,
            help="Seconds for which the token must stay valid; it is refreshed when they are not left.",
        ),
    ] = 0,
    url: UrlOption = None,
    key: KeyOption = None,
) -> None:
    """Print a valid access token of an account; an OAuth 1.0a token has its secret on a second line."""
    async with open_backend(url, key) as backend:
        answer = await backend.token(account, api_app, min_ttl=min_ttl)
    echo(answer.access_token)
    if answer.oauth_token_secret is not None:
        echo(answer.oauth_token_secret)
