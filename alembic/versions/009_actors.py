"""Who acts: a kind and the key's id beside the name."""

import sqlalchemy as sa
from alembic import op

revision = "009"
down_revision = "008"
branch_labels = None
depends_on = None

SESSIONS, EVENTS = "authorization_sessions", "events"
OWN = ("bootstrap", "cli", "service", "self-healing")


def upgrade() -> None:
    _add(SESSIONS, "requested_by", most="")
    _add(EVENTS, "actor", most="service")


def downgrade() -> None:
    for table, name in ((EVENTS, "actor"), (SESSIONS, "requested_by")):
        op.drop_column(table, f"{name}_id")
        op.drop_column(table, f"{name}_kind")


def _add(table: str, name: str, *, most: str) -> None:
    op.add_column(
        table, sa.Column(f"{name}_kind", sa.String(length=32), nullable=False, server_default=most or "key")
    )
    op.add_column(table, sa.Column(f"{name}_id", sa.String(length=36), nullable=True))
    own = ", ".join(f"'{each}'" for each in OWN)
    # A key may have the name of an actor of the service: what was done under it cannot be told apart, and does not
    # pass for the service.
    op.execute(
        f"UPDATE {table} SET "  # noqa: S608
        f"{name}_kind = CASE WHEN {name} IN ({own}) AND {name} NOT IN (SELECT name FROM api_keys) "
        f"THEN {name} ELSE 'key' END, "
        f"{name}_id = (SELECT key_id FROM api_keys WHERE api_keys.name = {table}.{name}) "
        f"WHERE {name} <> '{most}'"  # of events, most rows are not written anew
    )
