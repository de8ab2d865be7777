"""Checks what a compose file's schema cannot: that every service, volume and network it names is defined."""

import sys
from pathlib import Path
from typing import Any

import yaml


def main(path: str) -> int:
    problems = list_problems(yaml.safe_load(Path(path).read_text(encoding="utf-8")))
    for problem in problems:
        print(f"{path}: {problem}", file=sys.stderr)
    return 1 if problems else 0


def list_problems(compose: dict[str, Any]) -> list[str]:
    services = compose.get("services", {})
    volumes = compose.get("volumes") or {}
    networks = compose.get("networks") or {}
    found = []
    for name, service in services.items():
        depends_on = service.get("depends_on", {})
        found += [
            f"{name} depends on {other}, which is no service" for other in depends_on if other not in services
        ]
        found += [
            f"{name} waits for {other} to be healthy, but it has no healthcheck"
            for other, how in (depends_on.items() if isinstance(depends_on, dict) else ())
            if how["condition"] == "service_healthy" and "healthcheck" not in services.get(other, {})
        ]
        found += [
            f"{name} mounts volume {volume}, which is not defined"
            for volume in named_volumes(service)
            if volume not in volumes
        ]
        found += [
            f"{name} is on network {net}, which is not defined"
            for net in service.get("networks", ())
            if net not in networks
        ]
        shared = service.get("network_mode", "").removeprefix("service:")
        if shared != service.get("network_mode", "") and shared not in services:
            found.append(f"{name} shares the network of {shared}, which is no service")
        if "network_mode" in service and "ports" in service:
            found.append(f"{name} shares another network and cannot publish ports of its own")
    return found


def named_volumes(service: dict[str, Any]) -> list[str]:
    """The sources that are names, not paths, in the short and the long form."""
    sources = [
        volume.split(":")[0] if isinstance(volume, str) else volume.get("source", "")
        for volume in service.get("volumes", ())
        if isinstance(volume, str) or volume.get("type") == "volume"
    ]
    return [source for source in sources if source and not source.startswith((".", "/", "~"))]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
