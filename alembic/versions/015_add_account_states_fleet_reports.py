"""Index accounts by their state, note since when tokens are unusable, and add a table for what the monitor counts."""

import sqlalchemy as sa
from alembic import op

revision = "015"
down_revision = "014"
branch_labels = None
depends_on = None

NOT_ACTIVE = sa.text("status <> 'active'")
ENDED_FOR_PERSON = sa.text(
    "status = 'needs_attention' OR (status = 'failed' AND error_code IN ('ACCOUNT_MISMATCH', 'CONSENT_DECLINED'))"
)


def upgrade() -> None:
    op.create_index(
        "ix_authorization_sessions_person",
        "authorization_sessions",
        ["id"],
        sqlite_where=ENDED_FOR_PERSON,
        postgresql_where=ENDED_FOR_PERSON,
    )
    op.add_column("credentials", sa.Column("unusable_since", sa.DateTime(timezone=True)))
    op.create_index("ix_credentials_expiry", "credentials", ["status", "token_expires_at", "id"])
    op.create_index(
        "ix_credentials_not_active",
        "credentials",
        ["id"],
        sqlite_where=NOT_ACTIVE,
        postgresql_where=NOT_ACTIVE,
    )
    op.create_table(
        "fleet_reports",
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("counted_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_fleet_reports"),
    )


def downgrade() -> None:
    op.drop_table("fleet_reports")
    op.drop_index("ix_credentials_not_active", "credentials")
    op.drop_index("ix_credentials_expiry", "credentials")
    op.drop_column("credentials", "unusable_since")
    op.drop_index("ix_authorization_sessions_person", "authorization_sessions")
