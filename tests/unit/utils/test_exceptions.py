"""Codes, statuses and sentences that callers rely on."""

import pytest

from app.utils import exceptions
from app.utils.exceptions import (
    AppException,
    AuthorizationTimeoutException,
    ConcurrentProfileLimitException,
    DomainException,
    GoLoginAPIException,
    InfrastructureException,
    ProfileNotFoundException,
    SeleniumConnectionException,
    TokenExpiredException,
    TwitterAPIException,
)

CONTRACT = [
    (ProfileNotFoundException("a"), "PROFILE_NOT_FOUND", 404, "No GoLogin profile found for account: a"),
    (AuthorizationTimeoutException(120.0), "AUTH_TIMEOUT", 504, "Authorization timeout after 120 seconds"),
    (
        ConcurrentProfileLimitException(10),
        "CONCURRENT_LIMIT",
        429,
        "Maximum concurrent profiles (10) already running",
    ),
    (TokenExpiredException("a"), "TOKEN_EXPIRED", 409, "The token of @a is expired"),
    (GoLoginAPIException(503, "down"), "GOLOGIN_API_ERROR", 502, "GoLogin API error (503): down"),
    (
        SeleniumConnectionException(9222),
        "BROWSER_CONNECTION_FAILED",
        502,
        "Cannot connect to browser on port 9222",
    ),
    (TwitterAPIException(500, "down"), "TWITTER_API_ERROR", 502, "Twitter API error (500): down"),
    (AppException(), "INTERNAL_ERROR", 500, "An unexpected error occurred"),
]


def every_exception() -> list[type[AppException]]:
    found = [value for value in vars(exceptions).values() if isinstance(value, type)]
    return [value for value in found if issubclass(value, AppException)]


@pytest.mark.parametrize(("error", "code", "status", "sentence"), CONTRACT, ids=[row[1] for row in CONTRACT])
def test_errors_have_the_codes_and_statuses_of_the_contract(
    error: AppException, code: str, status: int, sentence: str
):
    assert (error.error_code, error.status_code) == (code, status)
    assert error.message.startswith(sentence)
    assert str(error) == error.message


def test_no_two_kinds_of_error_share_a_code():
    own = [cls.error_code for cls in every_exception() if "error_code" in vars(cls)]
    assert len(own) == len(set(own))


def test_every_error_is_the_requests_fault_or_the_surroundings():
    roots = {AppException, DomainException, InfrastructureException}
    others = set(every_exception()) - roots
    assert all(issubclass(cls, (DomainException, InfrastructureException)) for cls in others)
