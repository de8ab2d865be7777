"""The codes by which programs recognise an error."""

from app.utils.described_enum import DescribedEnum


class ErrorCode(DescribedEnum):
    """Code of a refused request, or of work that failed. The HTTP status and `retryable` belong to the exception
    classes; a code without a class occurs in rows only, such as those of sessions, syncs and accounts.
    """

    ACCOUNT_COUNT_CHANGED = (
        "ACCOUNT_COUNT_CHANGED",
        (
            "The filter of the action matches another number of accounts than its dry run said. Run the dry run "
            "again."
        ),
    )
    ACCOUNT_LOCKED = (
        "ACCOUNT_LOCKED",
        (
            "The provider locked or suspended the account, as its page or its API says. A person must "
            "unlock it, then resume the session."
        ),
    )
    ACCOUNT_MISMATCH = (
        "ACCOUNT_MISMATCH",
        (
            "Another account is signed in in the profile. Nothing was stored. Sign in the account that the "
            "message names."
        ),
    )
    APP_LIMITED = "APP_LIMITED", "The provider limits the app's request rate. Try again after `Retry-After`."
    APP_PAUSED = (
        "APP_PAUSED",
        (
            "The OAuth app is paused after repeated failures caused by the app. Correct its settings, then "
            "`POST /apps/{api_app}/resume`."
        ),
    )
    ATTEMPTS_EXHAUSTED = (
        "ATTEMPTS_EXHAUSTED",
        "The session's work was interrupted in each of its attempts. Retry the session.",
    )
    ATTENTION_NOT_NEEDED = (
        "ATTENTION_NOT_NEEDED",
        "Only a session with the status `needs_attention` can be resumed.",
    )
    AUTH_TIMEOUT = "AUTH_TIMEOUT", "A deadline passed while the session waited or ran. Retry the session."
    BATCH_CANCELLED = "BATCH_CANCELLED", "The session's batch was cancelled."
    BATCH_EMPTY = "BATCH_EMPTY", "No row of the batch can become a session. The message has the first reason."
    BATCH_ENDED = "BATCH_ENDED", "The batch has ended already and cannot be cancelled."
    BATCH_ENDING = (
        "BATCH_ENDING",
        (
            "The session's batch was stopped or cancelled and some of its sessions still run. Try again "
            "when they have ended."
        ),
    )
    BATCH_NOT_FOUND = "BATCH_NOT_FOUND", "No batch has this id."
    BATCH_STOPPED = (
        "BATCH_STOPPED",
        "The session's batch was stopped. `GET /batches/{batch_id}` has the reason.",
    )
    BODY_TOO_LARGE = (
        "BODY_TOO_LARGE",
        "The request body is larger than `MAX_BODY_BYTES`; the body of a batch, than `MAX_BATCH_BYTES`.",
    )
    BROWSER_CONNECTION_FAILED = (
        "BROWSER_CONNECTION_FAILED",
        "The profile's browser does not answer on its port.",
    )
    BROWSER_CRASHED = "BROWSER_CRASHED", "The profile's browser or its driver ended during the authorization."
    CANCELLED = "CANCELLED", "A caller cancelled the session of this attempt."
    CHROMEDRIVER_UNAVAILABLE = (
        "CHROMEDRIVER_UNAVAILABLE",
        "No driver fits the browser's version. Install one or set `CHROMEDRIVER_PATH`.",
    )
    CONCURRENT_LIMIT = (
        "CONCURRENT_LIMIT",
        "All profile slots of the machine or the fleet are taken. Sessions wait for a slot.",
    )
    CONSENT_BUTTON_NOT_FOUND = (
        "CONSENT_BUTTON_NOT_FOUND",
        (
            "The consent button could not be pressed in time. The message says why, and names an element "
            "that covers the button."
        ),
    )
    CONSENT_DECLINED = "CONSENT_DECLINED", "The consent was declined on the provider's page."
    CONSENT_PAGE_ERROR = (
        "CONSENT_PAGE_ERROR",
        (
            "The provider shows an error instead of the consent page. Usually the app or its redirect URI "
            "is misconfigured."
        ),
    )
    CONSENT_UNAVAILABLE = (
        "CONSENT_UNAVAILABLE",
        "The provider ended the consent with `server_error` or `temporarily_unavailable`.",
    )
    CREDITS_DEPLETED = (
        "CREDITS_DEPLETED",
        "The OAuth app has no API credits left. Buy credits, then resume the app if it is paused.",
    )
    CROSS_ORIGIN_REFUSED = (
        "CROSS_ORIGIN_REFUSED",
        (
            "A browser asked whether a page of another origin may send this request, and it may not. See "
            "`CORS_ORIGINS`."
        ),
    )
    DATABASE_UNAVAILABLE = (
        "DATABASE_UNAVAILABLE",
        (
            "The database does not answer, is locked, or is full; the message says which. Nothing was lost."
            " Try again after `Retry-After`."
        ),
    )
    DECRYPTION_FAILED = (
        "DECRYPTION_FAILED",
        (
            "A stored token or webhook secret cannot be decrypted with any of `ENCRYPTION_KEYS`. Put the "
            "missing key back."
        ),
    )
    DELIVERY_NOT_FOUND = (
        "DELIVERY_NOT_FOUND",
        "The webhook has no delivery with this id, or its retention time is over.",
    )
    FORBIDDEN = "FORBIDDEN", "The API key lacks the scope that the message names."
    FORM_REFUSED = (
        "FORM_REFUSED",
        "A form of the operators' page was not sent by a page of this sign-in. Load the page again and repeat.",
    )
    GOLOGIN_API_ERROR = (
        "GOLOGIN_API_ERROR",
        "GoLogin refused a call, did not answer in time, or is not running. The message has its answer.",
    )
    GOLOGIN_BREAKER_OPEN = (
        "GOLOGIN_BREAKER_OPEN",
        (
            "Calls to GoLogin's cloud API are stopped because GoLogin limited their rate. Check the API "
            "token, then close the breaker."
        ),
    )
    HEADERS_TOO_LARGE = "HEADERS_TOO_LARGE", "The request line and headers are larger than 32 KiB."
    HUMAN_CHECK_REQUIRED = (
        "HUMAN_CHECK_REQUIRED",
        "The provider shows a human check. A person must pass it in the profile.",
    )
    IDEMPOTENCY_CONFLICT = (
        "IDEMPOTENCY_CONFLICT",
        "This `Idempotency-Key` was sent before with another body. Use a new key for a new request.",
    )
    INTERNAL_ERROR = "INTERNAL_ERROR", "An unexpected error occurred. The log has it under the request id."
    INTERRUPTED = "INTERRUPTED", "The work was interrupted, and another process continues it."
    INVALID_CLIENT = (
        "INVALID_CLIENT",
        (
            "The provider refused the app. Check its client id and secret, and its access to the API (X: "
            "`client-not-enrolled`)."
        ),
    )
    INVALID_CURSOR = (
        "INVALID_CURSOR",
        "The cursor is damaged, or belongs to another list, filter or order. Start without a cursor.",
    )
    INVALID_GRANT = (
        "INVALID_GRANT",
        (
            "The provider refused the authorization code (reused, expired, or of another redirect URI), the"
            " refresh token (spent or revoked), the access token, or a verifier or token of OAuth 1.0a."
        ),
    )
    INVALID_REQUEST = (
        "INVALID_REQUEST",
        (
            "The request is not valid. The message and `data.problems` name each field, its problem and the"
            " allowed values."
        ),
    )
    ISSUER_MISMATCH = (
        "ISSUER_MISMATCH",
        (
            "The callback's `iss` is missing or differs from the `issuer` of `PROVIDERS_FILE` (RFC 9207). "
            "The callback was refused."
        ),
    )
    KEY_ENDED = "KEY_ENDED", "The API key is expired or revoked and cannot be rotated. Create a new one."
    KEY_ESCALATION = (
        "KEY_ESCALATION",
        (
            "An API key cannot create or rotate a key with more rights or a longer life than its own. The "
            "message says what to reduce."
        ),
    )
    KEY_NAME_TAKEN = "KEY_NAME_TAKEN", "An API key of this name exists or was revoked. Choose another name."
    KEY_NOT_FOUND = "KEY_NOT_FOUND", "No API key has this id, or the calling key does not manage it."
    LEASE_LOST = "LEASE_LOST", "The lease on the work was lost, and another process continues it."
    LOGIN_REQUIRED = "LOGIN_REQUIRED", "The account is signed out. A person must sign in in its profile."
    MALFORMED_REQUEST = (
        "MALFORMED_REQUEST",
        "The request is not valid HTTP, repeats a header that must occur once, or carries two different API keys.",
    )
    METHOD_NOT_ALLOWED = "METHOD_NOT_ALLOWED", "The address does not accept this method."
    NOTHING_TO_RETRY = (
        "NOTHING_TO_RETRY",
        (
            "No session of the batch can be tried again. Those that need attention are included on request "
            "only."
        ),
    )
    NOT_CONSENT_PAGE = (
        "NOT_CONSENT_PAGE",
        (
            "The browser shows another page than the provider's consent page, such as new terms or a page "
            "of the proxy's seller. The message names it. Nothing was pressed; a person must look at it."
        ),
    )
    NOT_FOUND = "NOT_FOUND", "No route has this address."
    OUT_OF_REACH = (
        "OUT_OF_REACH",
        (
            "The API key is restricted to other apps or accounts. A row of a batch and a webhook can have "
            "this code too."
        ),
    )
    PAGE_DIALOG = (
        "PAGE_DIALOG",
        "The page opened a dialog. It was dismissed, and a person must give this consent.",
    )
    PERSON_NOT_SEEN = (
        "PERSON_NOT_SEEN",
        (
            "Nobody acted in the profile's window within `ATTENDED_TIMEOUT`. Resume the session when a "
            "person is present."
        ),
    )
    PROFILE_CONFLICT = (
        "PROFILE_CONFLICT",
        ("More than one profile belongs to the account in one app. Link one of them, or unlink the other."),
    )
    PROFILE_IN_USE = "PROFILE_IN_USE", "The profile is running already. Sessions wait until it stops."
    PROFILE_NETWORK_ERROR = (
        "PROFILE_NETWORK_ERROR",
        (
            "The profile's browser cannot reach the provider. The message has Chromium's `ERR_…`. Usually "
            "the profile's proxy is the cause. A refused certificate is not tried again."
        ),
    )
    PROFILE_NOT_FOUND = (
        "PROFILE_NOT_FOUND",
        (
            "No active profile belongs to the account, as of the last sync. Name or link a profile, then "
            "start a sync."
        ),
    )
    PROFILE_QUARANTINED = (
        "PROFILE_QUARANTINED",
        ("The profile's browser could not be stopped. Close it, then `POST /profiles/{profile_id}/release`."),
    )
    PROVIDER_RULES_INVALID = (
        "PROVIDER_RULES_INVALID",
        "The browser refuses a selector of `PROVIDERS_FILE`. Correct the file.",
    )
    RATE_LIMITED = "RATE_LIMITED", "The API key sent too many requests. Try again after `Retry-After`."
    REAUTHORIZATION_REQUIRED = (
        "REAUTHORIZATION_REQUIRED",
        (
            "The account's token chain is broken, or its OAuth 1.0a token ended. `data.session_id` is the "
            "session that repairs it, if one is open."
        ),
    )
    REFRESHED_JUST_NOW = (
        "REFRESHED_JUST_NOW",
        (
            "The account was refreshed less than `REFRESH_MIN_INTERVAL` ago. It occurs as the reason of "
            "`TOKEN_EXPIRED`."
        ),
    )
    REFRESH_AMBIGUOUS = (
        "REFRESH_AMBIGUOUS",
        (
            "The answer to the account's last refresh was lost, so its refresh token may be spent. The "
            "service authorizes the account again."
        ),
    )
    REFRESH_REFUSED = (
        "REFRESH_REFUSED",
        (
            "The provider refused the account's refresh at least 5 times in a row, over a day, for an "
            "unknown reason. Add the provider's words to `errors` of `PROVIDERS_FILE`."
        ),
    )
    REQUEST_TIMEOUT = (
        "REQUEST_TIMEOUT",
        "The request did not arrive within `CLIENT_STALL_TIMEOUT`. Send it again.",
    )
    ROTATION_UNDER_WAY = (
        "ROTATION_UNDER_WAY",
        'What the last rotation replaced still works. Wait, or rotate with `"force": true`.',
    )
    SCHEMA_OUT_OF_DATE = (
        "SCHEMA_OUT_OF_DATE",
        "The database schema is older or newer than the code. Run `python -m app migrate`.",
    )
    SCREENSHOT_NOT_FOUND = (
        "SCREENSHOT_NOT_FOUND",
        (
            "The session has no screenshot: the attempt failed outside of the browser, the page did not "
            "answer, or the retention time is over."
        ),
    )
    SERVICE_STOPPING = "SERVICE_STOPPING", "The service is stopping. The session continues after the restart."
    SESSION_ENDED = "SESSION_ENDED", "The session has ended already and cannot be cancelled."
    SESSION_NOT_ENDED = "SESSION_NOT_ENDED", "The session is open or completed and cannot be tried again."
    SESSION_NOT_FOUND = "SESSION_NOT_FOUND", "No authorization session has this id."
    SIGN_IN_REQUIRED = (
        "SIGN_IN_REQUIRED",
        "The browser is not signed in to the operators' page, or its sign-in has ended. Sign in with an API key.",
    )
    SSO_NO_RIGHTS = (
        "SSO_NO_RIGHTS",
        "No value of the claim `OIDC_CLAIM` in the person's ID token is in `OIDC_RIGHTS`.",
    )
    SSO_REFUSED = (
        "SSO_REFUSED",
        (
            "A single sign-on did not begin in this browser, took too long, or was refused by the provider, or its ID "
            "token is not valid. The message says which. Begin again."
        ),
    )
    SSO_UNAVAILABLE = (
        "SSO_UNAVAILABLE",
        "The provider of `OIDC_ISSUER` does not answer, or not as it must. The message says what is wrong.",
    )
    STATE_MISMATCH = (
        "STATE_MISMATCH",
        "The callback's `state` differs from the one sent. The callback was refused.",
    )
    SYNC_MASS_REMOVAL = (
        "SYNC_MASS_REMOVAL",
        "A sync found most profiles gone and marked none of them. Check the API token first.",
    )
    SYNC_NOT_FOUND = "SYNC_NOT_FOUND", "No profile sync has this id."
    TICKET_SPENT = (
        "TICKET_SPENT",
        "The one-time link to the operators' page was used already, or has expired. Create another: `ui-link`.",
    )
    TOKEN_EXPIRED = (
        "TOKEN_EXPIRED",
        (
            "The token is expired and cannot be refreshed now: try again. Without a refresh token: "
            "authorize the account again."
        ),
    )
    TOKEN_NOT_FOUND = "TOKEN_NOT_FOUND", "The account has no tokens for the app. Authorize it."
    TOKEN_NOT_REFRESHABLE = (
        "TOKEN_NOT_REFRESHABLE",
        "An OAuth 1.0a token does not expire and cannot be refreshed. Use it as it is.",
    )
    TOKEN_REFUSED = (
        "TOKEN_REFUSED",
        (
            "The provider refused the account's token before its expiry, and a refresh was not possible or "
            "did not help."
        ),
    )
    TOKEN_REVOKED = "TOKEN_REVOKED", "The token is being revoked. `POST /authorize` creates a new one."
    TOO_MANY_EXPORTS = (
        "TOO_MANY_EXPORTS",
        (
            "`EVENT_EXPORTS` exports, or as many as one key may have, are running. Try again after "
            "`Retry-After`."
        ),
    )
    TOO_MANY_FAILED_AUTHENTICATIONS = (
        "TOO_MANY_FAILED_AUTHENTICATIONS",
        (
            "Too many requests without a valid API key came from this address. Correct the key and try "
            "again after `Retry-After`."
        ),
    )
    TOO_MANY_STREAMS = (
        "TOO_MANY_STREAMS",
        (
            "`EVENT_STREAM_READERS` event streams, or as many as one key may have, are open. Try again "
            "after `Retry-After`."
        ),
    )
    TOO_MANY_WAITING = (
        "TOO_MANY_WAITING",
        "`MAX_WAITING` sessions wait already. Try again after `Retry-After`.",
    )
    TOO_MANY_WEBHOOKS = "TOO_MANY_WEBHOOKS", "`WEBHOOK_MAX_ENDPOINTS` webhooks exist. Delete one."
    TRANSITION_REFUSED = (
        "TRANSITION_REFUSED",
        "A session cannot change its status in this way. This is a defect of the service: report it.",
    )
    TWITTER_API_ERROR = "TWITTER_API_ERROR", "The provider's API refused a call or did not answer."
    UNAUTHORIZED = (
        "UNAUTHORIZED",
        (
            "The request has no valid API key. The message says so when a complete key is expired, revoked "
            "or replaced."
        ),
    )
    UNKNOWN_API_APP = (
        "UNKNOWN_API_APP",
        "The app is not in `OAUTH_APPS`. The message lists the configured apps.",
    )
    UNKNOWN_EVENT_ID = (
        "UNKNOWN_EVENT_ID",
        (
            "The stream never sent this `Last-Event-ID`, or the database was restored since. Connect "
            "without one."
        ),
    )
    UNKNOWN_PAGE = (
        "UNKNOWN_PAGE",
        "The page shows nothing that the provider's rules know. No consent was pressed.",
    )
    UNKNOWN_PROFILE = "UNKNOWN_PROFILE", "No profile has this id, as of the last sync."
    UNSUPPORTED_MEDIA_TYPE = (
        "UNSUPPORTED_MEDIA_TYPE",
        "The body's content type is not `application/json`; a batch may also be `text/csv`.",
    )
    URI_TOO_LONG = "URI_TOO_LONG", "The request's address is longer than 8 KiB."
    WEBHOOK_NOT_FOUND = (
        "WEBHOOK_NOT_FOUND",
        "No webhook has this id, or the webhook covers more apps or accounts than the API key.",
    )
    WEBHOOK_URL_REFUSED = (
        "WEBHOOK_URL_REFUSED",
        (
            "The webhook's URL is not https, has credentials or a fragment, or its host is not found or not"
            " public. The message says which."
        ),
    )
    WORKER_DIED = (
        "WORKER_DIED",
        "A worker ended with an error, and so did the process. The log line `worker.died` says why.",
    )
