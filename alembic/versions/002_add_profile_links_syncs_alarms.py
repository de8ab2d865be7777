"""Add links, quarantine and the running browser to profiles; create profile_syncs, api_gates, worker_runs, alarms."""

import sqlalchemy as sa
from alembic import op

revision = "002"
down_revision = "001"
branch_labels = None
depends_on = None

# SQLite only numbers rows by itself for a column that is exactly INTEGER.
BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
LINKS = {
    "uq_profiles_link": (["twitter_username", "api_app"], "is_linked"),
    "uq_profiles_link_any_app": (["twitter_username"], "is_linked AND api_app IS NULL"),
}


def upgrade() -> None:
    op.add_column("profiles", sa.Column("is_linked", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("profiles", sa.Column("ws_url", sa.Text(), nullable=True))
    op.add_column("profiles", sa.Column("quarantined_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("profiles", sa.Column("quarantine_reason", sa.Text(), nullable=True))
    for name, (columns, condition) in LINKS.items():
        where = sa.text(condition)
        op.create_index(name, "profiles", columns, unique=True, sqlite_where=where, postgresql_where=where)
    in_use = sa.text("in_use")
    op.create_index(
        "ix_profiles_in_use", "profiles", ["in_use"], sqlite_where=in_use, postgresql_where=in_use
    )

    counts = ("pages", "seen", "created", "updated", "returned", "gone", "conflicts")
    op.create_table(
        "profile_syncs",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("sync_id", sa.String(length=36), nullable=False),
        sa.Column("status", sa.String(length=32), nullable=False),
        sa.Column("requested_by", sa.String(length=128), nullable=False),
        sa.Column("request_id", sa.String(length=128), nullable=True),
        sa.Column("allow_mass_removal", sa.Boolean(), nullable=False),
        *(sa.Column(name, sa.Integer(), nullable=False) for name in counts),
        sa.Column("error_code", sa.String(length=64), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_profile_syncs")),
        sa.UniqueConstraint("sync_id", name=op.f("uq_profile_syncs_sync_id")),
    )
    op.create_index("ix_profile_syncs_status", "profile_syncs", ["status"], unique=False)

    op.create_table(
        "api_gates",
        sa.Column("name", sa.String(length=32), nullable=False),
        sa.Column("next_free", sa.Double(), nullable=False),
        sa.Column("opened_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("open_reason", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_api_gates")),
    )

    op.create_table(
        "worker_runs",
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("next_run_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_success_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("lease_token", sa.String(length=36), nullable=True),
        sa.Column("lease_owner", sa.String(length=128), nullable=True),
        sa.Column("lease_expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_worker_runs")),
    )
    op.create_index("ix_worker_runs_lease_expires_at", "worker_runs", ["lease_expires_at"], unique=False)

    op.create_table(
        "alarms",
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("is_active", sa.Boolean(), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_alarms")),
    )


def downgrade() -> None:
    for table in ("alarms", "worker_runs", "api_gates", "profile_syncs"):
        op.drop_table(table)
    for name in ("ix_profiles_in_use", *LINKS):
        op.drop_index(name, "profiles")
    with op.batch_alter_table("profiles") as batch:
        for column in ("quarantine_reason", "quarantined_at", "ws_url", "is_linked"):
            batch.drop_column(column)
