"""Account of a profile that nobody has linked by hand: a rule over what GoLogin says of it."""

import re
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from app.utils.handles import APP_NAME, normalize_handle

RuleSource = Literal["name", "notes", "tag", "none"]


class Owner(BaseModel):
    """The account (lower case, without ``@``) and the one app it is for; None: any app."""

    model_config = ConfigDict(frozen=True)

    account_id: str | None = None
    api_app: str | None = None


NOBODY = Owner()


class AccountRule:
    """`pattern` is searched in `source`; its group ``account`` is the handle, its group ``app``, if any, the app."""

    def __init__(self, *, source: RuleSource, pattern: str) -> None:
        self._source = source
        self._pattern = re.compile(pattern)

    def find_owner(self, name: str, metadata: dict[str, Any]) -> Owner:
        """The first match; `NOBODY` when there is none."""
        for text in self._texts(name, metadata):
            if match := self._pattern.search(text):
                groups = match.groupdict()
                api_app = groups.get("app")
                if api_app is not None and not APP_NAME.fullmatch(api_app):
                    continue
                # What is no handle can be nobody's account, and may be longer than the database takes.
                with suppress(ValueError):
                    return Owner(account_id=normalize_handle(groups.get("account") or ""), api_app=api_app)
        return NOBODY

    def _texts(self, name: str, metadata: dict[str, Any]) -> Iterable[str]:
        match self._source:
            case "name":
                return (name,)
            case "notes":
                return (metadata.get("notes") or "",)
            case "tag":
                return tuple(metadata.get("tags") or ())
            case "none":
                return ()
