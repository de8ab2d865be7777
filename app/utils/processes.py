"""Small helpers for child processes."""

import contextlib
import os
import shutil
import signal
from pathlib import Path

_NICE = 5
_DEAD_STATES = {"Z", "X"}  # proc(5): zombie, dead


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
    return Path("/proc/self/stat").exists() and _state_and_group(stat)[0] in _DEAD_STATES


def yield_cpu(leader_pid: int) -> None:
    """Lets everybody else go first: ten starting browsers would keep a small machine's other processes waiting.

    They keep a third of an equal share: at the lowest priority they would stand still beside a busy process.

    A session of its own is a scheduling group of its own on Linux (sched(7), autogroup), whose nice value counts.
    """
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PGRP, leader_pid, _NICE)
    with contextlib.suppress(OSError):
        Path(f"/proc/{leader_pid}/autogroup").write_text(str(_NICE))


def signal_group(leader_pid: int, number: signal.Signals) -> None:
    """Signals a whole process group; one that is already gone is no error."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader_pid, number)


def group_is_gone(leader_pid: int) -> bool:
    """Return whether no process of the group runs; where there is a /proc, init's unreaped zombies do not count."""
    try:
        os.killpg(leader_pid, 0)
    except ProcessLookupError:
        return True
    stats = [_state_and_group(path) for path in Path("/proc").glob("[0-9]*/stat")]
    return bool(stats) and all(state in _DEAD_STATES for state, group in stats if group == leader_pid)


def _state_and_group(stat: Path) -> tuple[str, int]:
    """Fields 3 and 5 of /proc/<pid>/stat; the name before them may hold spaces and brackets."""
    try:
        fields = stat.read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return "X", 0
    return fields[0], int(fields[2])
