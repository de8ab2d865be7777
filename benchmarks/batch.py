"""A batch of N accounts, one in ten of them faulty, against the sandbox: each must end as it should.

    .venv/bin/python -m benchmarks.batch [accounts] [at once]

Prints what became of them and how many a minute; exit code 1 when an account ended otherwise than expected.
"""

import asyncio
import sys
import tempfile
from collections import Counter
from pathlib import Path
from time import perf_counter
from typing import Any

import httpx

from benchmarks.flows import APP
from benchmarks.limits import synced
from sandbox.demo.service_process import ServiceProcess, settings_for
from sandbox.process import SandboxProcess

FAULTS = [
    ("provider.authorize", "declined", "CONSENT_DECLINED"),
    ("provider.authorize", "signed_out", "LOGIN_REQUIRED"),
    ("provider.authorize", "locked", "ACCOUNT_LOCKED"),
    ("provider.authorize", "human_check", "HUMAN_CHECK_REQUIRED"),
    ("provider.authorize", "wrong_account", "ACCOUNT_MISMATCH"),
]
FAULTY_EVERY = 10
PAGE = 500


async def main(accounts: int, at_once: int) -> bool:
    with tempfile.TemporaryDirectory(prefix="batch-") as name:
        async with SandboxProcess(accounts=accounts) as sandbox:
            settings = settings_for(
                sandbox.info,
                folder=Path(name),
                rate_limit_per_minute=1_000_000,
                max_concurrent_profiles=at_once,
            )
            async with ServiceProcess(Path(name), settings) as service:
                headers = {"X-API-Key": settings["API_KEY"]}
                async with httpx.AsyncClient(
                    base_url=service.url, headers=headers, timeout=60, trust_env=False
                ) as http:
                    await synced(http)
                    return await run(http, sandbox, at_once)


async def run(http: httpx.AsyncClient, sandbox: SandboxProcess, at_once: int) -> bool:
    expected: dict[str, str | None] = dict.fromkeys(sandbox.info.accounts)
    for number, account in enumerate(sandbox.info.accounts[::FAULTY_EVERY]):
        endpoint, kind, expected[account] = FAULTS[number % len(FAULTS)]
        await sandbox.admin.set_fault(endpoint, kind, account=account)
    rows = [{"account_id": account, "api_app": APP} for account in expected]
    began = perf_counter()
    batch = await data(http.post("/authorize/batch", json={"rows": rows, "max_running": at_once}))
    print(f"made in {perf_counter() - began:.2f} s")
    while batch["completed_at"] is None:
        await asyncio.sleep(1)
        batch = await data(http.get(f"/batches/{batch['batch_id']}"))
    seconds = perf_counter() - began
    found = await results(http, batch["batch_id"])
    print(f"{batch['status']} in {seconds:.1f} s, {len(rows) / seconds * 60:.0f} a minute")
    print(dict(Counter(row["error_code"] or row["status"] for row in found)))
    wrong = [row for row in found if row["error_code"] != expected[row["account_id"]]]
    for row in wrong:
        print(f"not as expected: {row['account_id']}: {row['status']}, {row['error_code']}, {row['error']}")
    return batch["status"] == "completed" and len(found) == len(expected) and not wrong


async def results(http: httpx.AsyncClient, batch_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    page, pages = 1, 1
    while page <= pages:
        params = {"page": page, "page_size": PAGE}
        answer = (await http.get(f"/batches/{batch_id}/results", params=params)).json()
        page, pages = page + 1, answer["total_pages"]
        found += answer["data"]
    return found


async def data(call: Any) -> dict[str, Any]:
    answer = (await call).json()
    if not answer["success"]:
        raise RuntimeError(f"{answer['error_code']}: {answer['error']}")
    found: dict[str, Any] = answer["data"]
    return found


if __name__ == "__main__":
    arguments = [int(argument) for argument in sys.argv[1:]]
    sys.exit(0 if asyncio.run(main(*(arguments + [500, 10][len(arguments) :]))) else 1)
