"""Rules for the files around the code that no tool checks: pins, wheel, version, references of the compose file."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from app import __version__

ROOT = Path(__file__).resolve().parents[2]


def load_script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read_project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    return loaded


def test_requirement_files_hold_the_pins_of_the_project() -> None:
    assert load_script("check_requirements").list_problems(ROOT) == []


@pytest.mark.parametrize(
    ("file", "old", "new", "problem"),
    [
        ("pyproject.toml", '"typer==', '"typer>=', "pyproject.toml: typer is not pinned"),
        ("pyproject.toml", '"rich==', '"pillow==9",\n"rich==', "requirements.txt: pillow==9 of"),
        ("pyproject.toml", '"typer==', '"typer==1!', "requirements.txt: typer is "),
        ("pyproject.toml", '"mypy==', '"mypy==1!', "requirements-dev.txt: mypy is "),
        ("pyproject.toml", '"rich==', '# "rich==', "requirements.txt: pyproject.toml does not name rich"),
        ("requirements.txt", "\nanyio==", "\nanyio==1!", "requirements-dev.txt: anyio is not 1!"),
        ("requirements.txt", "--hash=sha256:", "--hash=md5:", "requirements.txt: typer has no hash"),
    ],
)
def test_drift_of_requirement_files_is_found(
    tmp_path: Path, file: str, old: str, new: str, problem: str
) -> None:
    for name in ("pyproject.toml", "requirements.txt", "requirements-dev.txt"):
        shutil.copy(ROOT / name, tmp_path)
    content = (tmp_path / file).read_text(encoding="utf-8")
    assert old in content
    (tmp_path / file).write_text(content.replace(old, new), encoding="utf-8")
    problems = load_script("check_requirements").list_problems(tmp_path)
    assert [each for each in problems if each.startswith(problem)]


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_requirement_files_name_no_package_index(name: str) -> None:
    content = (ROOT / name).read_text(encoding="utf-8")
    assert not re.search(r"://|^\s*-", content.replace("    --hash=", ""), re.MULTILINE)


def test_the_backend_that_builds_the_wheel_is_the_one_that_is_tested() -> None:
    project = read_project()
    assert project["build-system"]["requires"] == [
        each for each in project["project"]["optional-dependencies"]["dev"] if each.startswith("hatchling==")
    ]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built without a network and unpacked as an installer does it."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    [wheel] = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_the_wheel_holds_the_package_and_its_migrations_alone(installed: Path) -> None:
    [metadata] = installed.glob("*.dist-info")
    assert metadata.name == f"gologin_automation-{__version__}.dist-info"
    assert {each.name for each in installed.iterdir()} == {"app", metadata.name}
    assert list_files(installed / "app/migrations") == list_files(ROOT / "alembic")
    own = {path for path in list_files(installed / "app") if path.parts[0] != "migrations"}
    assert own == list_files(ROOT / "app")


def list_files(folder: Path) -> set[Path]:
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {path for path in files if "__pycache__" not in path.parts}


def test_the_installed_command_migrates_and_examines_outside_the_repository(
    installed: Path, tmp_path: Path
) -> None:
    [points] = installed.glob("*.dist-info/entry_points.txt")
    match = re.search(
        r"^gologin-automation = ([\w.]+):(\w+)$", points.read_text(encoding="utf-8"), re.MULTILINE
    )
    assert match
    script = (
        f"import sys; from {match[1]} import {match[2]}; sys.exit({match[2]}())"  # as installers write it
    )

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", script, *arguments],
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(installed), "DATABASE_URL": "sqlite+aiosqlite:///new.db"},
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("migrate")
    assert "schema: up to date" in run("doctor")


def test_the_image_carries_the_version_of_the_project(compose: dict[str, Any]) -> None:
    images = {service["image"] for service in compose["services"].values()} - {"postgres:17-alpine"}
    assert images == {f"gologin-automation:{__version__}", f"gologin-automation-sandbox:{__version__}"}


def test_the_compose_file_names_only_what_it_defines(compose: dict[str, Any]) -> None:
    assert load_script("check_compose").list_problems(compose) == []


@pytest.mark.parametrize(
    ("service", "key", "value", "problem"),
    [
        (
            "app",
            "depends_on",
            {"nobody": {"condition": "service_started"}},
            "app depends on nobody, which is no service",
        ),
        ("app", "volumes", ["nowhere:/data"], "app mounts volume nowhere, which is not defined"),
        ("app", "networks", ["none"], "app is on network none, which is not defined"),
        ("demo", "network_mode", "service:nobody", "demo shares the network of nobody, which is no service"),
        ("demo", "ports", ["1:1"], "demo shares another network and cannot publish ports of its own"),
        (
            "app",
            "depends_on",
            {"migrate": {"condition": "service_healthy"}},
            "app waits for migrate to be healthy, but it has no healthcheck",
        ),
    ],
)
def test_a_dangling_reference_is_found(
    compose: dict[str, Any], service: str, key: str, value: object, problem: str
) -> None:
    if problem.startswith("app waits"):
        compose["services"]["migrate"].pop("healthcheck")
    compose["services"][service][key] = value
    assert load_script("check_compose").list_problems(compose) == [problem]


def test_the_number_of_test_processes_is_sane() -> None:
    done = subprocess.run(
        ["sh", "scripts/jobs.sh"], cwd=ROOT, capture_output=True, text=True, timeout=10, check=True
    )
    assert 6 <= int(done.stdout) <= 12


def test_make_without_a_target_lists_the_targets() -> None:
    done = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True)
    assert {"demo", "test", "serve", "check", "clean"} <= set(
        re.findall(r"^  make (\S+)", done.stdout, re.MULTILINE)
    )
