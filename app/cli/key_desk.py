"""API keys in the database of the settings, or at a service."""

from datetime import timedelta
from typing import Any, Final

from app.api.schemas.key import CreateKeyRequest, KeyResponse
from app.client import AsyncClient
from app.context import Context
from app.services.keys.service import COMMAND_LINE
from app.services.keys.status import KeyFilter, KeyStatus
from app.services.shared.paging import PageRequest
from app.utils.exceptions import KeyNotFoundException

_ALL: Final = 100_000
_PAGE: Final = 500


class LocalKeys:
    def __init__(self, context: Context) -> None:
        self._keys, self._database = context.keys, context.database

    async def create(self, wanted: CreateKeyRequest) -> str:
        async with self._database.transaction() as db:
            made = await self._keys.create(
                db,
                name=wanted.name,
                scopes=frozenset(wanted.scopes),
                reach=wanted.reach(),
                expires_at=wanted.expires_at,
                rate_limit_per_minute=wanted.rate_limit_per_minute,
                caller=COMMAND_LINE,
            )
        return made.key.get_secret_value()

    async def listed(self, status: KeyStatus | None) -> list[KeyResponse]:
        async with self._database.reading() as db:
            wanted = PageRequest(size=_ALL, sort="name")
            page = await self._keys.fetch_page(db, KeyFilter(status=status), wanted, caller=COMMAND_LINE)
        return [KeyResponse.from_row(row) for row in page.rows]

    async def rotate(self, name: str, *, overlap: int, force: bool = False) -> str:
        async with self._database.transaction() as db:
            row = await self._keys.named(db, name)
            made = await self._keys.rotate(
                db, row.key_id, overlap=timedelta(seconds=overlap), force=force, caller=COMMAND_LINE
            )
        return made.key.get_secret_value()

    async def revoke(self, name: str) -> None:
        async with self._database.transaction() as db:
            row = await self._keys.named(db, name)
            await self._keys.revoke(db, row.key_id, caller=COMMAND_LINE)


class RemoteKeys(AsyncClient):
    async def create(self, wanted: CreateKeyRequest) -> str:
        made = await self.call("POST", "/keys", json=wanted.model_dump(mode="json"))
        return str(made["key"])

    async def listed(self, status: KeyStatus | None) -> list[KeyResponse]:
        return [KeyResponse.model_validate(row) for row in await self._all({"status": status})]

    async def rotate(self, name: str, *, overlap: int, force: bool = False) -> str:
        path = f"/keys/{await self._id_of(name)}/rotate"
        made = await self.call("POST", path, json={"overlap": overlap, "force": force})
        return str(made["key"])

    async def revoke(self, name: str) -> None:
        await self.call("DELETE", f"/keys/{await self._id_of(name)}")

    async def _id_of(self, name: str) -> str:
        """Raises `KeyNotFoundException`."""
        for row in await self._all({"text": name}):
            if row["name"] == name:
                return str(row["key_id"])
        raise KeyNotFoundException(name)

    async def _all(self, filters: dict[str, Any]) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        while len(rows) % _PAGE == 0:
            params = {**filters, "page": len(rows) // _PAGE + 1, "page_size": _PAGE}
            found = await self.call("GET", "/keys", params=params)
            rows += found
            if not found:
                break
        return rows
