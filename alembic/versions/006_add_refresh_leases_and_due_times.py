"""Add lease, spending marker, due time and failures of a refresh to credentials, and a rate limit to app_states."""

import sqlalchemy as sa
from alembic import op

revision = "006"
down_revision = "005"
branch_labels = None
depends_on = None

CREDENTIALS = "credentials"
NEW = (
    sa.Column("lease_token", sa.String(length=36), nullable=True),
    sa.Column("lease_owner", sa.String(length=128), nullable=True),
    sa.Column("lease_expires_at", sa.DateTime(timezone=True), nullable=True),
    sa.Column("spending_version", sa.Integer(), nullable=True),
    sa.Column("refresh_due_at", sa.DateTime(timezone=True), nullable=True),
    sa.Column("refreshed_at", sa.DateTime(timezone=True), nullable=True),
    sa.Column("refresh_failures", sa.Integer(), nullable=False, server_default="0"),
    sa.Column("refresh_error_code", sa.String(length=64), nullable=True),
)


def upgrade() -> None:
    for column in NEW:
        op.add_column(CREDENTIALS, column)
    op.create_index("ix_credentials_lease_expires_at", CREDENTIALS, ["lease_expires_at"])
    op.create_index("ix_credentials_due", CREDENTIALS, ["status", "refresh_due_at"])
    # Credentials from before are due when they expire.
    op.execute(
        f"UPDATE {CREDENTIALS} SET refresh_due_at = token_expires_at WHERE refresh_token IS NOT NULL"  # noqa: S608
    )
    op.add_column("app_states", sa.Column("limited_until", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("app_states") as batch:
        batch.drop_column("limited_until")
    op.drop_index("ix_credentials_due", CREDENTIALS)
    op.drop_index("ix_credentials_lease_expires_at", CREDENTIALS)
    with op.batch_alter_table(CREDENTIALS) as batch:
        for column in reversed(NEW):
            batch.drop_column(column.name)
