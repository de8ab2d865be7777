"""Requests and responses of `/accounts`."""

from datetime import datetime
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.api.schemas.common import Moment
from app.api.schemas.paging import PageQuery
from app.models import CredentialStatus
from app.services.tokens.account_problems import Problem
from app.services.tokens.account_states import AccountState
from app.services.tokens.account_views import AccountSelection, AccountView
from app.services.tokens.accounts import AccountFilter, SortField
from app.services.tokens.service import IssuedToken


class ApiAppQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    api_app: str = Field(min_length=1, max_length=64, description="Name of a configured OAuth app")


class TokenQuery(ApiAppQuery):
    min_ttl: float = Field(
        default=0,
        ge=0,
        le=3600,
        description="Seconds that the token must still live; otherwise it is refreshed first",
    )


class TokenResponse(BaseModel):
    """An access token (RFC 6749, 1.4) that works now; keep it for no longer than `expires_at`."""

    account_id: str
    api_app: str
    provider_user_id: str
    token_type: Literal["bearer", "oauth1"]
    access_token: str
    oauth_token_secret: str | None = Field(description="OAuth 1.0a only")
    scopes: list[str]
    expires_at: datetime | None = Field(description="null: unknown, or it does not expire")

    @classmethod
    def from_token(cls, token: IssuedToken) -> "TokenResponse":
        row, secret = token.row, token.oauth_token_secret
        return cls(
            account_id=row.account_id,
            api_app=row.api_app,
            provider_user_id=row.provider_user_id,
            token_type="bearer" if secret is None else "oauth1",
            access_token=token.access_token.get_secret_value(),
            oauth_token_secret=secret.get_secret_value() if secret else None,
            scopes=row.scopes,
            expires_at=row.token_expires_at,
        )


class AccountListQuery(PageQuery):
    """Filters, order and page; what is left out does not matter."""

    state: AccountState | None = Field(
        default=None,
        description="State of the account, in an order of its own: not with `status`, `sort`, `order` and `page`. "
        "`never_authorized` and `needs_person` also list accounts without tokens",
    )
    api_app: str | None = Field(default=None, description="Name of an OAuth app")
    status: CredentialStatus | None = Field(default=None, description="Status of the token set")
    text: str | None = Field(default=None, max_length=128, description="Part of the account's handle")
    expires_since: Moment | None = Field(
        default=None,
        description="The active access token expires at this time or later. A list by expiry has the soonest first: "
        "not with `state`, `status`, `sort`, `order` and `page`",
    )
    expires_until: Moment | None = Field(
        default=None, description="The active access token expires before this time; as `expires_since`"
    )
    sort: SortField = Field(default="account_id", description="Rows without a value come last")
    order: Literal["asc", "desc"] = "asc"

    @model_validator(mode="after")
    def _check_combination(self) -> Self:
        if self.state is not None and self.is_by_expiry:
            raise ValueError(
                "a list is by `state` or by expiry: leave out `state`, or `expires_since` and `expires_until`"
            )
        if not self.has_own_order:
            return self
        kind = "`state`" if self.state is not None else "expiry"
        if self.model_fields_set & {"status", "sort", "order"}:
            raise ValueError(
                f"a list by {kind} has an order of its own: leave out `status`, `sort` and `order`"
            )
        if self.page > 1 and self.cursor is None:
            raise ValueError(f"a list by {kind} has no numbered pages: follow `next_cursor`")
        return self

    @property
    def is_by_expiry(self) -> bool:
        return self.expires_since is not None or self.expires_until is not None

    @property
    def has_own_order(self) -> bool:
        """The list is that of `selection`, otherwise that of `filter`."""
        return self.state is not None or self.is_by_expiry

    def filter(self) -> AccountFilter:
        return AccountFilter(api_app=self.api_app, status=self.status, text=self.text)

    def selection(self) -> AccountSelection:
        return AccountSelection(
            state=self.state,
            api_app=self.api_app,
            text=self.text,
            expires_since=self.expires_since,
            expires_until=self.expires_until,
        )


class ProblemResponse(BaseModel):
    """Problem of an account, and what the service or a person does next."""

    code: str = Field(description="Error code")
    sentence: str
    since: datetime
    session_id: str | None = Field(
        description="Session that runs for the account, or the last one that ended without tokens"
    )
    next_try_at: datetime | None = Field(
        description="Time at which the service tries by itself, in the past when it is due; null: it does not, or a "
        "session runs already"
    )

    @classmethod
    def from_problem(cls, problem: Problem) -> "ProblemResponse":
        return cls(**vars(problem))


class AccountResponse(BaseModel):
    """An account's token set in one app, without the tokens, and the account's state.

    The fields of the token set are null or empty for accounts without tokens, which only a list by `state` has.
    """

    account_id: str
    api_app: str | None = Field(
        description="null: an account without tokens whose profile is for any app; name the app in the filter"
    )
    state: AccountState
    problem: ProblemResponse | None = Field(description="null when the account works")
    provider_user_id: str | None
    status: CredentialStatus | None
    scopes: list[str]
    expires_at: datetime | None = Field(
        description="Expiry of the access token; null: unknown, or it does not expire"
    )
    refreshed_at: datetime | None = Field(description="Last refresh; null: none since the authorization")
    next_refresh_at: datetime | None
    failures: int = Field(description="Refreshes that failed in a row")
    last_error_code: str | None = Field(
        description="Error code of the last failure, or the reason why the token chain is broken"
    )
    session_id: str | None = Field(description="Authorization session that stored the tokens")
    created_at: datetime | None = Field(description="Of the token set, or else of the profile")
    updated_at: datetime | None

    @classmethod
    def from_view(cls, view: AccountView) -> "AccountResponse":
        problem = None if view.problem is None else ProblemResponse.from_problem(view.problem)
        row = view.credential
        if row is None:
            return cls(
                account_id=view.account_id,
                api_app=view.api_app,
                state=view.state,
                problem=problem,
                provider_user_id=None,
                status=None,
                scopes=[],
                expires_at=None,
                refreshed_at=None,
                next_refresh_at=None,
                failures=0,
                last_error_code=None,
                session_id=None,
                created_at=view.profile_created_at,
                updated_at=None,
            )
        return cls(
            account_id=row.account_id,
            api_app=row.api_app,
            state=view.state,
            problem=problem,
            provider_user_id=row.provider_user_id,
            status=row.status,
            scopes=row.scopes,
            expires_at=row.token_expires_at,
            refreshed_at=row.refreshed_at,
            next_refresh_at=row.refresh_due_at,
            failures=row.refresh_failures,
            last_error_code=row.refresh_error_code,
            session_id=row.session_id,
            created_at=row.created_at,
            updated_at=row.updated_at,
        )


class VerifiedResponse(BaseModel):
    """Account that the provider names for the token."""

    provider_user_id: str
    username: str
    is_same_account: bool


class RevokedResponse(BaseModel):
    status: Literal["revoked", "revoking"] = Field(
        description="`revoking`: the provider did not answer; the service asks again until it does"
    )
