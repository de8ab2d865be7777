"""The types of events that the service records, and the class of each, which decides how long it is kept."""

from typing import Final

from app.utils.described_enum import DescribedEnum


class EventClass(DescribedEnum):
    """Class of an event: all events of a class are kept equally long."""

    AUDIT = "audit", "Access to tokens, and changes by people and API keys."
    LIFECYCLE = "lifecycle", "The course of sessions, batches and credentials, and the state of the service."
    ROUTINE = "routine", "The service's own work in great numbers; counted by hour before it is deleted."


class EventType(DescribedEnum):
    """Type of a recorded event. Rows of older versions may hold others, so the column stays a plain string."""

    AUTHORIZATION_REQUESTED = "authorization.requested", "A caller, a batch or a repair requested a session."
    AUTHORIZATION_STARTED = "authorization.started", "A worker started an attempt of the session."
    AUTHORIZATION_STAGE = "authorization.stage", "The running attempt reached the stage in `data.stage`."
    AUTHORIZATION_ATTENTION_AWAITED = (
        "authorization.attention_awaited",
        "The running attempt waits for a person to act in the profile's browser window.",
    )
    AUTHORIZATION_RELEASED = (
        "authorization.released",
        "A process gave up the running attempt, and the session returned to the queue.",
    )
    AUTHORIZATION_RETRY_REQUESTED = (
        "authorization.retry_requested",
        "A caller asked for another attempt of an ended session.",
    )
    AUTHORIZATION_RESUMED = (
        "authorization.resumed",
        "A caller resumed a session that needed attention, because a person is present now.",
    )
    AUTHORIZATION_PENDING = "authorization.pending", "An attempt failed, and another attempt follows."
    AUTHORIZATION_COMPLETED = "authorization.completed", "The session ended: the tokens are stored."
    AUTHORIZATION_FAILED = "authorization.failed", "The session failed with the code in `data.error_code`."
    AUTHORIZATION_TIMEOUT = "authorization.timeout", "The session waited or ran longer than its deadline."
    AUTHORIZATION_CANCELLED = "authorization.cancelled", "A caller, or its batch, cancelled the session."
    AUTHORIZATION_NEEDS_ATTENTION = (
        "authorization.needs_attention",
        "The session ended because a person must act on the account in its profile.",
    )
    LIVE_VIEW_OPENED = (
        "live.view_opened",
        "A person began to watch the session's browser on the operators' page.",
    )
    LIVE_CONTROL_TAKEN = (
        "live.control_taken",
        "A person took the mouse and keyboard of the session's browser.",
    )
    LIVE_CONTROL_RELEASED = (
        "live.control_released",
        "A person gave the mouse and keyboard of the session's browser back, or left.",
    )
    BATCH_REQUESTED = "batch.requested", "A caller created a batch of sessions."
    BATCH_STOPPED = (
        "batch.stopped",
        "The service stopped the batch because too many sessions failed or its app was paused.",
    )
    BATCH_RETRIED = "batch.retried", "A caller asked for another attempt of the batch's ended sessions."
    BATCH_CANCELLED = "batch.cancelled", "A caller cancelled the batch."
    BATCH_COMPLETED = "batch.completed", "Every session of the batch ended."
    CREDENTIAL_STORED = "credential.stored", "An authorization stored the account's tokens."
    CREDENTIAL_IMPORTED = "credential.imported", "An operator imported the account's tokens."
    CREDENTIAL_REFRESHED = "credential.refreshed", "The account's tokens were refreshed."
    CREDENTIAL_REFRESH_FAILED = (
        "credential.refresh_failed",
        "A refresh of the account's tokens failed; the service may try again.",
    )
    CREDENTIAL_BROKEN = (
        "credential.broken",
        "The account's token chain is broken: it needs a new authorization.",
    )
    CREDENTIAL_RECOVERED = "credential.recovered", "A new authorization repaired a broken token chain."
    CREDENTIAL_REVOKING = "credential.revoking", "A caller asked for the revocation of the account's tokens."
    CREDENTIAL_REVOKED = "credential.revoked", "The account's tokens were revoked and deleted."
    ACCOUNTS_ACTION_REQUESTED = (
        "accounts.action_requested",
        "A caller requested the action in `data.action` for all accounts that a filter matches.",
    )
    TOKEN_READ = "token.read", "A caller received the account's access token."
    TOKEN_VERIFIED = "token.verified", "A caller verified the account's access token with the provider."
    PROFILE_LINKED = "profile.linked", "An operator linked a profile to an account."
    PROFILE_UNLINKED = "profile.unlinked", "An operator removed a profile's link to an account."
    PROFILE_LEASE_TAKEN_OVER = (
        "profile.lease_taken_over",
        "A process took over the expired lease that another process held on a profile.",
    )
    PROFILE_QUARANTINED = (
        "profile.quarantined",
        "The profile's browser could not be stopped, so the profile is not started again.",
    )
    PROFILE_RELEASED = "profile.released", "An operator released a profile from quarantine."
    PROFILES_SYNC_REQUESTED = "profiles.sync_requested", "A caller requested a sync of the profiles."
    PROFILES_SYNCED = "profiles.synced", "A sync of the profiles completed."
    PROFILES_SYNC_FAILED = "profiles.sync_failed", "A sync failed with the code in `data.error_code`."
    PROFILES_CONFLICT = "profiles.conflict", "A sync found accounts with more than one profile."
    APP_PAUSED = "app.paused", "The service paused an OAuth app after repeated failures caused by the app."
    APP_RESUMED = "app.resumed", "An operator resumed a paused OAuth app."
    GOLOGIN_BREAKER_OPENED = (
        "gologin.breaker_opened",
        "GoLogin limited the request rate, and the service stopped its calls to GoLogin's cloud API.",
    )
    GOLOGIN_BREAKER_CLOSED = (
        "gologin.breaker_closed",
        "An operator allowed calls to GoLogin's cloud API again.",
    )
    ALARM_RAISED = "alarm.raised", "An alarm became active."
    ALARM_CLEARED = "alarm.cleared", "An alarm is no longer active."
    API_KEY_CREATED = "api_key.created", "An API key was created."
    API_KEY_ROTATED = "api_key.rotated", "An API key was replaced by a new one of the same name."
    API_KEY_REVOKED = "api_key.revoked", "An API key was revoked."
    DASHBOARD_LINK_CREATED = (
        "dashboard.link_created",
        "An operator with the settings created a link that signs in to the operators' page once.",
    )
    DASHBOARD_SIGNED_IN = (
        "dashboard.signed_in",
        "A person signed in to the operators' page, by `data.method`: an API key, a link or single sign-on (`oidc`).",
    )
    DASHBOARD_SIGN_IN_REFUSED = (
        "dashboard.sign_in_refused",
        "A person whom the provider of the single sign-on knows has no rights on the operators' page.",
    )
    DASHBOARD_SIGN_INS_ENDED = (
        "dashboard.sign_ins_ended",
        "An operator with the settings ended all sign-ins of the person in `data.person`.",
    )
    DASHBOARD_SIGNED_OUT = "dashboard.signed_out", "A person signed out of the operators' page."
    SECRETS_ROTATED = "secrets.rotated", "Stored secrets were encrypted anew with the first encryption key."
    EVENTS_EXPORTED = "events.exported", "A caller exported events."
    EVENTS_EVICTED = (
        "events.evicted",
        "Events of the class in `data.event_class`, up to `data.to_event_id`, were deleted: there were too many.",
    )
    WEBHOOK_CREATED = "webhook.created", "A webhook was created."
    WEBHOOK_UPDATED = "webhook.updated", "A webhook's URL, name or filters were changed."
    WEBHOOK_PAUSED = (
        "webhook.paused",
        "A webhook was paused by a caller, by its receiver's answer, or after failures.",
    )
    WEBHOOK_RESUMED = "webhook.resumed", "A webhook was resumed."
    WEBHOOK_ROTATED = "webhook.rotated", "A webhook's secret was replaced."
    WEBHOOK_TESTED = "webhook.tested", "A caller sent a test message to a webhook."
    WEBHOOK_REPLAYED = "webhook.replayed", "A caller asked for past events to be delivered again."
    WEBHOOK_EVENTS_LOST = (
        "webhook.events_lost",
        "Events were deleted before they could be delivered to a webhook.",
    )
    WEBHOOK_DELETED = "webhook.deleted", "A webhook was deleted."


TYPES_BY_CLASS: Final = {
    EventClass.AUDIT: (
        EventType.ACCOUNTS_ACTION_REQUESTED,
        EventType.CREDENTIAL_IMPORTED,
        EventType.CREDENTIAL_REVOKING,
        EventType.CREDENTIAL_REVOKED,
        EventType.TOKEN_READ,
        EventType.TOKEN_VERIFIED,
        EventType.PROFILE_LINKED,
        EventType.PROFILE_UNLINKED,
        EventType.PROFILE_RELEASED,
        EventType.APP_RESUMED,
        EventType.GOLOGIN_BREAKER_CLOSED,
        EventType.API_KEY_CREATED,
        EventType.API_KEY_ROTATED,
        EventType.API_KEY_REVOKED,
        EventType.DASHBOARD_LINK_CREATED,
        EventType.DASHBOARD_SIGNED_IN,
        EventType.DASHBOARD_SIGN_IN_REFUSED,
        EventType.DASHBOARD_SIGN_INS_ENDED,
        EventType.DASHBOARD_SIGNED_OUT,
        EventType.LIVE_VIEW_OPENED,
        EventType.LIVE_CONTROL_TAKEN,
        EventType.LIVE_CONTROL_RELEASED,
        EventType.SECRETS_ROTATED,
        EventType.EVENTS_EXPORTED,
        EventType.EVENTS_EVICTED,
        EventType.WEBHOOK_CREATED,
        EventType.WEBHOOK_UPDATED,
        EventType.WEBHOOK_PAUSED,
        EventType.WEBHOOK_RESUMED,
        EventType.WEBHOOK_ROTATED,
        EventType.WEBHOOK_TESTED,
        EventType.WEBHOOK_REPLAYED,
        EventType.WEBHOOK_EVENTS_LOST,
        EventType.WEBHOOK_DELETED,
    ),
    EventClass.LIFECYCLE: (
        EventType.AUTHORIZATION_REQUESTED,
        EventType.AUTHORIZATION_ATTENTION_AWAITED,
        EventType.AUTHORIZATION_RETRY_REQUESTED,
        EventType.AUTHORIZATION_RESUMED,
        EventType.AUTHORIZATION_PENDING,
        EventType.AUTHORIZATION_COMPLETED,
        EventType.AUTHORIZATION_FAILED,
        EventType.AUTHORIZATION_TIMEOUT,
        EventType.AUTHORIZATION_CANCELLED,
        EventType.AUTHORIZATION_NEEDS_ATTENTION,
        EventType.BATCH_REQUESTED,
        EventType.BATCH_STOPPED,
        EventType.BATCH_RETRIED,
        EventType.BATCH_CANCELLED,
        EventType.BATCH_COMPLETED,
        EventType.CREDENTIAL_STORED,
        EventType.CREDENTIAL_BROKEN,
        EventType.CREDENTIAL_RECOVERED,
        EventType.PROFILE_LEASE_TAKEN_OVER,
        EventType.PROFILE_QUARANTINED,
        EventType.PROFILES_SYNC_REQUESTED,
        EventType.PROFILES_SYNC_FAILED,
        EventType.PROFILES_CONFLICT,
        EventType.APP_PAUSED,
        EventType.GOLOGIN_BREAKER_OPENED,
        EventType.ALARM_RAISED,
        EventType.ALARM_CLEARED,
    ),
    EventClass.ROUTINE: (
        EventType.AUTHORIZATION_STARTED,
        EventType.AUTHORIZATION_STAGE,
        EventType.AUTHORIZATION_RELEASED,
        EventType.CREDENTIAL_REFRESHED,
        EventType.CREDENTIAL_REFRESH_FAILED,
        EventType.PROFILES_SYNCED,
    ),
}
"""Each type has one class. The class is stored with the event: a type that changes it needs a migration of its rows."""
_CLASSES: Final[dict[str, EventClass]] = {
    event_type: event_class for event_class, types in TYPES_BY_CLASS.items() for event_type in types
}


def class_of(event_type: str) -> EventClass:
    """Return the class of a type; `lifecycle` for one of an older version."""
    return _CLASSES.get(event_type, EventClass.LIFECYCLE)
