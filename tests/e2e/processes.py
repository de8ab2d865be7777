"""Processes of this machine, as the kernel tells them."""

import os
import time
from pathlib import Path

import psutil


def processes_with(text: str) -> list[int]:
    """Every living process that has `text`, such as a profile's folder, in its command line."""
    return [pid for pid, line in _command_lines() if text in line]


def children_named(pid: int, name: str) -> list[int]:
    return [child.pid for child in psutil.Process(pid).children(recursive=True) if name in child.name()]


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def find_settled(seconds: float = 10.0) -> set[int]:
    """Return the ids of the processes that run for so long already and are no browsers: they do not become one."""
    started_before = time.time() - seconds
    every = psutil.process_iter(["create_time"])
    old = {each.pid for each in every if (each.info["create_time"] or started_before) < started_before}
    return old - {pid for pid, line in _command_lines() if _is_browser(line)}


def running_profiles(starter: int, marker: str, settled: set[int] | None = None) -> list[str]:
    """The profile folders, with `marker` in them, of all browsers that process `starter` runs; one entry for each.

    A helper that a browser has just forked still has the browser's command line, but not its parent.
    `settled`: processes that are not looked at; those that have ended are taken out.
    """
    lines = _command_lines(settled)
    candidates = [(pid, line) for pid, line in lines if marker in line and _is_browser(line)]
    return [_profile_folder(line) for pid, line in candidates if _parent(pid) == starter]


def _is_browser(line: str) -> bool:
    """As against its helpers, which have a type, and the wrapper that starts it."""
    return "--user-data-dir=" in line and "--type=" not in line and "--pdeathsig" not in line


def _parent(pid: int) -> int | None:
    try:
        return psutil.Process(pid).ppid()
    except psutil.NoSuchProcess:
        return None


def _profile_folder(line: str) -> str:
    return next(part for part in line.split("\0") if part.startswith("--user-data-dir="))


def _command_lines(settled: set[int] | None = None) -> list[tuple[int, str]]:
    """One cheap pass: a watcher calls it many times a second. A zombie has an empty command line."""
    if not Path("/proc/self/cmdline").exists():
        return [(p.pid, "\0".join(p.info["cmdline"] or ())) for p in psutil.process_iter(["cmdline"])]
    pids = {int(name) for name in os.listdir("/proc") if name.isdigit()}  # noqa: PTH208  # no paths: it is fast
    if settled is not None:
        settled &= pids
        pids -= settled
    found = []
    for pid in pids:
        try:
            found.append((pid, Path(f"/proc/{pid}/cmdline").read_text(errors="replace")))
        except OSError:
            continue
    return found
