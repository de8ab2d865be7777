"""Index the profiles by name, the order of their list: without it each page sorted the whole table.

An entry of PostgreSQL's index has at most 2,704 bytes, so a name has at most 500 characters from now on.
"""

import sqlalchemy as sa
from alembic import op

revision = "012"
down_revision = "011"
branch_labels = None
depends_on = None

MAX_NAME = 500


def upgrade() -> None:
    profiles = sa.table("profiles", sa.column("profile_name", sa.Text))
    name = profiles.c.profile_name
    op.execute(
        profiles.update()
        .where(sa.func.length(name) > MAX_NAME)
        .values(profile_name=sa.func.substr(name, 1, MAX_NAME))
    )
    op.create_index("ix_profiles_name", "profiles", ["profile_name", "id"])


def downgrade() -> None:
    op.drop_index("ix_profiles_name", "profiles")
