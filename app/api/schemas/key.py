"""Requests and responses of `/keys`."""

from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from app.api.schemas.common import Moment
from app.api.schemas.paging import PageQuery
from app.models import ApiKey
from app.services.keys.service import MadeKey, Scope
from app.services.keys.status import KeyFilter, KeyStatus, key_status
from app.services.shared.access import MAX_ACCOUNT_PATTERNS
from app.utils.handles import APP_NAME, normalize_pattern

_DAY = 86_400

ApiAppName = Annotated[str, Field(pattern=f"^{APP_NAME.pattern}$")]
AccountPattern = Annotated[str, Field(max_length=128), AfterValidator(normalize_pattern)]


class CreateKeyRequest(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"name": "billing", "scopes": ["tokens:read"], "account_patterns": ["shop_*"]}]
        },
    )

    name: str = Field(
        min_length=1,
        max_length=100,
        description="Name of the key's owner, shown in sessions and events. A name is never given again",
    )
    scopes: set[Scope] = Field(
        min_length=1,
        description="`admin` allows everything. Until release 0.3 `authorize` includes `sessions:read`, and "
        "`tokens:read` includes `tokens:manage`",
    )
    api_apps: list[ApiAppName] = Field(
        default=[], max_length=100, description="OAuth apps that the key is restricted to; empty: all"
    )
    account_patterns: list[AccountPattern] = Field(
        default=[],
        max_length=MAX_ACCOUNT_PATTERNS,
        description="Accounts that the key is restricted to: handles, with `*` for any characters; empty: all",
    )
    expires_at: Moment | None = Field(default=None, description="null: it does not expire")
    rate_limit_per_minute: int | None = Field(
        default=None, ge=1, le=10_000, description="Requests in any minute; null: as the settings say"
    )


class RotateKeyRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    overlap: int = Field(
        default=_DAY,
        ge=0,
        le=30 * _DAY,
        description="Seconds for which the old key still works; 0: it ends at once",
    )
    force: bool = Field(
        default=False,
        description="Rotate even during the overlap of the last rotation; the key that it replaced then ends at once",
    )


class KeyListQuery(PageQuery):
    """Filters and page; what is left out does not matter."""

    status: KeyStatus | None = Field(default=None, description="Status")
    text: str | None = Field(default=None, max_length=100, description="Part of the name, in any case")

    def filter(self) -> KeyFilter:
        return KeyFilter(status=self.status, text=self.text)


class KeyResponse(BaseModel):
    """An API key, without the key."""

    key_id: str
    name: str
    prefix: str = Field(description="Beginning of the key")
    status: KeyStatus
    scopes: list[str]
    api_apps: list[str] = Field(description="OAuth apps that the key is restricted to; empty: all")
    account_patterns: list[str] = Field(description="Accounts that the key is restricted to; empty: all")
    rate_limit_per_minute: int | None = Field(description="Requests in any minute; null: as the settings say")
    previous_prefix: str | None = Field(description="Prefix of the key that the last rotation replaced")
    previous_expires_at: datetime | None = Field(
        description="End of the time in which the replaced key works"
    )
    created_by: str
    created_at: datetime
    expires_at: datetime | None = Field(description="null: it does not expire")
    revoked_at: datetime | None
    last_used_at: datetime | None = Field(description="Last use, exact to a minute")

    @classmethod
    def from_row(cls, row: ApiKey) -> "KeyResponse":
        names = KeyResponse.model_fields.keys() - {"status"}
        return cls(status=key_status(row), **{name: getattr(row, name) for name in names})


class MadeKeyResponse(KeyResponse):
    key: str = Field(description="The key; no other answer shows it")

    @classmethod
    def from_key(cls, new_key: MadeKey) -> "MadeKeyResponse":
        return cls(**vars(KeyResponse.from_row(new_key.row)), key=new_key.key.get_secret_value())
