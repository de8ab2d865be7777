"""Create profiles, authorization_sessions, credentials, api_keys and events."""

import sqlalchemy as sa
from alembic import op

revision = "001"
down_revision = None
branch_labels = None
depends_on = None

# SQLite only numbers rows by itself for a column that is exactly INTEGER.
BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("prefix", sa.String(length=16), nullable=False),
        sa.Column("key_hash", sa.String(length=64), nullable=False),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
        sa.UniqueConstraint("name", name=op.f("uq_api_keys_name")),
        sa.UniqueConstraint("prefix", name=op.f("uq_api_keys_prefix")),
    )
    op.create_table(
        "authorization_sessions",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("session_id", sa.String(length=36), nullable=False),
        sa.Column("profile_id", sa.String(length=64), nullable=False),
        sa.Column("twitter_username", sa.String(length=64), nullable=False),
        sa.Column("api_app", sa.String(length=64), nullable=False),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.Column("missing_scopes", sa.JSON(), nullable=False),
        sa.Column("status", sa.String(length=32), nullable=False),
        sa.Column("stage", sa.String(length=32), nullable=True),
        sa.Column("stage_times", sa.JSON(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("error_code", sa.String(length=64), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("request_id", sa.String(length=128), nullable=False),
        sa.Column("requested_by", sa.String(length=128), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("lease_token", sa.String(length=36), nullable=True),
        sa.Column("lease_owner", sa.String(length=128), nullable=True),
        sa.Column("lease_expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_authorization_sessions")),
        sa.UniqueConstraint("session_id", name=op.f("uq_authorization_sessions_session_id")),
    )
    op.create_index(
        "ix_authorization_sessions_account",
        "authorization_sessions",
        ["twitter_username", "api_app", "status"],
        unique=False,
    )
    op.create_index(
        "ix_authorization_sessions_ended", "authorization_sessions", ["status", "completed_at"], unique=False
    )
    op.create_index(
        "ix_authorization_sessions_lease_expires_at",
        "authorization_sessions",
        ["lease_expires_at"],
        unique=False,
    )
    op.create_index(
        "ix_authorization_sessions_profile_id", "authorization_sessions", ["profile_id"], unique=False
    )
    op.create_index(
        "ix_authorization_sessions_queue",
        "authorization_sessions",
        ["status", "priority", "id"],
        unique=False,
    )

    op.create_table(
        "credentials",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("account_id", sa.String(length=64), nullable=False),
        sa.Column("api_app", sa.String(length=64), nullable=False),
        sa.Column("provider_user_id", sa.String(length=64), nullable=False),
        sa.Column("access_token", sa.Text(), nullable=False),
        sa.Column("refresh_token", sa.Text(), nullable=True),
        sa.Column("oauth_token_secret", sa.Text(), nullable=True),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.Column("token_expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("status", sa.String(length=32), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("session_id", sa.String(length=36), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_credentials")),
    )
    op.create_index("ix_credentials_token_expires_at", "credentials", ["token_expires_at"], unique=False)
    op.create_index("uq_credentials_account", "credentials", ["account_id", "api_app"], unique=True)

    op.create_table(
        "events",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("event_type", sa.String(length=64), nullable=False),
        sa.Column("occurred_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("account_id", sa.String(length=64), nullable=True),
        sa.Column("api_app", sa.String(length=64), nullable=True),
        sa.Column("session_id", sa.String(length=36), nullable=True),
        sa.Column("profile_id", sa.String(length=64), nullable=True),
        sa.Column("actor", sa.String(length=128), nullable=False),
        sa.Column("request_id", sa.String(length=128), nullable=True),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_events")),
    )
    op.create_index("ix_events_account_id", "events", ["account_id"], unique=False)
    op.create_index("ix_events_event_type", "events", ["event_type"], unique=False)
    op.create_index("ix_events_occurred_at", "events", ["occurred_at"], unique=False)
    op.create_index("ix_events_session_id", "events", ["session_id"], unique=False)

    op.create_table(
        "profiles",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("profile_id", sa.String(length=64), nullable=False),
        sa.Column("profile_name", sa.Text(), nullable=False),
        sa.Column("twitter_username", sa.String(length=64), nullable=True),
        sa.Column("api_app", sa.String(length=64), nullable=True),
        sa.Column("last_synced", sa.DateTime(timezone=True), nullable=True),
        sa.Column("metadata", sa.JSON(), nullable=False),
        sa.Column("is_active", sa.Boolean(), nullable=False),
        sa.Column("in_use", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("lease_token", sa.String(length=36), nullable=True),
        sa.Column("lease_owner", sa.String(length=128), nullable=True),
        sa.Column("lease_expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_profiles")),
        sa.UniqueConstraint("profile_id", name=op.f("uq_profiles_profile_id")),
    )
    op.create_index("ix_profiles_account", "profiles", ["twitter_username", "api_app"], unique=False)
    op.create_index("ix_profiles_lease_expires_at", "profiles", ["lease_expires_at"], unique=False)


def downgrade() -> None:
    op.drop_index("ix_profiles_lease_expires_at", table_name="profiles")
    op.drop_index("ix_profiles_account", table_name="profiles")

    op.drop_table("profiles")
    op.drop_index("ix_events_session_id", table_name="events")
    op.drop_index("ix_events_occurred_at", table_name="events")
    op.drop_index("ix_events_event_type", table_name="events")
    op.drop_index("ix_events_account_id", table_name="events")

    op.drop_table("events")
    op.drop_index("uq_credentials_account", table_name="credentials")
    op.drop_index("ix_credentials_token_expires_at", table_name="credentials")

    op.drop_table("credentials")
    op.drop_index("ix_authorization_sessions_queue", table_name="authorization_sessions")
    op.drop_index("ix_authorization_sessions_profile_id", table_name="authorization_sessions")
    op.drop_index("ix_authorization_sessions_lease_expires_at", table_name="authorization_sessions")
    op.drop_index("ix_authorization_sessions_ended", table_name="authorization_sessions")
    op.drop_index("ix_authorization_sessions_account", table_name="authorization_sessions")

    op.drop_table("authorization_sessions")
    op.drop_table("api_keys")
