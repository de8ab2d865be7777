"""One sandbox and one service per test process for the tests that break nothing; accounts are used once."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from _pytest.nodeid import coerce_node_id

from sandbox.process import SandboxProcess
from tests.e2e.house import House, open_house

ACCOUNTS = 150

LONG = (
    "test_adspower.py::test_accounts_are_authorised_through_adspower",
    "test_batches.py::test_a_batch_whose_app_is_misconfigured_stops_early",
    "test_batches.py::test_a_file_is_authorised_in_this_process",
    "test_batches.py::test_a_running_service_does_the_work",
    "test_canary.py::test_no_secret_leaves_its_place[postgresql]",
    "test_chaos.py",
    "test_cli.py::test_the_demo_fails_when_an_account_does",
    "test_cli.py::test_a_name_that_cannot_be_taken[bootstrap",
    "test_cli.py::test_a_name_that_cannot_be_taken[billing",
    "test_concurrency.py::test_an_account_asked_four_times_at_once_never_has_two_browsers",
    "test_consent_tab.py::test_other_pages_end_with_their_own_error_and_nothing_pressed[/hung",
    "test_deadlines.py::test_a_driver_that_hangs_does_not_outlast_the_attempt",
    "test_deadlines.py::test_a_start_ends_when_its_caller_says[hang]",
    "test_event_stream.py::test_none_is_missed_or_told_twice_while_one_stalls_and_one_comes_again[postgresql]",
    "test_faults.py::test_what_hangs_ends_at_its_deadline[provider.me-hang]",
    "test_faults.py::test_what_hangs_ends_at_its_deadline[local.start-start_hang",
    "test_faults.py::test_what_hangs_ends_at_its_deadline[provider.consent-hang]",
    "test_faults.py::test_what_hangs_ends_at_its_deadline[provider.token-hang]",
    "test_fleet_leases.py::test_what_a_killed_service_ran_is_stopped_and_freed_after_its_restart[in the middle]",
    "test_fleet_leases.py::test_a_browser_that_ignores_the_close_is_stopped_by_gologin",
    "test_fleet_leases.py::test_two_processes_asked_ten_times_never_both_run_its_browser[sqlite]",
    "test_fleet_leases.py::test_another_machine_leaves_it_alone_until_its_own_process_is_back",
    "test_fleet_services.py::test_two_services_make_one_pass_per_interval_together",
    "test_fleet_services.py::test_two_services_never_run_more_profiles_than_the_plan_allows",
    "test_fleet_sync.py::test_a_sync_killed_at_a_random_page_loses_nothing_and_the_next_one_repairs_all[sqlite",
    "test_hand_outs.py",
    "test_happy_path.py::test_no_redirect_uri_needs_a_listener[http://localhost",
    "test_happy_path.py::test_no_redirect_uri_needs_a_listener[https://callback.invalid/oauth",
    "test_recovery.py::test_killed_at_any_point_it_is_completed_once[profile_starting]",
    "test_recovery.py::test_killed_at_any_point_it_is_completed_once[browser_attached]",
    "test_recovery.py::test_killed_at_any_point_it_is_completed_once[consent_given]",
    "test_recovery.py::test_killed_at_any_point_it_is_completed_once[code_received]",
    "test_recovery.py::test_killed_at_any_point_it_is_completed_once[exchanged_not_stored]",
    "test_recovery.py::test_killed_at_any_point_it_is_completed_once[stored_not_stopped]",
    "test_refresh_kills.py::test_no_chain_is_broken_silently[postgresql]",
    "test_signals.py::test_a_killed_chromedriver_fails_its_session_and_is_replaced[provider.consent]",
    "test_signals.py::test_waiting_sessions_survive_a_stop",
    "test_signals.py::test_what_hangs_is_put_back_and_goes_on_after_the_restart[15-local.start]",
    "test_signals.py::test_what_hangs_is_put_back_and_goes_on_after_the_restart[15-provider.authorize]",
    "test_signals.py::test_what_hangs_is_put_back_and_goes_on_after_the_restart[2-provider.consent]",
    "test_surroundings.py::test_a_clock_that_jumps_leaves_no_session_stuck_or_doubled[forward]",
    "test_workers.py::test_all_sessions_end_through_a_restart_of_postgresql",
    "test_webhooks.py::test_no_event_is_lost_or_overtaken_when_the_service_is_killed[postgresql]",
    "test_workers.py::test_a_worker_that_is_asked_to_stop_ends_what_it_runs_and_takes_nothing_new",
    "test_workers.py::test_the_most_urgent_come_first",
    "test_workers.py::test_three_workers_complete_eighteen_sessions_each_once",
)
"""The beginnings of ids of slow tests whose like is in the suite; `make test-long` runs them."""


@pytest.hookimpl(tryfirst=True)  # before pytest looks at the marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if f"{item.path.name}::{item.name}".startswith(LONG):
            item.add_marker(pytest.mark.long)
    _name_groups(config, items)


def _name_groups(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Names the groups: pytest-xdist 3.8 writes them to an attribute that pytest 9.2 no longer reads."""
    if not getattr(config.option, "loadgroup", False):
        return
    for item in items:
        group = item.get_closest_marker("xdist_group")
        if group is not None and "@" not in item.nodeid.rpartition("]")[2]:
            item._id = coerce_node_id(f"{item.nodeid}@{group.args[0]}")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("e2e")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def sandbox(folder: Path) -> AsyncIterator[SandboxProcess]:
    async with SandboxProcess(accounts=ACCOUNTS, data_dir=folder / "profiles") as sandbox:
        yield sandbox


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def house(sandbox: SandboxProcess, folder: Path) -> AsyncIterator[House]:
    async with open_house(sandbox, folder) as house:
        yield house


@pytest.fixture(scope="session")
def unused_accounts(sandbox: SandboxProcess) -> Iterator[str]:
    return iter(sandbox.info.accounts)


@pytest.fixture
def account(unused_accounts: Iterator[str]) -> str:
    """An account that no other test of this process uses, so that its faults and browsers are this test's."""
    return next(unused_accounts)
