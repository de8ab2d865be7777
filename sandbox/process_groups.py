"""Process groups of the sandbox's children: their share of the CPU, their signals, and their end."""

import contextlib
import os
import signal
from pathlib import Path

from app.utils.processes import DEAD_STATES, read_state_and_group

_NICE = 5


def yield_cpu(leader_pid: int) -> None:
    """Let everybody else go first: ten starting browsers would keep a small machine's other processes waiting.

    They keep a third of an equal share: at the lowest priority they would stand still beside a busy process.

    A session of its own is a scheduling group of its own on Linux (sched(7), autogroup), whose nice value counts.
    """
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PGRP, leader_pid, _NICE)
    with contextlib.suppress(OSError):
        Path(f"/proc/{leader_pid}/autogroup").write_text(str(_NICE))


def signal_group(leader_pid: int, number: signal.Signals) -> None:
    """Signal a whole process group; one that is already gone is no error."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader_pid, number)


def group_is_gone(leader_pid: int) -> bool:
    """Return whether no process of the group runs; where there is a /proc, init's unreaped zombies do not count."""
    try:
        os.killpg(leader_pid, 0)
    except ProcessLookupError:
        return True
    stats = [read_state_and_group(path) for path in Path("/proc").glob("[0-9]*/stat")]
    return bool(stats) and all(state in DEAD_STATES for state, group in stats if group == leader_pid)
