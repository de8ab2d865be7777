"""Create authorization_attempts, idempotency_keys and app_states; add rank, retry time and uniqueness to sessions."""

import sqlalchemy as sa
from alembic import op

revision = "003"
down_revision = "002"
branch_labels = None
depends_on = None

# SQLite only numbers rows by itself for a column that is exactly INTEGER.
BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
OPEN = sa.text("status IN ('pending', 'in_progress') AND NOT is_forced")
SESSIONS = "authorization_sessions"


def upgrade() -> None:
    new = (
        sa.Column("queue_rank", sa.Double(), nullable=False, server_default="0"),
        sa.Column("not_before", sa.DateTime(timezone=True), nullable=True),
        sa.Column("timeout_seconds", sa.Double(), nullable=True),
        sa.Column("is_forced", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("attempts_allowed", sa.Integer(), nullable=False, server_default="3"),
    )
    for column in new:
        op.add_column(SESSIONS, column)
    _order_by_priority_and_age()
    _keep_one_open_session_an_account()
    op.drop_index("ix_authorization_sessions_queue", SESSIONS)
    op.create_index("ix_authorization_sessions_queue", SESSIONS, ["status", "queue_rank", "id"])
    op.create_index(
        "uq_authorization_sessions_open",
        SESSIONS,
        ["twitter_username", "api_app"],
        unique=True,
        sqlite_where=OPEN,
        postgresql_where=OPEN,
    )

    op.create_table(
        "authorization_attempts",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("session_id", sa.String(length=36), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("stage", sa.String(length=32), nullable=True),
        sa.Column("error_code", sa.String(length=64), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_authorization_attempts")),
    )
    op.create_index(
        "uq_authorization_attempts_number", "authorization_attempts", ["session_id", "number"], unique=True
    )

    op.create_table(
        "idempotency_keys",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("caller", sa.String(length=128), nullable=False),
        sa.Column("key_hash", sa.String(length=64), nullable=False),
        sa.Column("body_hash", sa.String(length=64), nullable=False),
        sa.Column("session_id", sa.String(length=36), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_idempotency_keys")),
    )
    op.create_index("uq_idempotency_keys_key", "idempotency_keys", ["caller", "key_hash"], unique=True)
    op.create_index("ix_idempotency_keys_expires_at", "idempotency_keys", ["expires_at"])

    op.create_table(
        "app_states",
        sa.Column("api_app", sa.String(length=64), nullable=False),
        sa.Column("failures_in_a_row", sa.Integer(), nullable=False),
        sa.Column("paused_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("api_app", name=op.f("pk_app_states")),
    )


def downgrade() -> None:
    for table in ("app_states", "idempotency_keys", "authorization_attempts"):
        op.drop_table(table)
    op.drop_index("uq_authorization_sessions_open", SESSIONS)
    op.drop_index("ix_authorization_sessions_queue", SESSIONS)
    op.create_index("ix_authorization_sessions_queue", SESSIONS, ["status", "priority", "id"])
    with op.batch_alter_table(SESSIONS) as batch:
        for column in ("attempts_allowed", "is_forced", "timeout_seconds", "not_before", "queue_rank"):
            batch.drop_column(column)


def _order_by_priority_and_age() -> None:
    """Rank sessions as the service does: each step of priority is a head start of ten minutes."""
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    epoch = "unixepoch(created_at)" if is_sqlite else "extract(epoch from created_at)"
    op.execute(f"UPDATE {SESSIONS} SET queue_rank = {epoch} - 600 * priority")  # noqa: S608


def _keep_one_open_session_an_account() -> None:
    """Mark a session as forced that is open beside an earlier one of its account: the unique index is new."""
    op.execute(
        f"""
        UPDATE {SESSIONS} SET is_forced = true
        WHERE status IN ('pending', 'in_progress') AND EXISTS (
            SELECT 1 FROM {SESSIONS} AS earlier
            WHERE earlier.twitter_username = {SESSIONS}.twitter_username
              AND earlier.api_app = {SESSIONS}.api_app
              AND earlier.status IN ('pending', 'in_progress') AND earlier.id < {SESSIONS}.id)
        """  # noqa: S608
    )
