"""Add restrictions, rotation and last use to api_keys, and a stream order to events; create the webhook tables."""

import sqlalchemy as sa
from alembic import op

revision = "007"
down_revision = "006"
branch_labels = None
depends_on = None

# SQLite only numbers rows by itself for a column that is exactly INTEGER.
BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
HAS_ACCOUNT = sa.text("account_id IS NOT NULL")
HAS_SESSION = sa.text("session_id IS NOT NULL")
HAS_ERROR = sa.text("error_code IS NOT NULL")
HAS_REQUEST = sa.text("request_id IS NOT NULL")
IS_PENDING = sa.text("status = 'pending'")
HAS_TIME = sa.text("next_attempt_at IS NOT NULL")
KEYS, EVENTS = "api_keys", "events"

NEW_KEY_COLUMNS = (
    sa.Column("key_id", sa.String(length=36), nullable=False, server_default=""),
    sa.Column("previous_prefix", sa.String(length=16), nullable=True),
    sa.Column("previous_hash", sa.String(length=64), nullable=True),
    sa.Column("previous_expires_at", sa.DateTime(timezone=True), nullable=True),
    sa.Column("api_apps", sa.JSON(), nullable=False, server_default="[]"),
    sa.Column("account_patterns", sa.JSON(), nullable=False, server_default="[]"),
    sa.Column("rate_limit_per_minute", sa.Integer(), nullable=True),
    sa.Column("created_by", sa.String(length=128), nullable=False, server_default="cli"),
    sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
    sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
)
OLD_EVENT_INDEXES = ("event_type", "account_id", "session_id")
NEW_EVENT_INDEXES = (
    ("ix_events_stream", ["xact_id", "id"], None),
    ("ix_events_type", ["event_type", "occurred_at"], None),
    ("ix_events_account", ["account_id", "occurred_at"], HAS_ACCOUNT),
    ("ix_events_session", ["session_id"], HAS_SESSION),
    ("ix_events_request", ["request_id"], HAS_REQUEST),
    ("ix_events_actor", ["actor", "occurred_at"], None),
)


SESSION_INDEXES = (
    ("ix_authorization_sessions_created", ["created_at", "id"], None),
    ("ix_authorization_sessions_status", ["status", "created_at", "id"], None),
    ("ix_authorization_sessions_app", ["api_app", "created_at", "id"], None),
    ("ix_authorization_sessions_requested_by", ["requested_by", "created_at", "id"], None),
    ("ix_authorization_sessions_error", ["error_code", "created_at", "id"], HAS_ERROR),
    ("ix_authorization_sessions_request", ["request_id"], None),
)


def upgrade() -> None:
    for name, columns, where in SESSION_INDEXES:
        op.create_index(name, "authorization_sessions", columns, sqlite_where=where, postgresql_where=where)
    _widen_keys()
    _order_events()
    _make_webhooks()


def downgrade() -> None:
    for table in ("webhook_attempts", "webhook_deliveries", "webhook_endpoints"):
        op.drop_table(table)
    for name, _, _ in NEW_EVENT_INDEXES:
        op.drop_index(name, table_name=EVENTS)
    for column in OLD_EVENT_INDEXES:
        op.create_index(f"ix_events_{column}", EVENTS, [column])
    op.drop_column(EVENTS, "xact_id")
    _delete_revoked_and_restricted_keys()
    with op.batch_alter_table(KEYS) as keys:
        keys.drop_constraint("uq_api_keys_key_id", type_="unique")
        keys.drop_constraint("uq_api_keys_previous_prefix", type_="unique")
        for column in NEW_KEY_COLUMNS:
            keys.drop_column(column.name)
    for name, _, _ in SESSION_INDEXES:
        op.drop_index(name, table_name="authorization_sessions")


def _widen_keys() -> None:
    for column in NEW_KEY_COLUMNS:
        op.add_column(KEYS, column)
    # The id of an existing key may be any unique text.
    op.execute("UPDATE api_keys SET key_id = prefix")
    with op.batch_alter_table(KEYS) as keys:
        keys.create_unique_constraint("uq_api_keys_key_id", ["key_id"])
        keys.create_unique_constraint("uq_api_keys_previous_prefix", ["previous_prefix"])


def _delete_revoked_and_restricted_keys() -> None:
    # Without the columns a revoked key would work again, and a restricted one for all apps and accounts.
    op.execute(
        f"DELETE FROM {KEYS} WHERE revoked_at IS NOT NULL "  # noqa: S608
        "OR CAST(api_apps AS TEXT) <> '[]' OR CAST(account_patterns AS TEXT) <> '[]'"
    )


def _order_events() -> None:
    # Every existing event is committed: 0 is before the first transaction.
    op.add_column(EVENTS, sa.Column("xact_id", sa.BigInteger(), nullable=False, server_default="0"))
    if op.get_bind().dialect.name == "postgresql":
        op.execute(f"ALTER TABLE {EVENTS} ALTER xact_id SET DEFAULT (pg_current_xact_id()::text::bigint)")
    for column in OLD_EVENT_INDEXES:
        op.drop_index(f"ix_events_{column}", table_name=EVENTS)
    for name, columns, where in NEW_EVENT_INDEXES:
        op.create_index(name, EVENTS, columns, sqlite_where=where, postgresql_where=where)


def _make_webhooks() -> None:
    op.create_table(
        "webhook_endpoints",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("endpoint_id", sa.String(length=36), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("event_types", sa.JSON(), nullable=False),
        sa.Column("api_apps", sa.JSON(), nullable=False),
        sa.Column("account_patterns", sa.JSON(), nullable=False),
        sa.Column("secret", sa.Text(), nullable=False),
        sa.Column("previous_secret", sa.Text(), nullable=True),
        sa.Column("previous_secret_expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("status", sa.String(length=32), nullable=False),
        sa.Column("pause_reason", sa.Text(), nullable=True),
        sa.Column("failing_since", sa.DateTime(timezone=True), nullable=True),
        sa.Column("after_xact_id", sa.BigInteger(), nullable=False),
        sa.Column("after_event_id", sa.BigInteger(), nullable=False),
        sa.Column("created_by", sa.String(length=128), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_endpoints")),
        sa.UniqueConstraint("endpoint_id", name=op.f("uq_webhook_endpoints_endpoint_id")),
    )
    op.create_table(
        "webhook_deliveries",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("endpoint_row_id", BIG_ID, nullable=False),
        sa.Column("event_id", sa.BigInteger(), nullable=False),
        sa.Column("event_type", sa.String(length=64), nullable=False),
        sa.Column("account_id", sa.String(length=64), nullable=True),
        sa.Column("api_app", sa.String(length=64), nullable=True),
        sa.Column("status", sa.String(length=32), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("lease_token", sa.String(length=36), nullable=True),
        sa.Column("lease_owner", sa.String(length=128), nullable=True),
        sa.Column("lease_expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["endpoint_row_id"], ["webhook_endpoints.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_deliveries")),
    )
    for name, columns, is_unique, where in (
        ("uq_webhook_deliveries_event", ["endpoint_row_id", "event_id"], True, None),
        ("ix_webhook_deliveries_status", ["endpoint_row_id", "status", "event_id"], False, None),
        ("ix_webhook_deliveries_due", ["endpoint_row_id", "next_attempt_at"], False, HAS_TIME),
        ("ix_webhook_deliveries_line", ["endpoint_row_id", "account_id", "event_id"], False, IS_PENDING),
        ("ix_webhook_deliveries_completed_at", ["completed_at"], False, None),
        ("ix_webhook_deliveries_lease_expires_at", ["lease_expires_at"], False, None),
    ):
        op.create_index(
            name,
            "webhook_deliveries",
            columns,
            unique=is_unique,
            sqlite_where=where,
            postgresql_where=where,
        )
    op.create_table(
        "webhook_attempts",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("delivery_id", BIG_ID, nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("milliseconds", sa.Integer(), nullable=False),
        sa.Column("status_code", sa.Integer(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("answer", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["delivery_id"], ["webhook_deliveries.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_attempts")),
    )
    op.create_index("ix_webhook_attempts_delivery_id", "webhook_attempts", ["delivery_id"])
