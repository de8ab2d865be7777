"""Add refusals of a refresh without a known reason to credentials; widen provider user ids to OpenID Connect's 255."""

import sqlalchemy as sa
from alembic import op

revision = "008"
down_revision = "007"
branch_labels = None
depends_on = None

CREDENTIALS = "credentials"
REFUSALS = sa.Column("refresh_refusals", sa.Integer(), nullable=False, server_default="0")
SINCE = sa.Column("refused_since", sa.DateTime(timezone=True), nullable=True)


def upgrade() -> None:
    op.add_column(CREDENTIALS, REFUSALS)
    op.add_column(CREDENTIALS, SINCE)
    with op.batch_alter_table(CREDENTIALS) as batch:
        batch.alter_column(
            "provider_user_id",
            existing_type=sa.String(length=64),
            type_=sa.String(length=255),
            existing_nullable=False,
        )


def downgrade() -> None:
    # Only people read the id; a longer one would keep the column from being narrowed.
    op.execute(f"UPDATE {CREDENTIALS} SET provider_user_id = substr(provider_user_id, 1, 64)")  # noqa: S608
    with op.batch_alter_table(CREDENTIALS) as batch:
        batch.alter_column(
            "provider_user_id",
            existing_type=sa.String(length=255),
            type_=sa.String(length=64),
            existing_nullable=False,
        )
        batch.drop_column("refused_since")
        batch.drop_column("refresh_refusals")
