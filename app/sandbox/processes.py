"""Small helpers for child processes that lead a process group of their own."""

import contextlib
import ctypes
import os
import shutil
import signal
import sys

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


def dies_with_parent(signal_name: str) -> list[str]:
    """A command prefix that sends the signal (`KILL`, `TERM`) to the child when this process dies in any way.

    Linux only; empty where `setpriv` (util-linux) is missing.
    """
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", signal_name, "--"] if setpriv else []


def adopt_orphans() -> None:
    """Makes this process the parent of its descendants' orphans, so that it can reap them (Linux; else nothing).

    Without it they wait for init, which may be slow or, in a container, missing.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def signal_group(leader_pid: int, number: signal.Signals) -> None:
    """Signals a whole process group; one that is already gone is no error."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader_pid, number)


def group_is_gone(leader_pid: int) -> bool:
    """Reaps what has ended of a group whose leader is reaped already; true if nothing of it is left."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-leader_pid, os.WNOHANG)[0]:
            pass
    try:
        os.killpg(leader_pid, 0)
    except ProcessLookupError:
        return True
    return False
