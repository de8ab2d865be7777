"""Add the person of a sign-in to the operators' page, and the table of single sign-ons that have begun."""

import sqlalchemy as sa
from alembic import op

revision = "018"
down_revision = "017"
branch_labels = None
depends_on = None

SESSIONS, REQUESTS = "dashboard_sessions", "authentication_requests"
BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
COLUMNS = {
    "issuer": sa.String(length=255),
    "subject": sa.String(length=255),
    "person_name": sa.String(length=128),
    "claim_values": sa.JSON(),
}
KEY_OR_PERSON = (
    "(subject IS NULL AND issuer IS NULL AND person_name IS NULL) OR "
    "(subject IS NOT NULL AND issuer IS NOT NULL AND person_name IS NOT NULL AND key_id IS NULL)"
)


def upgrade() -> None:
    with op.batch_alter_table(SESSIONS) as batch:
        for name, kind in COLUMNS.items():
            batch.add_column(sa.Column(name, kind, nullable=True))
        batch.create_check_constraint(op.f("ck_dashboard_sessions_key_or_person"), KEY_OR_PERSON)
    op.create_table(
        REQUESTS,
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("state_hash", sa.String(length=64), nullable=False),
        sa.Column("next_page", sa.String(length=500), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_authentication_requests"),
        sa.UniqueConstraint("state_hash", name="uq_authentication_requests_state_hash"),
    )
    op.create_index("ix_authentication_requests_expires_at", REQUESTS, ["expires_at"])


def downgrade() -> None:
    op.drop_table(REQUESTS)
    # Without its person such a sign-in would look like one of the bootstrap key.
    op.execute(f"DELETE FROM {SESSIONS} WHERE subject IS NOT NULL")  # noqa: S608
    with op.batch_alter_table(SESSIONS) as batch:
        batch.drop_constraint(op.f("ck_dashboard_sessions_key_or_person"), type_="check")
        for name in COLUMNS:
            batch.drop_column(name)
