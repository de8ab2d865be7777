"""Create batches, batch_rows and evidence; add consent mode, stage deadlines and batch to sessions."""

import sqlalchemy as sa
from alembic import op

revision = "004"
down_revision = "003"
branch_labels = None
depends_on = None

# SQLite only numbers rows by itself for a column that is exactly INTEGER.
BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
HAS_SOURCE = sa.text("source_hash IS NOT NULL")
IN_BATCH = sa.text("batch_id IS NOT NULL")
IS_HELD = sa.text("is_held")
IS_PENDING = sa.text("status = 'pending'")
IS_OPEN = sa.text("completed_at IS NULL")
SESSIONS = "authorization_sessions"


def upgrade() -> None:
    new = (
        sa.Column("stage_timeouts", sa.JSON(), nullable=False, server_default="{}"),
        sa.Column("consent", sa.String(length=32), nullable=False, server_default="automatic"),
        sa.Column("awaits_person", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("batch_id", sa.String(length=36), nullable=True),
        sa.Column("is_held", sa.Boolean(), nullable=False, server_default=sa.false()),
    )
    for column in new:
        op.add_column(SESSIONS, column)
    indexes = (
        ("ix_authorization_sessions_batch", ["batch_id", "status", "is_held"], IN_BATCH),
        ("ix_authorization_sessions_batch_ended", ["batch_id", "completed_at"], IN_BATCH),
        ("ix_authorization_sessions_batch_held", ["batch_id", "queue_rank"], IS_HELD),
        ("ix_authorization_sessions_expiry", ["expires_at"], IS_PENDING),
    )
    for name, columns, where in indexes:
        op.create_index(name, SESSIONS, columns, sqlite_where=where, postgresql_where=where)

    op.create_table(
        "batches",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("batch_id", sa.String(length=36), nullable=False),
        sa.Column("status", sa.String(length=32), nullable=False),
        sa.Column("requested_by", sa.String(length=128), nullable=False),
        sa.Column("request_id", sa.String(length=128), nullable=True),
        sa.Column("source_hash", sa.String(length=64), nullable=True),
        sa.Column("accepted", sa.Integer(), nullable=False),
        sa.Column("rejected", sa.Integer(), nullable=False),
        sa.Column("max_running", sa.Integer(), nullable=False),
        sa.Column("stop_percent", sa.Integer(), nullable=False),
        sa.Column("stop_window", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_batches")),
        sa.UniqueConstraint("batch_id", name=op.f("uq_batches_batch_id")),
    )
    op.create_index("ix_batches_open", "batches", ["id"], sqlite_where=IS_OPEN, postgresql_where=IS_OPEN)
    op.create_index(
        "uq_batches_source",
        "batches",
        ["requested_by", "source_hash"],
        unique=True,
        sqlite_where=HAS_SOURCE,
        postgresql_where=HAS_SOURCE,
    )

    op.create_table(
        "batch_rows",
        sa.Column("batch_id", sa.String(length=36), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("account_id", sa.String(length=128), nullable=False),
        sa.Column("api_app", sa.String(length=128), nullable=False),
        sa.Column("session_id", sa.String(length=36), nullable=True),
        sa.Column("is_existing", sa.Boolean(), nullable=False),
        sa.Column("error_code", sa.String(length=64), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("batch_id", "number", name=op.f("pk_batch_rows")),
    )

    op.create_table(
        "evidence",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("session_id", sa.String(length=36), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("taken_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("test_ids", sa.JSON(), nullable=False),
        sa.Column("console", sa.JSON(), nullable=False),
        sa.Column("screenshot", sa.LargeBinary(), nullable=True),
        sa.Column("size_bytes", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_evidence")),
    )
    op.create_index("ix_evidence_taken_at", "evidence", ["taken_at"])
    op.create_index("uq_evidence_attempt", "evidence", ["session_id", "attempt"], unique=True)


def downgrade() -> None:
    op.drop_table("evidence")
    op.drop_table("batch_rows")
    op.drop_table("batches")
    for name in ("expiry", "batch_held", "batch_ended", "batch"):
        op.drop_index(f"ix_authorization_sessions_{name}", SESSIONS)
    with op.batch_alter_table(SESSIONS) as batch:
        for column in ("is_held", "batch_id", "awaits_person", "consent", "stage_timeouts"):
            batch.drop_column(column)
