"""Create the tables of live views: internal addresses of processes, and who controls a session's browser."""

import sqlalchemy as sa
from alembic import op

revision = "016"
down_revision = "015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "processes",
        sa.Column("owner", sa.String(length=128), nullable=False),
        sa.Column("machine", sa.String(length=64), nullable=False),
        sa.Column("address", sa.String(length=300), nullable=False),
        sa.Column("certificate", sa.Text(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("heartbeat_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("owner", name="pk_processes"),
    )
    op.create_table(
        "live_controls",
        sa.Column("session_id", sa.String(length=36), nullable=False),
        sa.Column("controller", sa.String(length=128), nullable=False),
        sa.Column("lease_token", sa.String(length=36), nullable=True),
        sa.Column("lease_owner", sa.String(length=128), nullable=True),
        sa.Column("lease_expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("session_id", name="pk_live_controls"),
    )
    op.create_index("ix_live_controls_lease_expires_at", "live_controls", ["lease_expires_at"])


def downgrade() -> None:
    op.drop_table("live_controls")
    op.drop_table("processes")
