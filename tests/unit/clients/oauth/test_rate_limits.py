"""No header asks for a wait above its ceiling, and none is too odd to be read."""

import pytest
from httpx import Headers
from hypothesis import given
from hypothesis import strategies as st

from app.clients.oauth.rate_limits import RateLimit, rate_limit_in, refusal_limit, seconds_until, spent_limit
from app.utils.waits import MAX_WAIT, CallLimit, LimitOwner

NOW = 1_790_000_000.0
HOUR, DAY = 3600.0, MAX_WAIT


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120),
        (" 120 ", 120),
        ("1.5", 1.5),
        ("0", 0),
        ("-5", 0),
        ("7200", HOUR),
        ("1000000000000", HOUR),
        (f"{NOW + 60:.0f}", 60),
        (f"{(NOW + 60) * 1000:.0f}", 60),
        (f"{(NOW + 60) * 1e6:.0f}", 60),
        (f"{NOW - 60:.0f}", 0),
        (f"{NOW + 7200:.0f}", HOUR),
        (f"{(NOW + 7200) * 1000:.0f}", HOUR),
        ("9" * 5000, HOUR),
        ("1e400", HOUR),
        ("inf", HOUR),
        ("nan", None),
        ("Mon, 21 Sep 2026 14:14:20 GMT", 60),
        ("Mon, 21 Sep 2026 14:12:20 GMT", 0),
        ("Mon, 21 Sep 2099 14:12:20 GMT", HOUR),
        ("Mon, 21 Sep 99999 14:12:20 GMT", None),
        ("Mon, 21 Sep 2026 14:14:20 -0000", 60),
        ("soon", None),
        ("", None),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_a_time_is_read_in_every_form_and_has_a_ceiling(value: str, seconds: float | None):
    read = seconds_until(value, now=NOW, ceiling=HOUR)
    assert read == (None if seconds is None else pytest.approx(seconds, abs=0.001))


def of_window(name: str, remaining: object, reset: object) -> dict[str, str]:
    return {f"{name}-remaining": str(remaining), f"{name}-reset": str(reset)}


SHORT = of_window("x-rate-limit", 0, int(NOW + 900))
USER_DAY = of_window("x-user-limit-24hour", 0, int(NOW + 50_000))
APP_DAY = of_window("x-app-limit-24hour", 0, int(NOW + 60_000))


@pytest.mark.parametrize(
    ("headers", "limit"),
    [
        ({}, None),
        ({"retry-after": "30"}, (30, "account", "retry-after")),
        ({"retry-after": "0"}, (1, "account", "retry-after")),
        ({"retry-after": "1000000000000"}, (HOUR, "account", "retry-after")),
        (SHORT, (900, "account", "x-rate-limit")),
        (of_window("x-rate-limit", 0, int((NOW + 900) * 1000)), (900, "account", "x-rate-limit")),
        (of_window("x-rate-limit", 0, 10**18), (HOUR, "account", "x-rate-limit")),
        ({"x-rate-limit-reset": str(int(NOW + 900))}, (900, "account", "x-rate-limit")),
        (of_window("x-rate-limit", 70, int(NOW + 900)), (900, "account", "x-rate-limit")),
        (SHORT | USER_DAY, (50_000, "account", "x-user-limit-24hour")),
        (SHORT | USER_DAY | APP_DAY, (60_000, "app", "x-app-limit-24hour")),
        (
            of_window("x-rate-limit", 70, int(NOW + 900)) | USER_DAY,
            (50_000, "account", "x-user-limit-24hour"),
        ),
        (SHORT | of_window("x-app-limit-24hour", 5, int(NOW + 60_000)), (900, "account", "x-rate-limit")),
        (of_window("x-app-limit-24hour", 0, 10**18), (DAY, "app", "x-app-limit-24hour")),
        ({"retry-after": "30"} | USER_DAY, (50_000, "account", "x-user-limit-24hour")),
    ],
)
def test_a_refusal_names_the_longest_limit_that_is_spent(
    headers: dict[str, str], limit: tuple[float, str, str] | None
):
    read = refusal_limit(Headers(headers), now=NOW, owner=LimitOwner.ACCOUNT)
    assert read == (limit and CallLimit(limit[0], LimitOwner(limit[1]), limit[2]))


@pytest.mark.parametrize(
    ("headers", "left"),
    [
        ({}, None),
        (of_window("x-rate-limit", 5, int(NOW + 900)), (5, 900)),
        (of_window("x-rate-limit", "9" * 5000, int(NOW + 900)), (10**9, 900)),
        (of_window("x-rate-limit", -3, int(NOW + 900)), (0, 900)),
        (of_window("x-rate-limit", "many", int(NOW + 900)), None),
        (of_window("x-rate-limit", 5, "later"), None),
        (of_window("x-rate-limit", 0, int((NOW + 900) * 1000)), (0, 900)),
        (of_window("x-rate-limit", 70, int(NOW + 900)) | APP_DAY, (0, 60_000)),
        (SHORT | APP_DAY, (0, 60_000)),
        (SHORT | USER_DAY, (0, 900)),
    ],
)
def test_headers_give_the_calls_that_an_app_has_left(headers: dict[str, str], left: tuple[int, float] | None):
    read = rate_limit_in(Headers(headers), now=NOW)
    assert read == (left and RateLimit(left[0], NOW + left[1]))


def test_an_answer_that_grants_its_call_names_the_limit_that_it_spent():
    assert spent_limit(Headers(of_window("x-rate-limit", 1, NOW)), now=NOW, owner=LimitOwner.APP) is None
    read = spent_limit(Headers(SHORT | USER_DAY), now=NOW, owner=LimitOwner.ACCOUNT)
    assert read == CallLimit(50_000, LimitOwner.ACCOUNT, "x-user-limit-24hour")


NAMES = [
    "retry-after",
    *(
        f"{window}-{field}"
        for window in ("x-rate-limit", "x-user-limit-24hour", "x-app-limit-24hour")
        for field in ("limit", "remaining", "reset")
    ),
]
VALUES = st.one_of(
    st.text(),
    st.integers().map(str),
    st.integers(10**9, 10**19).map(str),
    st.floats().map(str),
    st.just("9" * 5000),
    st.datetimes().map(lambda moment: moment.strftime("%a, %d %b %Y %H:%M:%S GMT")),
)


@given(st.dictionaries(st.sampled_from(NAMES), VALUES), st.floats(0, 4e9), st.sampled_from(LimitOwner))
def test_no_headers_raise_or_ask_for_a_wait_above_its_ceiling(
    headers: dict[str, str], now: float, owner: LimitOwner
):
    for limit in (
        refusal_limit(headers, now=now, owner=owner),
        spent_limit(headers, now=now, owner=owner),
    ):
        if limit is not None:
            assert 0 < limit.seconds <= (DAY if limit.reason.endswith("24hour") else HOUR)
    left = rate_limit_in(headers, now=now)
    if left is not None:
        assert 0 <= left.remaining <= 10**9
        assert 0 <= left.reset - now <= DAY
