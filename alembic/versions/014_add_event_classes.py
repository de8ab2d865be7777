"""Add the class of an event, by which it is kept, and tables of what remains of deleted events."""

import sqlalchemy as sa
from alembic import op

revision = "014"
down_revision = "012"
branch_labels = None
depends_on = None

EVENTS = "events"
IS_AUDIT = sa.text("event_class = 'audit' AND account_id IS NOT NULL")
ROUTINE = (
    "authorization.stage", "authorization.started", "authorization.released",
    "credential.refreshed", "credential.refresh_failed", "profiles.synced",
)  # fmt: skip
AUDIT = (
    "credential.imported", "credential.revoking", "credential.revoked", "token.read", "token.verified",
    "profile.linked", "profile.unlinked", "profile.released", "app.resumed", "gologin.breaker_closed",
    "api_key.created", "api_key.rotated", "api_key.revoked", "secrets.rotated", "events.exported", "events.evicted",
    "webhook.created", "webhook.updated", "webhook.paused", "webhook.resumed", "webhook.rotated", "webhook.tested",
    "webhook.replayed", "webhook.events_lost", "webhook.deleted",
)  # fmt: skip


def upgrade() -> None:
    op.create_table(
        "event_deletions",
        sa.Column("event_class", sa.String(length=32), nullable=False),
        sa.Column("deleted_to_id", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("event_class", name=op.f("pk_event_deletions")),
    )
    op.create_table(
        "event_hours",
        sa.Column("hour", sa.DateTime(timezone=True), nullable=False),
        sa.Column("event_type", sa.String(length=64), nullable=False),
        sa.Column("api_app", sa.String(length=64), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("hour", "event_type", "api_app", name=op.f("pk_event_hours")),
    )
    _note_evicted()
    column = sa.Column("event_class", sa.String(length=32), nullable=False, server_default="lifecycle")
    op.add_column(EVENTS, column)
    events = sa.table(EVENTS, sa.column("event_type"), sa.column("event_class"))
    for event_class, types in (("audit", AUDIT), ("routine", ROUTINE)):
        is_of_class = events.c.event_type.in_(types)
        op.execute(events.update().where(is_of_class).values(event_class=event_class))
    op.create_index("ix_events_class", EVENTS, ["event_class", "occurred_at"])
    op.create_index(
        "ix_events_audit",
        EVENTS,
        ["account_id", "event_type", "occurred_at"],
        sqlite_where=IS_AUDIT,
        postgresql_where=IS_AUDIT,
    )


def downgrade() -> None:
    for name in ("ix_events_audit", "ix_events_class"):
        op.drop_index(name, EVENTS)
    op.drop_column(EVENTS, "event_class")
    for table in ("event_hours", "event_deletions"):
        op.drop_table(table)


def _note_evicted() -> None:
    """Events were evicted up to the id that the last event of this type has."""
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    to_id = "json_extract(data, '$.to_event_id')" if is_sqlite else "(data->>'to_event_id')::bigint"
    op.execute(
        f"INSERT INTO event_deletions SELECT 'routine', {to_id} FROM events "  # noqa: S608
        f"WHERE event_type = 'events.evicted' AND {to_id} IS NOT NULL ORDER BY occurred_at DESC LIMIT 1"
    )
