"""All benchmarks, one after the other: one table of their figures, each beside its baseline and its goal.

    make bench [ARGS='--long --json FILE accept limits …']

The short form takes up to ten minutes, `--long` has the real sizes. A benchmark that fails is named at the end, and the
others run. Exit code 1 when one failed or a goal is not met. Run it on a quiet machine.
"""

import argparse
import asyncio
import importlib
import sys
import time
import traceback
from pathlib import Path
from typing import Final

from app.utils.logger import setup_logging
from benchmarks.figures import Figure, to_json, to_table

NAMES: Final = (
    "limits", "accept", "handout", "orchestration", "large_queue", "simulated_fleet",
    "pickup", "sync", "refresh", "fleet", "rotate", "tables", "events",
)  # fmt: skip
"""Modules of this package, each with `async def figures(*, is_long: bool) -> list[Figure]`."""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Run benchmarks and print a table."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"the benchmarks to run: {', '.join(NAMES)}")
    parser.add_argument("--long", action="store_true", help="run the real sizes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE, too")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(NAMES):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    setup_logging(level="ERROR", environment="development")
    found: list[Figure] = []
    failed = []
    for name in arguments.names or NAMES:
        began = time.perf_counter()
        try:
            found += asyncio.run(
                importlib.import_module(f"benchmarks.{name}").figures(is_long=arguments.long)
            )
        except Exception:
            traceback.print_exc()
            failed.append(name)
        print(f"{name}: {time.perf_counter() - began:.0f} s", file=sys.stderr)
    print(to_table(found))
    if arguments.json:
        arguments.json.write_text(to_json(found) + "\n", encoding="utf-8")
    missed = [each.name for each in found if each.is_met is False]
    for title, names in (("failed", failed), ("not met", missed)):
        if names:
            print(f"{title}: {'; '.join(names)}")
    return 1 if failed or missed else 0


if __name__ == "__main__":
    sys.exit(main())
