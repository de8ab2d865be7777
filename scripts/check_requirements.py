"""Compare the pins of pyproject.toml with the files that are compiled from them. Needs no network."""

import re
import sys
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
DIRECT = "gologin-automation (pyproject.toml)"  # how the compiler names what a pin comes from
PIN = re.compile(r"(?P<name>[A-Za-z0-9._-]+)(\[[a-z0-9,_-]+])?==(?P<version>[^\s;]+)")


@dataclass(frozen=True)
class Pin:
    version: str
    is_direct: bool
    has_hashes: bool


def main() -> int:
    problems = list_problems(ROOT)
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def list_problems(root: Path) -> list[str]:
    """Return one sentence for each pin that the compiled files lack, have too many, or have in another version."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    runtime = _required(project["dependencies"])
    development = runtime | _required(project["optional-dependencies"]["dev"])
    locked, locked_dev = (_locked(root / name) for name in ("requirements.txt", "requirements-dev.txt"))
    problems = [
        *_differences("requirements.txt", runtime, locked),
        *_differences("requirements-dev.txt", development, locked_dev),
    ]
    for name, pin in locked.items():
        other = locked_dev.get(name)
        if other is None or other.version != pin.version:
            problems.append(f"requirements-dev.txt: {name} is not {pin.version} as in requirements.txt")
    return problems


def _differences(file: str, required: dict[str, str], locked: dict[str, Pin]) -> Iterable[str]:
    for name, specifier in required.items():
        if not re.fullmatch(r"==[^*,]+", specifier):
            yield f"pyproject.toml: {name} is not pinned to one version (name==version)"
        elif name not in locked:
            yield f"{file}: {name}{specifier} of pyproject.toml is missing"
        elif f"=={locked[name].version}" != specifier:
            yield f"{file}: {name} is {locked[name].version}, pyproject.toml has {specifier}"
    for name, pin in locked.items():
        if pin.is_direct and name not in required:
            yield f"{file}: pyproject.toml does not name {name} any more"
        if not pin.has_hashes:
            yield f"{file}: {name} has no hash"


def _required(lines: Iterable[str]) -> dict[str, str]:
    """Map each package's name to its version specifier."""
    requirements = map(Requirement, lines)
    return {canonicalize_name(each.name): str(each.specifier) for each in requirements}


def _locked(file: Path) -> dict[str, Pin]:
    """Read a compiled file: a pin starts at the margin, its hashes and its origin follow, indented."""
    entries = re.split(r"^(?=[A-Za-z0-9])", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    pins = {}
    for entry in entries:
        if match := PIN.match(entry):
            pins[canonicalize_name(match["name"])] = Pin(
                version=match["version"], is_direct=DIRECT in entry, has_hashes="--hash=sha256:" in entry
            )
    return pins


if __name__ == "__main__":
    sys.exit(main())
