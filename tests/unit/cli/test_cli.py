"""The command line: readable refusals, and output that scripts can use."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from app import __version__, cli
from app.config import load_settings

runner = CliRunner()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["app", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def test_wrong_settings_are_one_line_each_and_no_trace(folder: Path, monkeypatch, capsys):
    (folder / ".env").write_text("PORT=s3cret\nNO_SUCH_NAME=s3cret\n")
    assert run(monkeypatch, "serve") == 2
    heading, *lines = capsys.readouterr().err.splitlines()
    assert heading == "Wrong settings:"
    assert sorted(line.split(":")[0] for line in lines) == ["NO_SUCH_NAME", "PORT"]
    assert "s3cret" not in "".join(lines)


@pytest.mark.usefixtures("restored_logging")
def test_database_without_tables_is_reported_with_the_remedy(folder: Path, monkeypatch, capsys):
    assert run(monkeypatch, "keys", "create", "name") == 1
    captured = capsys.readouterr()
    assert "run `python -m app migrate`" in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_the_version_is_shown_without_settings():
    shown = runner.invoke(cli.cli, ["--version"])
    assert (shown.exit_code, shown.stdout) == (0, f"gologin-automation {__version__}\n")


def test_completion_can_be_shown_for_a_shell():
    environment = {
        "_GOLOGIN_AUTOMATION_COMPLETE": "complete_bash",
        "COMP_WORDS": "gologin-automation key",
        "COMP_CWORD": "1",
    }
    completed = runner.invoke(cli.cli, [], prog_name="gologin-automation", env=environment)
    assert completed.stdout.split() == ["keys"]


def test_an_encryption_key_that_is_made_can_be_used():
    made = runner.invoke(cli.cli, ["secrets", "generate", "k7"])
    assert made.exit_code == 0
    assert load_settings(None, encryption_keys=made.stdout.strip()).key_ring


@pytest.mark.parametrize(
    "arguments",
    [
        ["keys", "create", "name", "--days", "0"],
        ["keys", "create", "name", "--scope", "everything"],
        ["keys", "create"],
        ["unknown"],
    ],
)
def test_invalid_options_are_usage_errors(arguments: list[str]):
    assert runner.invoke(cli.cli, arguments).exit_code == 2


def test_help_lists_the_commands():
    shown = runner.invoke(cli.cli, ["--help"]).stdout
    for command in (
        "serve",
        "migrate",
        "authorize",
        "batches",
        "keys",
        "secrets",
        "doctor",
    ):
        assert command in shown


def test_a_worker_beside_sqlite_is_refused_with_the_way_out(
    folder: Path, monkeypatch, capsys, restored_logging
):
    assert run(monkeypatch, "worker") == 2
    assert "separate workers need PostgreSQL" in capsys.readouterr().err


FILES = (
    ".env",
    "data",
    "data/service.db",
    "data/service.db-wal",
    "data/service.db-shm",
    "data/service.db.lock",
    "spill",
)


@pytest.mark.parametrize("open_to_others", [*FILES, None])
def test_doctor_names_what_other_users_may_use(
    folder: Path, monkeypatch: pytest.MonkeyPatch, open_to_others: str | None
):
    monkeypatch.setenv("DATABASE_URL", "sqlite+aiosqlite:///data/service.db")
    monkeypatch.setenv("TOKEN_SPILL_FOLDER", "spill")
    for name in ("data", "spill"):
        (folder / name).mkdir(mode=0o700)
    for name in FILES:
        if not (folder / name).is_dir():
            (folder / name).touch(mode=0o600)
    if open_to_others is not None:
        (folder / open_to_others).chmod((folder / open_to_others).stat().st_mode | 0o040)
    shown = runner.invoke(cli.cli, ["doctor"])
    found = [line.split("files: ") for line in shown.output.splitlines() if "files: " in line]
    if open_to_others is None:
        assert found == [["ok      ", "no other user may use the database, .env or the spilled tokens"]]
        return
    mode = "700" if (folder / open_to_others).is_dir() else "600"
    sentence = f"other users may use {open_to_others}; run `chmod {mode} {open_to_others}`"
    assert found == [["PROBLEM ", sentence]]
    assert shown.exit_code == 1


def test_every_command_and_parameter_explains_itself_in_a_sentence():
    texts = dict(help_texts(typer.main.get_command(cli.cli), "gologin-automation"))
    assert len(texts) > 100
    assert {
        path: text
        for path, text in texts.items()
        if not re.fullmatch(r"[A-Z].{15,}\.", text or "", re.DOTALL)
    } == {}


def help_texts(command: Any, path: str) -> Iterator[tuple[str, str | None]]:
    yield path, command.help
    for parameter in command.params:
        yield f"{path} {parameter.name}", parameter.help
    for name, each in getattr(command, "commands", {}).items():
        yield from help_texts(each, f"{path} {name}")


@pytest.mark.parametrize(
    ("group", "absent"),
    [
        ("token", {"alembic", "fastapi", "psycopg", "selenium", "sqlalchemy", "uvicorn"}),
        ("keys", {"fastapi", "pgqueuer", "selenium", "uvicorn"}),
        ("webhooks", {"fastapi", "pgqueuer", "selenium", "uvicorn"}),
    ],
)
def test_command_at_a_service_imports_only_what_it_needs(group: str, absent: set[str]):
    """Each of them takes a tenth of a second and more."""
    taken = (
        f"import sys; from app.cli import cli; import typer; typer.main.get_command(cli).commands[{group!r}]"
    )
    told = subprocess.run(
        [sys.executable, "-c", f"{taken}; print(*sys.modules)"],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "app.cli.backend" in told.stdout.split()
    assert absent & set(told.stdout.split()) == set()


@pytest.mark.parametrize(
    ("arguments", "changes", "told"),
    [
        ((), {"PORT": "0"}, "PORT is 0, a free one: give the service's --address"),
        ((), {"DASHBOARD_ENABLED": "false"}, "the service has no operators' page"),
    ],
)
def test_link_to_the_page_needs_an_address_and_the_page(
    arguments: tuple[str, ...],
    changes: dict[str, str],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.chdir(tmp_path)
    for name, value in changes.items():
        monkeypatch.setenv(name, value)
    ended = runner.invoke(cli.cli, ["ui-link", *arguments])
    assert ended.exit_code == 2
    assert told in " ".join(re.sub(r"[│╭╰╮╯─]", " ", ended.output).split())
