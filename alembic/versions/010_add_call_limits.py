"""Create account_limits; add the cause of a limit and the time of a resume to app_states; end excessive waits."""

import sqlalchemy as sa
from alembic import op

revision = "010"
down_revision = "009"
branch_labels = None
depends_on = None

LIMITS = "account_limits"
IN_A_DAY = {
    "sqlite": "(strftime('%Y-%m-%d %H:%M:%f', 'now', '+1 day') || '000')",
    "postgresql": "now() + interval '1 day'",
}
NOW = {"sqlite": "(strftime('%Y-%m-%d %H:%M:%f', 'now') || '000')", "postgresql": "now()"}


def upgrade() -> None:
    op.add_column("app_states", sa.Column("limited_by", sa.String(length=64), nullable=True))
    op.add_column("app_states", sa.Column("resumed_at", sa.DateTime(timezone=True), nullable=True))
    op.create_table(
        LIMITS,
        sa.Column("account_id", sa.String(length=64), nullable=False),
        sa.Column("api_app", sa.String(length=64), nullable=False),
        sa.Column("limited_until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("limited_by", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("account_id", "api_app", name=op.f("pk_account_limits")),
    )
    op.create_index("ix_account_limits_limited_until", LIMITS, ["limited_until"])
    _end_endless_waits()


def _end_endless_waits() -> None:
    """End waits of more than a day: older versions waited as long as a provider asked, even until the year 58879."""
    dialect = op.get_bind().dialect.name
    in_a_day, now = IN_A_DAY[dialect], NOW[dialect]
    op.execute(f"UPDATE app_states SET limited_until = NULL WHERE limited_until > {in_a_day}")  # noqa: S608
    op.execute(
        "UPDATE authorization_sessions SET not_before = NULL"  # noqa: S608
        f" WHERE status = 'pending' AND attempts > 0 AND not_before > {in_a_day}"
    )
    op.execute(
        f"UPDATE credentials SET refresh_due_at = {now}"  # noqa: S608
        f" WHERE refresh_failures > 0 AND refresh_due_at > {in_a_day}"
    )
    # A token of unknown lifetime was taken for an endless one.
    op.execute(
        f"UPDATE credentials SET refresh_due_at = {now}"  # noqa: S608
        " WHERE refresh_token IS NOT NULL AND token_expires_at IS NULL AND refresh_due_at IS NULL AND status = 'active'"
    )


def downgrade() -> None:
    op.drop_index("ix_account_limits_limited_until", LIMITS)
    op.drop_table(LIMITS)
    with op.batch_alter_table("app_states") as batch:
        batch.drop_column("resumed_at")
        batch.drop_column("limited_by")
