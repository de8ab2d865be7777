"""Output of the demo: live progress while it runs, then a table and the proofs."""

from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from sandbox.demo.proof import Proof

_STAGES: Final = {
    "profile_starting": "start",
    "browser_attached": "attached",
    "consent_shown": "shown",
    "consent_given": "given",
    "code_received": "code",
    "tokens_stored": "stored",
}
_COLOURS: Final = {"completed": "green", "in_progress": "cyan", "pending": "dim"}


@dataclass
class Health:
    """Answers of `/health` during the run."""

    answers: int = 0
    slowest_ms: float = 0.0
    failures: int = 0


class LiveProgress:
    """A bar over all accounts and a line for each that runs."""

    def __init__(self, console: Console, accounts: list[str]) -> None:
        self._sessions: dict[str, dict[str, Any]] = {}
        columns = (TextColumn("Authorising"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=console)
        self._task = self._progress.add_task("", total=len(accounts))
        self._live = Live(console=console, refresh_per_second=8, get_renderable=self._render)

    def show(self, account: str, session: dict[str, Any]) -> None:
        self._sessions[account] = session
        ended = sum(one["status"] not in ("pending", "in_progress") for one in self._sessions.values())
        self._progress.update(self._task, completed=ended)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def _render(self) -> Group:
        running = Table.grid(padding=(0, 2))
        for account, session in self._sessions.items():
            if session["status"] == "in_progress":
                running.add_row(f"  @{account}", session["stage"] or "claimed")
        return Group(self._progress, running)


def print_report(
    console: Console,
    sessions: list[dict[str, Any]],
    proof: Proof,
    *,
    health: Health,
    ready: dict[str, Any],
    leftovers: int,
) -> None:
    console.print(_table(sessions, proof))
    completed = sum(session["status"] == "completed" for session in sessions)
    console.print(f"{completed} of {len(sessions)} completed")
    _print_failures(console, sessions)
    works = sum(proof.works.values())
    console.print(f"Stored tokens that work (who-am-I agrees): {works} of {len(proof.works)}")
    clear = ", ".join(proof.leaks) or "none"
    console.print(f"Secrets in clear in {', '.join(proof.scanned)}: {clear}")
    lag = ready["event_loop"]
    console.print(f"Event loop lag: p50 {lag['p50_ms']} ms, p99 {lag['p99_ms']} ms, max {lag['max_ms']} ms")
    console.print(
        f"/health: {health.answers} answers, slowest {health.slowest_ms} ms, {health.failures} failures"
    )
    console.print(f"Browsers left: {leftovers}")


def _table(sessions: list[dict[str, Any]], proof: Proof) -> Table:
    table = Table(title="Authorizations: seconds from the start until each stage")
    for heading in ("account", "session", "status"):
        table.add_column(heading, no_wrap=True)
    for heading in _STAGES.values():
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("token", no_wrap=True)
    table.add_column("expires", no_wrap=True)
    for session in sessions:
        account = session["account_id"]
        expires_at = proof.expires_at.get(account)
        table.add_row(
            f"@{account}",
            session["session_id"][:8],
            _coloured(session["status"]),
            *(_seconds(session["stage_seconds"].get(stage)) for stage in _STAGES),
            "works" if proof.works.get(account) else "[red]none[/red]",
            f"{expires_at:%H:%M:%S}Z" if expires_at else "",
        )
    return table


def _print_failures(console: Console, sessions: list[dict[str, Any]]) -> None:
    for session in sessions:
        if session["status"] != "completed":
            console.print(
                f"  @{session['account_id']}: {session['error_code']}: {session['error']}", markup=False
            )


def _coloured(status: str) -> str:
    colour = _COLOURS.get(status, "red")
    return f"[{colour}]{status}[/{colour}]"


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
