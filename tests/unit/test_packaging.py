"""What no tool checks about the files around the code: pins, the version, the compose file's references."""

import importlib.util
import re
import subprocess
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]


def load_script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    return loaded


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_every_requirement_is_pinned_exactly(name: str) -> None:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    requirements = [line for line in lines if line and not line.startswith(("#", "-r "))]
    assert requirements
    assert [
        line for line in requirements if not re.fullmatch(r"[A-Za-z0-9_.-]+(\[[a-z,]+])?==[0-9][^*\s]*", line)
    ] == []


def test_the_image_carries_the_version_of_the_project(compose: dict[str, Any]) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    images = {service["image"] for service in compose["services"].values()} - {"postgres:17-alpine"}
    assert images == {f"gologin-automation:{version}", f"gologin-automation-sandbox:{version}"}


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
    assert 2 <= int(done.stdout) <= 8


def test_make_without_a_target_lists_the_targets() -> None:
    done = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True)
    assert {"demo", "test", "serve", "check", "clean"} <= set(
        re.findall(r"^  make (\S+)", done.stdout, re.MULTILINE)
    )
