"""Proofs of the demo: each stored token works for its account, and no secret lies in clear in database or log."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from sqlalchemy import select

from app.config import Settings
from app.context import Context, open_context
from app.models import Credential
from app.utils.exceptions import AppException

_SCANNED = ("service.db*", "*.log")


@dataclass
class Proof:
    """`works`: per account whether its token speaks for it; `leaks`: secrets found in clear, by what they are."""

    works: dict[str, bool] = field(default_factory=dict)
    expires_at: dict[str, datetime] = field(default_factory=dict)
    leaks: list[str] = field(default_factory=list)
    scanned: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        return bool(self.scanned) and all(self.works.values()) and not self.leaks


async def prove(
    settings: Settings, folder: Path, accounts: list[str], *, secrets: Mapping[str, str]
) -> Proof:
    """`secrets`: further values that must not be found; the stored tokens are added to them."""
    proof = Proof()
    looked_for = dict(secrets)
    async with open_context(settings) as context:
        for account in accounts:
            looked_for |= await _try_token(context, account, proof)
    _scan(folder, looked_for, proof)
    return proof


def _scan(folder: Path, secrets: Mapping[str, str], proof: Proof) -> None:
    for path in sorted(path for pattern in _SCANNED for path in folder.glob(pattern)):
        proof.scanned.append(path.name)
        content = path.read_bytes()
        names = [name for name, secret in secrets.items() if secret.encode() in content]
        proof.leaks += [f"{name} in {path.name}" for name in names]


async def _try_token(context: Context, account: str, proof: Proof) -> dict[str, str]:
    """Ask the provider who the stored token is; returns the tokens in clear, to look for."""
    try:
        async with context.database.reading() as db:
            tokens = await context.tokens.vault.load_tokens(db, account, "AIOTT1")
            query = select(Credential.token_expires_at).where(Credential.account_id == account)
            expires_at = await db.scalar(query)
        user = await context.tokens.oauth.verify_credentials("AIOTT1", tokens.access_token)
    except AppException:
        proof.works[account] = False
        return {}
    proof.works[account] = user.username.lower() == account
    if expires_at is not None:
        proof.expires_at[account] = expires_at
    secrets = {f"access token of {account}": tokens.access_token.get_secret_value()}
    if tokens.refresh_token is not None:
        secrets[f"refresh token of {account}"] = tokens.refresh_token.get_secret_value()
    return secrets
