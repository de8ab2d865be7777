"""Small helpers for processes."""

import gc
import os
import shutil
from pathlib import Path
from typing import Final

DEAD_STATES: Final = {"Z", "X"}
"""proc(5): zombie, dead."""


def dies_with_parent(signal_name: str) -> list[str]:
    """A command prefix that sends the signal (`KILL`, `TERM`) to the child when this process dies in any way.

    Linux only; empty where `setpriv` (util-linux) is missing.
    """
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", signal_name, "--"] if setpriv else []


def is_running(pid: int) -> bool:
    """Return whether there is such a process, whoever owns it."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def has_ended(pid: int) -> bool:
    """Return whether the process has ended; where there is a /proc, a zombie has ended."""
    if not is_running(pid):
        return True
    stat = Path(f"/proc/{pid}/stat")
    return Path("/proc/self/stat").exists() and read_state_and_group(stat)[0] in DEAD_STATES


def read_state_and_group(stat: Path) -> tuple[str, int]:
    """Return fields 3 and 5 of /proc/<pid>/stat; the name before them may hold spaces and brackets."""
    try:
        fields = stat.read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return "X", 0
    return fields[0], int(fields[2])


def collect_seldom() -> None:
    """Leave out of all collections what has been imported, and make them fourteen times rarer.

    With CPython's thresholds (700, 10, 10) they take 6 % of the service's CPU: a request makes thousands of objects,
    and nearly all of them are freed by their reference counts.
    """
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)
