"""Profiles, their syncs, and how many may run."""

from collections.abc import Sequence

from app.utils.exceptions.base import DomainException
from app.utils.exceptions.codes import ErrorCode


class ProfileNotFoundException(DomainException):
    error_code = ErrorCode.PROFILE_NOT_FOUND
    status_code = 404

    def __init__(self, account_id: str) -> None:
        super().__init__(
            f"No GoLogin profile found for account: {account_id}. Name or link one (see `profiles`), then sync"
        )


class UnknownProfileException(DomainException):
    error_code = ErrorCode.UNKNOWN_PROFILE
    status_code = 404

    def __init__(self, profile_id: str) -> None:
        super().__init__(f"No GoLogin profile '{profile_id}' is known; POST /profiles/sync if it is new")


class ProfileInUseException(DomainException):
    """The profile is running already, here or on another machine; one profile runs once at a time."""

    error_code = ErrorCode.PROFILE_IN_USE
    status_code = 409
    retryable = True

    def __init__(self, profile_id: str) -> None:
        super().__init__(f"GoLogin profile {profile_id} is already running; try again when it has stopped")


class ProfileConflictException(DomainException):
    """More than one profile would belong to one account in one app."""

    error_code = ErrorCode.PROFILE_CONFLICT
    status_code = 409

    def __init__(self, account_id: str, profile_ids: Sequence[str]) -> None:
        super().__init__(
            f"More than one profile belongs to @{account_id}: {', '.join(profile_ids)}; "
            "link one of them, or unlink the other"
        )


class SyncNotFoundException(DomainException):
    error_code = ErrorCode.SYNC_NOT_FOUND
    status_code = 404

    def __init__(self, sync_id: str) -> None:
        super().__init__(f"No profile sync '{sync_id}'; check the id that POST /profiles/sync returned")


class SyncRefusedException(DomainException):
    """A pass that would mark most of the fleet as gone: a wrong token is likelier than that."""

    error_code = ErrorCode.SYNC_MASS_REMOVAL
    status_code = 409

    def __init__(self, missing: int, active: int) -> None:
        super().__init__(
            f"GoLogin lists {missing} of the {active} active profiles no more; nothing was marked as gone. Check "
            'GOLOGIN_API_TOKEN; if it is right, POST /profiles/sync {"allow_mass_removal": true}'
        )


class ConcurrentProfileLimitException(DomainException):
    error_code = ErrorCode.CONCURRENT_LIMIT
    status_code = 429
    retryable = True

    def __init__(self, limit: int) -> None:
        super().__init__(f"Maximum concurrent profiles ({limit}) already running")
