"""Requests and responses of `/accounts/actions`."""

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.api.schemas.common import AccountId
from app.services.batches.account_actions import AccountAction
from app.services.tokens.account_states import AccountState
from app.services.tokens.account_views import AccountSelection


class AccountActionFilter(BaseModel):
    """Accounts that an action is for: those that meet all that is given."""

    model_config = ConfigDict(extra="forbid")

    state: AccountState | None = Field(
        default=None, description="By default accounts with tokens; for `authorize` those that are named"
    )
    api_app: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_-]{1,64}$")
    account_ids: list[AccountId] | None = Field(default=None, min_length=1, max_length=1_000)

    @model_validator(mode="after")
    def _check_presence(self) -> Self:
        if self.state is None and self.api_app is None and self.account_ids is None:
            raise ValueError("name at least one of `state`, `api_app` and `account_ids`")
        return self

    def selection(self) -> AccountSelection:
        return AccountSelection(state=self.state, api_app=self.api_app, account_ids=self.account_ids)


class AccountActionRequest(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "action": "refresh",
                    "filter": {"state": "expiring", "api_app": "AIOTT1"},
                    "dry_run": False,
                    "expected_count": 120,
                }
            ]
        },
    )

    action: AccountAction = Field(
        description="`refresh`: make the next refresh due now; `authorize`: make a batch; `revoke`: revoke the tokens. "
        "Workers do it, at their own pace"
    )
    filter: AccountActionFilter
    dry_run: bool = Field(default=True, description="Say which accounts the action is for, and do nothing")
    expected_count: int | None = Field(
        default=None,
        ge=0,
        le=1_000_000,
        description="`count` of the dry run, needed without `dry_run`; the action is refused when the number has "
        "changed by more than 5 %",
    )

    @model_validator(mode="after")
    def _check_count(self) -> Self:
        if not self.dry_run and self.expected_count is None:
            raise ValueError(
                "expected_count: send a `dry_run` first, then the action with the `count` of its answer"
            )
        return self


class ActionAccount(BaseModel):
    account_id: str
    api_app: str


class AccountActionResponse(BaseModel):
    action: AccountAction
    dry_run: bool
    count: int = Field(description="Accounts that the filter matches and the key reaches")
    count_is_exact: bool = Field(
        description="false: there are more, and the action is refused until the filter is narrower"
    )
    accounts: list[ActionAccount] = Field(description="The first 20 of them")
    changed: int | None = Field(
        description="Accounts of which something was changed, such as a refresh made due; the others had nothing to be "
        "done. null in a dry run"
    )
    batch_id: str | None = Field(description="Batch that authorizes the accounts")
