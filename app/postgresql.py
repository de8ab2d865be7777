"""Connections to PostgreSQL: settings that the code relies on, deadlines, and how processes show on the server."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import psycopg
from psycopg import DataError
from psycopg.abc import AdaptContext, Buffer
from psycopg.adapt import Loader
from psycopg.pq import Format
from sqlalchemy import URL

SESSION_SETTINGS: Final = {
    # Milliseconds; the second for a machine that has gone in the middle of a transaction, and left its locks.
    "statement_timeout": "30000",
    "idle_in_transaction_session_timeout": "60000",
    "lock_timeout": "0",
    "intervalstyle": "postgres",
    "search_path": "public",
    "default_transaction_isolation": "read committed",
    "default_transaction_deferrable": "off",
    "standard_conforming_strings": "on",
    "bytea_output": "hex",
}
"""Settings that the code relies on, whatever defaults the database, its role or the environment (`PGOPTIONS`) set.

`default_transaction_read_only` is not among them: a standby, and an operator's stop of all writes, count.
"""
_TIMEOUTS: Final = ("statement_timeout", "idle_in_transaction_session_timeout")
"""Settings of which another value than 0 will do, too."""
FORMS: Final = "SET datestyle = 'ISO, MDY'; SET timezone = 'UTC'; SET client_encoding = 'UTF8'"
"""psycopg reads times in this form alone. Not in the options, over which `PGDATESTYLE` and `PGTZ` have precedence.

PgBouncer keeps these three for each client, whichever server connection it gets.
"""
_DEADLINES: Final[dict[str, Any]] = {
    "connect_timeout": 10,  # seconds
    "tcp_user_timeout": 15_000,  # milliseconds without an acknowledgement: the server's machine has gone
}
"""A fail-over of the server must not hold the slots: without them a query waits on a dead socket for many minutes."""
KEEPALIVES: Final[dict[str, Any]] = {"keepalives_idle": 5, "keepalives_interval": 5, "keepalives_count": 2}
"""Seconds; for a connection that listens and sends nothing by itself."""
_TIME_LOADER: Final[Any] = psycopg.adapters.get_loader(psycopg.adapters.types["timestamptz"].oid, Format.TEXT)
"""psycopg's own."""
_FIRST: Final = datetime.min.replace(tzinfo=UTC)
_LAST: Final = datetime.max.replace(tzinfo=UTC)


def connection_arguments(url: URL, *, is_pooled: bool) -> dict[str, Any]:
    """Return the arguments of a connection, beside its URL.

    `is_pooled`: a pooler gives each transaction another server connection. It takes no options of the client's, and a
    prepared statement would be on a server connection that the next transaction does not get.
    """
    if is_pooled:
        return {**_DEADLINES, "prepare_threshold": None}
    escaped = {name: value.replace(" ", "\\ ") for name, value in SESSION_SETTINGS.items()}
    own_options = " ".join(f"-c {name}={value}" for name, value in escaped.items())
    url_options = url.query.get("options", ())
    extra_options = [url_options] if isinstance(url_options, str) else url_options
    return {**_DEADLINES, "options": " ".join([own_options, *extra_options])}


def missing_settings(current: Mapping[str, str]) -> dict[str, str]:
    """Return the settings that `current`, of `pg_settings`, lacks, with the values that the code relies on."""
    return {
        name: value
        for name, value in SESSION_SETTINGS.items()
        if current[name] != value and (name not in _TIMEOUTS or current[name] == "0")
    }


class BoundedTimeLoader(Loader):
    """A PostgreSQL time as a datetime; one that Python cannot hold is the last or the first that it can.

    One row with such a time must not fail every query that reads it.
    """

    def __init__(self, oid: int, context: AdaptContext | None = None) -> None:
        super().__init__(oid, context)
        self._load = _TIME_LOADER(oid, context).load

    def load(self, data: Buffer) -> datetime:
        try:
            moment: datetime = self._load(data).astimezone(UTC)
        except (DataError, OverflowError):
            text = bytes(data)
            return _FIRST if text.endswith(b"BC") or text.startswith((b"-", b"0001")) else _LAST
        return moment
