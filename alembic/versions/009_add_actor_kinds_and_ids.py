"""Add the actor's kind and key id to sessions and events.

The rows are rewritten in batches, each in a transaction of its own: no lock is held for long, and the space of old rows
is used again once it is vacuumed. An interrupted migration can be started again: it adds the missing columns and
rewrites the remaining rows.
"""

import sqlalchemy as sa
from alembic import op

revision = "009"
down_revision = "008"
branch_labels = None
depends_on = None

SESSIONS, EVENTS = "authorization_sessions", "events"
OWN = ("bootstrap", "cli", "service", "self-healing")
IDS_PER_BATCH = 10_000
BATCHES_PER_VACUUM = 10


def upgrade() -> None:
    # Add the columns to both tables before the first batch ends this transaction.
    _add_columns(SESSIONS, "requested_by", default="key")
    _add_columns(EVENTS, "actor", default="service")
    _rewrite(SESSIONS, "requested_by", default="key")
    _rewrite(EVENTS, "actor", default="service")


def downgrade() -> None:
    for table, name in ((EVENTS, "actor"), (SESSIONS, "requested_by")):
        op.drop_column(table, f"{name}_id")
        op.drop_column(table, f"{name}_kind")


def _add_columns(table: str, name: str, *, default: str) -> None:
    there = {column["name"] for column in sa.inspect(op.get_bind()).get_columns(table)}
    for column in (
        sa.Column(f"{name}_kind", sa.String(length=32), nullable=False, server_default=default),
        sa.Column(f"{name}_id", sa.String(length=36), nullable=True),
    ):
        if column.name not in there:
            op.add_column(table, column)


def _rewrite(table: str, name: str, *, default: str) -> None:
    own = ", ".join(f"'{each}'" for each in OWN)
    # A key may have the name of an actor of the service: such rows are ambiguous and are not taken for the service's.
    # A row with the default kind and without an id is not rewritten yet, or needs no change.
    batch = sa.text(
        f"UPDATE {table} SET "  # noqa: S608
        f"{name}_kind = CASE WHEN {name} IN ({own}) AND {name} NOT IN (SELECT name FROM api_keys) "
        f"THEN {name} ELSE 'key' END, "
        f"{name}_id = (SELECT key_id FROM api_keys WHERE api_keys.name = {table}.{name}) "
        f"WHERE id BETWEEN :first AND :last AND {name}_kind = '{default}' AND {name}_id IS NULL "
        f"AND ({name} <> '{default}' OR {name} IN (SELECT name FROM api_keys))"  # most events stay as they are
    )
    next_id = sa.text(f"SELECT min(id) FROM {table} WHERE id > :last")  # noqa: S608
    is_postgresql = op.get_bind().dialect.name == "postgresql"
    last = batches = 0
    while (first := op.get_bind().scalar(next_id, {"last": last})) is not None:
        last, batches = first + IDS_PER_BATCH - 1, batches + 1
        with op.get_context().autocommit_block():  # ends the transaction before it, and begins one after it
            op.execute(batch.bindparams(first=first, last=last))
            if is_postgresql and batches % BATCHES_PER_VACUUM == 0:
                op.execute(f"VACUUM {table}")  # autovacuum comes once a minute
