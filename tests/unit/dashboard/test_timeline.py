"""Timeline of a session: stages of the last attempt from its row, of earlier ones from events."""

from datetime import timedelta

from app.dashboard.timeline import build_timeline
from app.models import AuthorizationAttempt, Event, EventType, utc_now
from app.services.authorizations.service import SessionView
from tests.fixtures.factories import new_profile, new_session


def test_stages_last_until_the_next_one_or_the_end_of_the_attempt():
    start = utc_now() - timedelta(minutes=5)

    def after(seconds: float):
        return start + timedelta(seconds=seconds)

    attempts = [
        AuthorizationAttempt(number=1, started_at=start, ended_at=after(10)),
        AuthorizationAttempt(number=2, started_at=after(30), ended_at=after(34)),
    ]
    row = new_session(new_profile(), stage_times={"consent_shown": 3.0, "profile_starting": 1.0})
    events = [
        Event(id=number, event_type=EventType.AUTHORIZATION_STAGE, occurred_at=at, data={"stage": stage})
        for number, (at, stage) in enumerate(
            [(after(8), "browser_attached"), (after(2), "profile_starting"), (after(31), "of the other")]
        )
    ]
    first, second = build_timeline(SessionView(row, attempts, None), events)
    assert [(each.name, each.start, each.seconds) for each in first.stages] == [
        ("profile_starting", 2.0, 6.0),
        ("browser_attached", 8.0, 2.0),
    ]
    assert [(each.name, each.start, each.seconds) for each in second.stages] == [
        ("profile_starting", 1.0, 2.0),
        ("consent_shown", 3.0, 1.0),
    ]
    assert (second.seconds, second.is_running) == (4.0, False)


def test_attempt_without_stages_has_none():
    attempts = [AuthorizationAttempt(number=1, started_at=utc_now(), ended_at=None)]
    row = new_session(new_profile(), stage_times={})
    (line,) = build_timeline(SessionView(row, attempts, None), ())
    assert (list(line.stages), line.is_running) == ([], True)
    assert line.seconds < 60
