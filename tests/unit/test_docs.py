"""The README and the pages of `docs/`: links of the README, the site's navigation, generated pages."""

import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.core import TyperGroup

from app.config import Settings
from app.models.base import Base
from app.services.keys.service import Scope
from scripts import cli_reference, settings_reference
from scripts.generated import write_or_check

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def dead_links(text: str) -> list[str]:
    """Return the relative links of a page in the project's folder that lead to no file, or to no heading of it.

    The generator of the site checks the pages of `docs/` (`make docs`); it does not read the README.
    """
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    return [link for link in links if not link.startswith("https://") and not leads_somewhere(link)]


def leads_somewhere(link: str) -> bool:
    name, _, anchor = link.partition("#")
    path = ROOT / name
    return path.is_file() and (not anchor or anchor in anchors(path.read_text()))


def anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def test_links_of_the_readme_lead_somewhere():
    assert dead_links((ROOT / "README.md").read_text()) == []


@pytest.mark.parametrize("link", ["docs/none.md", "docs/security.md#none"])
def test_a_dead_link_is_found(link: str):
    assert dead_links(f"[a]({link}) [b](docs/security.md#responsible-use) [c](https://example.com/)") == [
        link
    ]


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_the_navigation_lists_every_page():
    nav = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"]
    assert sorted(pages(nav)) == sorted(path.name for path in DOCS.glob("*.md"))


def pages(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    entries = nav.values() if isinstance(nav, dict) else nav
    return [page for entry in entries for page in pages(entry)]


def test_paths_that_the_pages_name_exist():
    """Code moves, and a page goes on naming its old place."""
    named = re.compile(r"`((?:app|sandbox|tests|scripts|docs|alembic|benchmarks)/[\w/.]+)`")
    found = {
        path for page in [ROOT / "README.md", *DOCS.glob("*.md")] for path in named.findall(page.read_text())
    }
    assert found
    assert [path for path in sorted(found) if not (ROOT / path).exists()] == []


def test_classes_that_the_glossary_names_exist():
    """Classes are renamed, and the glossary goes on naming them by their old names."""
    glossary = (DOCS / "concepts.md").read_text().partition("## Glossary")[2]
    named = set(re.findall(r"`([A-Z][a-z]+(?:[A-Z][a-z]+)*)`", glossary))
    code = "\n".join(path.read_text() for path in (ROOT / "app").rglob("*.py"))
    assert "AccessScope" in named
    assert named - set(re.findall(r"^class (\w+)", code, re.MULTILINE)) == set()


def test_architecture_lists_every_table():
    section = (DOCS / "architecture.md").read_text().partition("## The data")[2].partition("## ")[0]
    assert Base.metadata.tables.keys() - set(re.findall(r"`(\w+)`", section)) == set()


def test_page_of_the_api_lists_every_operation_with_its_scope():
    table = (DOCS / "api.md").read_text().partition("## Routes")[2]
    listed = dict(re.findall(r"^\| `([A-Z]+ /[^`]*)` \| `?([a-z:]+)`? \|", table, re.MULTILINE))
    paths = json.loads((ROOT / "openapi.json").read_text())["paths"]
    described = {
        f"{method.upper()} {path}": operation.get("security")
        for path, methods in paths.items()
        for method, operation in methods.items()
    }
    del described["POST /accounts/actions"]  # the scope depends on the action
    assert listed == {
        name: schemes[0]["APIKeyHeader"][0] if schemes else "none" for name, schemes in described.items()
    }


def test_page_of_the_keys_lists_every_scope():
    section = (DOCS / "keys.md").read_text().partition("## Scopes")[2].partition("## ")[0]
    assert re.findall(r"^\| `([a-z:]+)` \|", section, re.MULTILINE) == list(Scope)


def test_commands_that_the_pages_name_exist():
    pages = [ROOT / "README.md", *(page for page in DOCS.glob("*.md") if page.name != "cli.md")]
    named = {line for page in pages for line in re.findall(r"-m app ((?:[a-z-]+)[^`\n#]*)", page.read_text())}
    assert any("keys create" in line for line in named)
    assert [line for line in sorted(named) if not is_command(line)] == []


def is_command(line: str) -> bool:
    command, words = typer.main.get_command(cli_reference.cli), shlex.split(line)
    while isinstance(command, TyperGroup) and words and words[0] in command.commands:
        command = command.commands[words.pop(0)]
    known = {name for parameter in command.params for name in parameter.opts} | {"--help"}
    is_unknown = isinstance(command, TyperGroup) and bool(words) and not words[0].startswith("-")
    return not is_unknown and {word for word in words if word.startswith("--")} <= known


@pytest.mark.parametrize("line", ["key create billing", "keys make billing", "keys create billing --day 1"])
def test_unknown_command_or_option_is_found(line: str):
    assert not is_command(line)


def test_the_reference_of_commands_is_what_the_code_says():
    assert cli_reference.PATH.read_text() == cli_reference.render()


def test_the_reference_of_settings_is_what_the_code_says():
    for path, text in settings_reference.render().items():
        assert path.read_text() == text, path


def test_every_setting_has_a_description():
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_the_sections_of_settings_begin_with_settings():
    assert settings_reference.FIRST_OF_SECTION.keys() <= Settings.model_fields.keys()


def test_an_outdated_page_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    page = tmp_path / "page.md"
    assert write_or_check({page: "new"}, ["--check"], command="make reference") == 1
    assert "page.md is out of date: run 'make reference'" in capsys.readouterr().err
    assert write_or_check({page: "new"}, [], command="make reference") == 0
    assert write_or_check({page: "new"}, ["--check"], command="make reference") == 0
    page.write_text("old")
    assert write_or_check({page: "new"}, ["--check"], command="make reference") == 1
