"""Problem of an account in words: what is wrong, and what the service or a person does next."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from app.models import Credential, CredentialStatus, SessionStatus
from app.services.tokens.account_states import (
    FAILED_RETRY,
    PERSON_RETRY,
    AccountState,
    LastSession,
    broken_code,
    expiring_code,
    find_state,
)
from app.utils.exceptions import AppException, ErrorCode

_CAUSES: Final = {
    ErrorCode.INVALID_GRANT: "The provider refused the refresh token: it is spent or revoked.",
    ErrorCode.REFRESH_AMBIGUOUS: "The answer to the last refresh was lost, so the refresh token may be spent.",
    ErrorCode.REFRESH_REFUSED: "The provider refused the refresh again and again, for an unknown reason.",
    ErrorCode.TOKEN_EXPIRED: "The access token has expired, and there is no refresh token.",
    ErrorCode.TOKEN_REFUSED: "The provider refused the access token before its expiry.",
}
"""Reasons of a broken chain."""


@dataclass(frozen=True)
class Problem:
    code: str
    """An `ErrorCode`, as a rule; rows of older versions may have others."""
    sentence: str
    since: datetime
    session_id: str | None
    """Session that runs for the account, or the one that ended last without tokens."""
    next_try_at: datetime | None
    """Time at which the service tries by itself, in the past when it is due; None: it does not, or a session runs."""


@dataclass(frozen=True)
class RepairRule:
    """Automatic repairs of broken accounts."""

    apps: Collection[str]
    """OAuth apps whose accounts are repaired."""
    a_day: int
    """Repairs of one account and app within 24 hours."""


@dataclass(frozen=True, kw_only=True)
class AccountFacts:
    """All that the state and the problem of an account follow from."""

    account_id: str
    api_app: str | None
    """OAuth app; None: no tokens, and a profile that is for any app."""
    credential: Credential | None = None
    profile_created_at: datetime | None = None
    """Time of the profile's row, for an account without tokens."""
    session: LastSession | None = None
    profile_error: AppException | None = None
    """Reason why no session can be made."""
    pause_reason: str | None = None
    """Reason of the app's pause; None: it is not paused."""
    limited_until: datetime | None = None
    """End of the provider's limit on the app or the account."""


def find_problem(
    facts: AccountFacts, rule: RepairRule, *, horizon: datetime, now: datetime
) -> Problem | None:
    """Return the problem of an account; None when it works. `horizon`: see `account_states`."""
    match find_state(facts.credential, facts.session, horizon):
        case AccountState.EXPIRING:
            return _expiring(facts, now)
        case AccountState.BROKEN:
            return _broken(facts, rule)
        case AccountState.NEEDS_PERSON:
            return _needs_person(facts, rule, now)
        case AccountState.NEVER_AUTHORIZED:
            return _never_authorized(facts, now)
    return None


def _expiring(facts: AccountFacts, now: datetime) -> Problem:
    credential = facts.credential
    assert credential is not None
    assert credential.token_expires_at is not None
    is_expired = credential.token_expires_at <= now
    parts = ["The access token has expired." if is_expired else "The access token expires soon."]
    if (error := credential.refresh_error_code) is not None:
        parts.append(f"Its last refresh failed with {error}.")
    next_try_at = credential.refresh_due_at
    if facts.pause_reason is not None:
        next_try_at = None
        parts.append(_paused(facts))
    elif credential.refresh_token is None:
        next_try_at = None
        parts.append("There is no refresh token: authorize the account again.")
    elif facts.limited_until is not None and facts.limited_until > now:
        next_try_at = max(next_try_at or now, facts.limited_until)
        parts.append("The service refreshes it when the provider's limit ends.")
    else:
        parts.append("The service refreshes it by itself.")
    return Problem(
        expiring_code(error, is_paused=facts.pause_reason is not None),
        " ".join(parts),
        credential.token_expires_at,
        facts.session.session_id if facts.session is not None and facts.session.is_open else None,
        next_try_at,
    )


def _broken(facts: AccountFacts, rule: RepairRule) -> Problem:
    credential = facts.credential
    assert credential is not None
    since = credential.unusable_since or credential.updated_at
    code = broken_code(credential.status, credential.refresh_error_code)
    if credential.status is CredentialStatus.REVOKING:
        sentence = "The tokens are being revoked. The service asks the provider until it answers."
        return Problem(code, sentence, since, None, credential.refresh_due_at)
    cause = _CAUSES.get(code, f"The tokens do not work any more ({code}).")  # type: ignore[call-overload]
    return Problem(
        code,
        f"{cause} {_next_step(facts, rule)}",
        since,
        _session_without_tokens(facts.session),
        _next_repair(facts, rule),
    )


def _needs_person(facts: AccountFacts, rule: RepairRule, now: datetime) -> Problem:
    session = facts.session
    assert session is not None
    code = session.error_code or ErrorCode.INTERNAL_ERROR
    is_resumable = session.status is SessionStatus.NEEDS_ATTENTION
    parts = [
        _describe(code),
        "Resume the session when a person is present." if is_resumable else "Then retry the session.",
    ]
    if facts.pause_reason is not None:
        parts.append(_paused(facts))
    return Problem(
        code, " ".join(parts), session.completed_at or now, session.session_id, _next_repair(facts, rule)
    )


def _never_authorized(facts: AccountFacts, now: datetime) -> Problem:
    session = facts.session
    parts = ["The account has a profile and no tokens."]
    since = facts.profile_created_at or now
    if session is not None and session.completed_at is not None and session.error_code is not None:
        since = session.completed_at
        parts.append(f"Its last session ended with {session.error_code}: {_describe(session.error_code)}")
    if session is not None and session.is_open:
        parts.append(_open(session))
    elif facts.pause_reason is not None:
        parts.append(_paused(facts))
    elif facts.profile_error is not None:
        parts.append(_describe(facts.profile_error.error_code))
    else:
        parts.append("Authorize it with `POST /authorize`.")
    next_try_at = session.not_before if session is not None and session.is_open else None
    return Problem(
        ErrorCode.TOKEN_NOT_FOUND, " ".join(parts), since, _session_without_tokens(session), next_try_at
    )


def _next_step(facts: AccountFacts, rule: RepairRule) -> str:
    """Return the sentence of what follows a broken chain."""
    if facts.session is not None and facts.session.is_open:
        return _open(facts.session)
    if facts.pause_reason is not None:
        return _paused(facts)
    if facts.profile_error is not None:
        return _describe(facts.profile_error.error_code)
    if facts.api_app not in rule.apps or not rule.a_day:
        return "Authorize the account again with `POST /authorize`."
    return "The service authorizes the account again by itself."


def _next_repair(facts: AccountFacts, rule: RepairRule) -> datetime | None:
    """Return the time of the next automatic repair, as `TokenRepair` finds the account; None: there is none."""
    credential, session = facts.credential, facts.session
    if session is not None and session.is_open:
        return session.not_before
    is_repaired = facts.api_app in rule.apps and rule.a_day > 0 and facts.pause_reason is None
    if credential is None or not is_repaired:
        return None
    times = [
        credential.unusable_since or credential.updated_at,
        credential.refresh_due_at,
        facts.limited_until,
    ]
    if session is not None and session.completed_at is not None:
        is_cancelled_repair = session.is_repair and session.status is SessionStatus.CANCELLED
        if session.needs_person or is_cancelled_repair:
            times.append(session.completed_at + PERSON_RETRY)
        elif session.is_repair and session.status is not SessionStatus.COMPLETED:
            times.append(session.completed_at + FAILED_RETRY)
    if session is not None and session.first_repair_at is not None and session.repairs_today >= rule.a_day:
        times.append(session.first_repair_at + timedelta(days=1))
    return max(each for each in times if each is not None)


def _session_without_tokens(session: LastSession | None) -> str | None:
    return None if session is None or session.status is SessionStatus.COMPLETED else session.session_id


def _open(session: LastSession) -> str:
    is_waiting = session.status is SessionStatus.PENDING
    return f"An authorization session of the account {'waits' if is_waiting else 'runs'}."


def _paused(facts: AccountFacts) -> str:
    return (
        f"The app {facts.api_app} is paused ({facts.pause_reason}): correct its settings, then "
        f"`POST /apps/{facts.api_app}/resume`."
    )


def _describe(code: str) -> str:
    try:
        return ErrorCode(code).description
    except ValueError:  # of an older version
        return f"It ended with {code}."
