"""Providers besides X, as a TOML file describes them: one table each, `providers.example.toml` shows some."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from app.config import Settings, SettingsError
from app.services.oauth.provider import OAuthProvider, X, x_provider
from app.services.oauth.toml_lines import find_line, key_lines

_SYNTAX_LINE: Final = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")
_WORDS: Final = {
    "unexpected_keyword_argument": "no such key; see providers.example.toml for the names",
    "missing": "is missing",
    "dataclass_type": "must be a table",
}
_PROVIDER: Final = TypeAdapter(OAuthProvider)


def load_providers(settings: Settings) -> dict[str, OAuthProvider]:
    """X and the providers of `settings.providers_file`, by the names that apps use.

    Raises `SettingsError`, one line per mistake with its file and line; also when an app names none of them, or one
    without endpoints for its kind.
    """
    providers = {X: x_provider(web_url=settings.x_web_url, api_url=settings.x_api_url)}
    if settings.providers_file is not None:
        providers |= _read(settings.providers_file, providers)
    problems = []
    for name, app in settings.oauth_apps.items():
        provider = providers.get(app.provider)
        if provider is None:
            known = ", ".join(providers)
            problems.append(f"OAUTH_APPS.{name}.PROVIDER: no such provider; there are: {known}")
        elif app.kind == "oauth1" and provider.oauth1 is None:
            place = f"describe them in [{app.provider}.oauth1]"
            problems.append(f"OAUTH_APPS.{name}.KIND: no OAuth 1.0a endpoints are known; {place}")
    if problems:
        raise SettingsError("\n".join(problems))
    return providers


def _read(path: Path, presets: Mapping[str, OAuthProvider]) -> dict[str, OAuthProvider]:
    text = _text(path)
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        match = _SYNTAX_LINE.search(str(error))
        line = match[1] if match and match[1] else text.count("\n") + 1
        raise SettingsError(f"{path}:{line}: {_SYNTAX_LINE.sub('', str(error))}") from None
    lines, problems = key_lines(text), []
    providers: dict[str, OAuthProvider] = {}
    for name, table in tables.items():
        try:
            providers[name] = _provider(name, table, {**presets, **providers})
        except ValidationError as error:
            for item in error.errors():
                key_path = (name, *item["loc"])
                words = _WORDS.get(item["type"]) or item["msg"].removeprefix("Value error, ")
                problems.append((find_line(lines, key_path), f"{'.'.join(map(str, key_path))}: {words}"))
        except ValueError as error:
            problems.append((lines[(name,)], f"{name}: {error}"))
    if problems:
        raise SettingsError("\n".join(f"{path}:{line}: {problem}" for line, problem in sorted(problems)))
    return providers


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SettingsError(f"PROVIDERS_FILE: {path} cannot be read: {error.strerror}") from None
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise SettingsError(f"{path}:{line}: is not UTF-8 text") from None


def _provider(name: str, table: Any, providers: Mapping[str, OAuthProvider]) -> OAuthProvider:
    """Raises `ValidationError`, or `ValueError` of the table as a whole."""
    if name == X:
        raise ValueError("is built in; choose another name")
    if not isinstance(table, dict):
        raise ValueError("must be a table, [name], with the provider's keys")
    if "extends" not in table:
        return _PROVIDER.validate_python({"name": name, **table})
    base = table["extends"]
    if not isinstance(base, str) or base not in providers:
        raise ValueError(
            f"extends: must be one of {', '.join(providers)}; a table must stand above the one that extends it"
        )
    return _PROVIDER.validate_python(_extend(asdict(providers[base]), table))


def _extend(base: dict[str, Any], table: dict[str, Any]) -> dict[str, Any]:
    """`table`'s keys over the base's; lists of the consent page come before the base's, so that both count."""
    own_page = table.get("consent_page", {})
    merged = {**base, **{key: value for key, value in table.items() if key != "extends"}}
    if isinstance(own_page, dict):
        page = dict(base["consent_page"])
        for key, own in own_page.items():
            is_joined = isinstance(own, list) and isinstance(page.get(key), tuple)
            page[key] = [*own, *page[key]] if is_joined else own
        merged["consent_page"] = page
    return merged
