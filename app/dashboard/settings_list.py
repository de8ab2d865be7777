"""The settings as a page shows them: values where they are no secrets."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from pydantic import SecretStr

from app.config import PLACEHOLDER, PersonRights, Settings
from app.utils.masking import MASK, mask_own

_USER_IN_URL: Final = re.compile(r"(?<=://)[^/\s@]*@")


@dataclass(frozen=True)
class ShownSetting:
    name: str
    text: str
    is_default: bool


def list_settings(settings: Settings) -> Iterator[ShownSetting]:
    """Yield all settings by name; of a secret only whether it is set."""
    for name, field in sorted(Settings.model_fields.items()):
        value = getattr(settings, name)
        is_default = name not in settings.model_fields_set or value == field.get_default(
            call_default_factory=True
        )
        yield ShownSetting(name.upper(), _text(value), is_default)


def _text(value: Any) -> str:
    if isinstance(value, SecretStr):
        return "set" if value.get_secret_value() not in ("", PLACEHOLDER) else "not set"
    if value is None:
        return "not set"
    return _USER_IN_URL.sub(f"{MASK}@", mask_own(_plain(value)))


def _plain(value: Any) -> str:
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):  # the apps, whose ids are secrets, too, and the rights of people
        return ", ".join(
            f"{name} ({' '.join(each.scopes) if isinstance(each, PersonRights) else f'{each.kind} of {each.provider}'})"
            for name, each in value.items()
        )
    if isinstance(value, list | tuple):
        return json.dumps([str(each) for each in value], ensure_ascii=False)
    return str(value)
