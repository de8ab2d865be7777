"""Canaries: secrets that were planted, and the places in which one of them shows, in whatever spelling."""

import base64
import json
import secrets
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, get_args
from urllib.parse import quote

from pydantic import BaseModel, SecretStr

NOTHING: Final[frozenset[str]] = frozenset()
_SHORTEST: Final = 10


def password() -> str:
    """Of characters that URLs spell otherwise, and too short to be known by its look."""
    return f"p/{secrets.token_hex(4)}+w"


def api_key() -> str:
    """Of nobody."""
    return f"gla_{secrets.token_hex(4)}_{secrets.token_urlsafe(32)}"


class Canaries:
    """Values by kind."""

    def __init__(self) -> None:
        self._kinds: dict[str, str] = {}
        self._needles: dict[bytes, str] = {}

    def plant(self, kind: str, *values: str) -> None:
        for value in values:
            assert len(value) >= _SHORTEST, f"{kind}: this stands in too many words"
            if value not in self._kinds:
                self._kinds[value] = kind
                self._needles |= dict.fromkeys(_spellings(value), kind)

    @property
    def kinds(self) -> set[str]:
        return set(self._kinds.values())

    def seen_in(self, content: bytes) -> set[str]:
        """Their kinds."""
        return {kind for needle, kind in self._needles.items() if needle in content}


@dataclass
class LeakLog:
    """All that came out anywhere."""

    canaries: Canaries
    leaks: list[str] = field(default_factory=list)
    shown: set[tuple[str, str]] = field(default_factory=set)
    """Kinds where they may be, so that it is known that the search finds them."""
    _entries: dict[tuple[str, bytes], Collection[str]] = field(default_factory=dict)

    def write(self, place: str, content: object, *, allowed: Collection[str] = NOTHING) -> None:
        """`allowed`: the kinds that the place is for."""
        raw = content if isinstance(content, bytes) else str(content).encode()
        self._entries[place, raw] = allowed

    def read(self) -> list[str]:
        """The leaks; entries are looked through at the end, when all canaries are known."""
        for (place, content), allowed in self._entries.items():
            for kind in self.canaries.seen_in(content):
                if kind in allowed:
                    self.shown.add((place, kind))
                else:
                    self.leaks.append(f"{kind} in {place}")
        return sorted(set(self.leaks))


def secret_fields(model: type[BaseModel], above: str = "") -> Iterator[str]:
    """The dotted names of a model's fields of type `SecretStr`, those of models inside it included."""
    for name, each in model.model_fields.items():
        kinds = set(_parts(each.annotation))
        if SecretStr in kinds:
            yield f"{above}{name}"
        for inner in kinds:
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                yield from secret_fields(inner, f"{above}{name}.")


def planted_fields(value: object, canaries: Canaries, name: str = "") -> Iterator[str]:
    """Those that hold a canary."""
    if isinstance(value, SecretStr) and canaries.seen_in(value.get_secret_value().encode()):
        yield name
    elif isinstance(value, BaseModel):
        for inner in type(value).model_fields:
            yield from planted_fields(getattr(value, inner), canaries, f"{name}.{inner}".removeprefix("."))
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from planted_fields(each, canaries, name)


def _parts(annotation: Any) -> Iterator[Any]:
    yield annotation
    for inner in get_args(annotation):
        yield from _parts(inner)


def _spellings(value: str) -> Iterator[bytes]:
    """As it is, as URLs and JSON have it, and inside a longer text that is base64."""
    once = json.dumps(value)[1:-1]
    for text in (value, quote(value), quote(value, safe=""), once, json.dumps(once)[1:-1]):
        yield text.encode()
    for before, skipped in ((0, 0), (1, 2), (2, 3)):
        raw = b"\0" * before + value.encode()
        whole = raw[: len(raw) // 3 * 3]
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            yield encode(whole)[skipped:]
