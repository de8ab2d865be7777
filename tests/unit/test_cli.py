"""The command line: readable refusals, and output that scripts can use."""

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app import cli
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
def test_a_database_without_tables_is_told_with_the_way_out(folder: Path, monkeypatch, capsys):
    assert run(monkeypatch, "keys", "create", "name") == 1
    captured = capsys.readouterr()
    assert "run `python -m app migrate`" in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_an_encryption_key_that_is_made_can_be_used():
    made = runner.invoke(cli.cli, ["secrets", "generate", "k7"])
    assert made.exit_code == 0
    assert load_settings(None, encryption_keys=made.stdout.strip()).key_ring


@pytest.mark.parametrize(
    "arguments",
    [
        ["demo", "--accounts", "0"],
        ["demo", "--accounts", "many"],
        ["keys", "create", "name", "--days", "0"],
        ["keys", "create", "name", "--scope", "everything"],
        ["keys", "create"],
        ["unknown"],
    ],
)
def test_options_that_cannot_be_are_usage_errors(arguments: list[str]):
    assert runner.invoke(cli.cli, arguments).exit_code == 2


def test_the_commands():
    shown = runner.invoke(cli.cli, ["--help"]).stdout
    for command in (
        "serve",
        "migrate",
        "demo",
        "sandbox",
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
