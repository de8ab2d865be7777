"""The last resort for tokens that the database does not take: encrypted files, picked up later."""

import asyncio
import json
import os
import uuid
from collections import Counter
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from app.services.interfaces import TokenSet
from app.services.tokens.refresh_results import RefreshClaim
from app.utils.crypto import KeyRing, find_key_id
from app.utils.exceptions import DecryptionException
from app.utils.logger import get_logger

_PLACE: Final = "spilled_tokens"
_SUFFIX: Final = ".sealed"
_UNREADABLE: Final = (DecryptionException, OSError, ValueError, KeyError, TypeError)

log = get_logger(__name__)


@dataclass(frozen=True)
class SpilledTokens:
    path: Path
    claim: RefreshClaim
    tokens: TokenSet
    answered_at: datetime
    """Time from which their lifetime counts."""


class TokenSpill:
    """One file a token set, readable by the service's user alone; its name tells nothing."""

    def __init__(self, *, folder: Path, key_ring: KeyRing) -> None:
        self._folder = folder
        self._key_ring = key_ring

    async def write(self, claim: RefreshClaim, tokens: TokenSet, *, answered_at: datetime) -> Path:
        """The file, which is on the disk when this returns."""
        path = self._folder / f"{uuid.uuid4()}{_SUFFIX}"
        text = json.dumps(
            {"held": asdict(claim), "tokens": asdict(tokens), "answered_at": answered_at},
            default=lambda each: each.get_secret_value() if isinstance(each, SecretStr) else each.isoformat(),
        )
        ciphertext = self._key_ring.encrypt(text, associated_data=_PLACE)
        await asyncio.to_thread(_write_durably, path, ciphertext)
        log.warning("credential.spilled", account_id=claim.account_id, api_app=claim.api_app)
        return path

    async def read_all(self) -> list[SpilledTokens]:
        """Return the tokens that earlier processes spilled. A file that no key opens stays, with a log line."""
        return await asyncio.to_thread(self._read_all)

    async def audit(self) -> tuple[Counter[str], list[Path]]:
        """Return the number of files by key, and the files that no key opens."""
        return await asyncio.to_thread(self._audit)

    async def remove(self, path: Path) -> None:
        await asyncio.to_thread(path.unlink, missing_ok=True)

    def _read_all(self) -> list[SpilledTokens]:
        spilled = []
        for path in self._paths():
            try:
                spilled.append(self._read(path))
            except _UNREADABLE as error:
                log.error("credential.spill_unreadable", file=path.name, error=type(error).__name__)
        return spilled

    def _audit(self) -> tuple[Counter[str], list[Path]]:
        key_ids, unreadable = Counter[str](), list[Path]()
        for path in self._paths():
            try:
                self._read(path)
                key_ids[find_key_id(path.read_text(encoding="ascii")) or ""] += 1
            except FileNotFoundError:  # a service has picked it up
                continue
            except _UNREADABLE:
                unreadable.append(path)
        return key_ids, unreadable

    def _paths(self) -> list[Path]:
        return sorted(self._folder.glob(f"*{_SUFFIX}"))

    def _read(self, path: Path) -> SpilledTokens:
        text = self._key_ring.decrypt(path.read_text(encoding="ascii"), associated_data=_PLACE)
        data = json.loads(text)
        claim, tokens = data["held"], data["tokens"]
        for values, names in (
            (claim, ("refresh_token",)),
            (tokens, ("access_token", "refresh_token", "oauth_token_secret")),
        ):
            for name in names:
                values[name] = None if values[name] is None else SecretStr(values[name])
        claim["row_made_at"] = datetime.fromisoformat(claim["row_made_at"])
        tokens["scopes"] = tuple(tokens["scopes"])
        return SpilledTokens(
            path, RefreshClaim(**claim), TokenSet(**tokens), datetime.fromisoformat(data["answered_at"])
        )


def _write_durably(path: Path, text: str) -> None:
    """A file that is half-written has another name."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = path.with_suffix(".partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
