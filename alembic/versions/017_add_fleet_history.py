"""Add a table for the fleet's numbers of each minute, which become one row an hour later."""

import sqlalchemy as sa
from alembic import op

revision = "017"
down_revision = "016"
branch_labels = None
depends_on = None

SUMS = ("completed", "failed", "timeout", "cancelled", "needs_attention")
MEANS = (
    "waiting", "running", "oldest_waiting_seconds", "running_profiles",
    "working", "expiring", "broken", "needs_person", "never_authorized",
)  # fmt: skip


def upgrade() -> None:
    op.create_table(
        "fleet_history",
        sa.Column("begins_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("minutes", sa.Integer(), nullable=False),
        *(sa.Column(name, sa.Integer(), nullable=False) for name in SUMS),
        sa.Column("failures", sa.JSON(), nullable=False),
        *(sa.Column(name, sa.Double()) for name in MEANS),
        sa.PrimaryKeyConstraint("begins_at", "step", name="pk_fleet_history"),
    )
    op.create_index("ix_fleet_history_step", "fleet_history", ["step", "begins_at"])


def downgrade() -> None:
    op.drop_table("fleet_history")
