"""Add the class of an event, by which it is kept, and tables of what remains of deleted events.

On PostgreSQL the table of events becomes one of partitions: by class, and in a class by month (routine: by day), so
that old events are dropped as a whole. All rows are copied in the migration's transaction, so that a kill changes
nothing. Until it ends it takes as much space again as the table has.
"""

from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
from alembic import op

revision = "014"
down_revision = "013"
branch_labels = None
depends_on = None

EVENTS, COPY = "events", "events_copy"
HAS_ACCOUNT = sa.text("account_id IS NOT NULL")
IS_AUDIT = sa.text("event_class = 'audit' AND account_id IS NOT NULL")
ROUTINE = (
    "authorization.stage", "authorization.started", "authorization.released",
    "credential.refreshed", "credential.refresh_failed", "profiles.synced",
)  # fmt: skip
AUDIT = (
    "credential.imported", "credential.revoking", "credential.revoked", "token.read", "token.verified",
    "profile.linked", "profile.unlinked", "profile.released", "app.resumed", "gologin.breaker_closed",
    "api_key.created", "api_key.rotated", "api_key.revoked",
    "accounts.action_requested", "dashboard.link_created", "dashboard.signed_in", "dashboard.signed_out",
    "dashboard.sign_in_refused", "dashboard.sign_ins_ended",
    "secrets.rotated", "events.exported", "events.evicted",
    "webhook.created", "webhook.updated", "webhook.paused", "webhook.resumed", "webhook.rotated", "webhook.tested",
    "webhook.replayed", "webhook.events_lost", "webhook.deleted",
    "live.view_opened", "live.control_taken", "live.control_released",
)  # fmt: skip


INDEXES = (
    ("ix_events_stream", ["xact_id", "id"], None),
    ("ix_events_type", ["event_type", "occurred_at"], None),
    ("ix_events_account", ["account_id", "occurred_at"], HAS_ACCOUNT),
    ("ix_events_session", ["session_id"], sa.text("session_id IS NOT NULL")),
    ("ix_events_request", ["request_id"], sa.text("request_id IS NOT NULL")),
    ("ix_events_actor", ["actor", "occurred_at"], None),
    ("ix_events_occurred_at", ["occurred_at"], None),
)
"""Indexes that the table had before."""
AUDIT_INDEX = ("ix_events_audit", ["account_id", "event_type", "occurred_at"], IS_AUDIT)
DAYS = {"audit": 400, "lifecycle": 90, "routine": 7}
"""Days for which partitions are made; older events go to the default partition."""
PERIODS_AHEAD = {"audit": 1, "lifecycle": 1, "routine": 3}


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
    if op.get_bind().dialect.name == "postgresql":
        _partition()
        return
    events = sa.table(EVENTS, sa.column("event_type"), sa.column("event_class"))
    for event_class, types in (("audit", AUDIT), ("routine", ROUTINE)):
        is_of_class = events.c.event_type.in_(types)
        op.execute(events.update().where(is_of_class).values(event_class=event_class))
    op.create_index("ix_events_class", EVENTS, ["event_class", "occurred_at"])
    _create_index(*AUDIT_INDEX)


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        _merge_partitions()
    else:
        for name in ("ix_events_audit", "ix_events_class"):
            op.drop_index(name, EVENTS)
    op.drop_column(EVENTS, "event_class")
    for table in ("event_hours", "event_deletions"):
        op.drop_table(table)


def _partition() -> None:
    op.rename_table(EVENTS, COPY)
    op.execute(f"CREATE TABLE {EVENTS} (LIKE {COPY} INCLUDING DEFAULTS) PARTITION BY LIST (event_class)")
    oldest = op.get_bind().scalar(sa.text(f"SELECT min(occurred_at) FROM {COPY}"))  # noqa: S608
    for event_class, days in DAYS.items():
        parent, is_daily = f"{EVENTS}_{event_class}", event_class == "routine"
        op.execute(
            f"CREATE TABLE {parent} PARTITION OF {EVENTS} FOR VALUES IN ('{event_class}') "
            "PARTITION BY RANGE (occurred_at)"
        )
        op.execute(f"CREATE TABLE {parent}_default PARTITION OF {parent} DEFAULT")
        now = datetime.now(UTC)
        first = max(oldest or now, now - timedelta(days=days))
        last = now
        for _ in range(PERIODS_AHEAD[event_class]):
            last = _period(last, is_daily=is_daily)[1]
        begin, end = _period(min(first, now), is_daily=is_daily)
        while begin <= last:
            name = f"{parent}_{begin:{'%Y_%m_%d' if is_daily else '%Y_%m'}}"
            op.execute(f"CREATE TABLE {name} PARTITION OF {parent} FOR VALUES FROM ('{begin}') TO ('{end}')")
            begin, end = _period(end, is_daily=is_daily)
    _copy(COPY, EVENTS)
    op.create_primary_key(op.f("pk_events"), EVENTS, ["id", "event_class", "occurred_at"])
    for index in (*INDEXES, AUDIT_INDEX):
        _create_index(*index)


def _merge_partitions() -> None:
    op.rename_table(EVENTS, COPY)
    op.execute(f"CREATE TABLE {EVENTS} (LIKE {COPY} INCLUDING DEFAULTS)")
    _copy(COPY, EVENTS)
    op.create_primary_key(op.f("pk_events"), EVENTS, ["id"])
    for index in INDEXES:
        _create_index(*index)


def _copy(source: str, target: str) -> None:
    """Copy all rows, with the sequence of their ids, and drop the source."""
    names = [column["name"] for column in sa.inspect(op.get_bind()).get_columns(source)]
    classes = " ".join(
        f"WHEN event_type IN ({', '.join(map(repr, types))}) THEN '{event_class}'"
        for event_class, types in (("audit", AUDIT), ("routine", ROUTINE))
    )
    values = [f"CASE {classes} ELSE 'lifecycle' END" if name == "event_class" else name for name in names]
    op.execute(
        f"INSERT INTO {target} ({', '.join(names)}) SELECT {', '.join(values)} FROM {source}"  # noqa: S608
    )
    op.execute(f"ALTER SEQUENCE events_id_seq OWNED BY {target}.id")
    op.drop_table(source)


def _period(moment: datetime, *, is_daily: bool) -> tuple[datetime, datetime]:
    """Return the begin and the end of the day, or of the month."""
    begin = datetime(moment.year, moment.month, moment.day if is_daily else 1, tzinfo=UTC)
    end = begin + timedelta(days=1 if is_daily else 31)
    return begin, end if is_daily else end.replace(day=1)


def _create_index(name: str, columns: list[str], where: sa.TextClause | None) -> None:
    op.create_index(name, EVENTS, columns, sqlite_where=where, postgresql_where=where)


def _note_evicted() -> None:
    """Events were evicted up to the id that the last event of this type has."""
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    to_id = "json_extract(data, '$.to_event_id')" if is_sqlite else "(data->>'to_event_id')::bigint"
    op.execute(
        f"INSERT INTO event_deletions SELECT 'routine', {to_id} FROM events "  # noqa: S608
        f"WHERE event_type = 'events.evicted' AND {to_id} IS NOT NULL ORDER BY occurred_at DESC LIMIT 1"
    )
