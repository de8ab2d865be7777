"""Index the sessions that wait for a slot by their place in the queue; drop the trigger that notifies of each job.

Commits with a notification wait for each other on the whole server. The service sends one for many jobs; processes of
an earlier version, which send none, are noticed a quarter of a second later.
"""

import sqlalchemy as sa
from alembic import op

revision = "011"
down_revision = "010"
branch_labels = None
depends_on = None

NAME, TABLE = "ix_authorization_sessions_waiting", "authorization_sessions"
IN_QUEUE = sa.text("status = 'pending' AND NOT is_held")


def upgrade() -> None:
    op.create_index(NAME, TABLE, ["queue_rank", "id"], sqlite_where=IN_QUEUE, postgresql_where=IN_QUEUE)
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP TRIGGER tg_pgqueuer_changed ON pgqueuer")


def downgrade() -> None:
    op.drop_index(NAME, TABLE)  # first, in the order in which a request locks the tables
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE TRIGGER tg_pgqueuer_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON pgqueuer"
            " EXECUTE FUNCTION fn_pgqueuer_changed()"
        )
