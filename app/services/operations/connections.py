"""Connections of the PostgreSQL server: how many it allows, and which processes hold them."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import text

from app.config import ProcessRole
from app.database import QUEUE_CONNECTION, Database, role_of


@dataclass(frozen=True)
class Connections:
    """Connections of a PostgreSQL server, without those of the process that counts."""

    in_use: int
    allowed: int
    """Connections that the server gives to roles that are no superusers."""
    processes: Mapping[ProcessRole, int]
    """Processes of the service that are connected, by role."""
    others: int
    """Connections that are not of the service."""


async def count_connections(database: Database) -> Connections:
    """Count the connections of the server, PostgreSQL only."""
    limits = text(
        "SELECT sum(CASE name WHEN 'max_connections' THEN setting::int ELSE -setting::int END) FROM pg_settings "
        "WHERE name IN ('max_connections', 'superuser_reserved_connections', 'reserved_connections')"
    )
    names = text(
        "SELECT application_name, count(*) AS number FROM pg_stat_activity WHERE backend_type = 'client backend' "
        "AND pid <> pg_backend_pid() GROUP BY application_name"
    )
    async with database.reading() as db:
        allowed = await db.scalar(limits) or 0
        counts = {row.application_name or "": row.number for row in await db.execute(names)}
    roles = {name: role for name in counts if (role := role_of(name)) is not None}
    own = sum(count for name, count in counts.items() if name in roles or name == QUEUE_CONNECTION)
    in_use = sum(counts.values())
    return Connections(in_use, int(allowed), Counter(roles.values()), in_use - own)
