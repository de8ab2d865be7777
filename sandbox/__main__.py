"""Serve local stand-ins for GoLogin's APIs, AdsPower's and the OAuth providers; prints their addresses as JSON."""

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path

from sandbox.config import SandboxConfig
from sandbox.server import main

SECRETS = {
    "gologin_token": "SANDBOX_GOLOGIN_TOKEN",
    "aiott1_client_secret": "SANDBOX_AIOTT1_CLIENT_SECRET",
}


def parse(arguments: Sequence[str] | None = None) -> SandboxConfig:
    """Command line → configuration.

    Secrets come from the environment: a command line is readable by everybody.
    """
    parser = argparse.ArgumentParser(prog="python -m sandbox", description=__doc__)
    parser.add_argument("--accounts", type=int)
    parser.add_argument("--data-dir", type=Path, help="profile folders; left out: a temporary folder")
    parser.add_argument("--host", help="address to listen on")
    parser.add_argument("--public-host", help="host name in the announced URLs")
    for name in ("gologin-api", "gologin-local", "adspower", "provider", "admin"):
        parser.add_argument(f"--{name}-port", type=int, help="left out: a free port")
    parser.add_argument("--aiott1-redirect-uri", help="left out: an address where nothing listens")
    parser.add_argument("--chromium", help="path of the browser")
    parser.add_argument("--chromium-args", type=json.loads, help="further switches, as a JSON list")
    values = {name: value for name, value in vars(parser.parse_args(arguments)).items() if value is not None}
    from_environment = {
        name: os.environ[variable] for name, variable in SECRETS.items() if os.environ.get(variable)
    }
    return SandboxConfig(**values, **from_environment)


if __name__ == "__main__":
    main(parse())
