"""Wrong settings are told in one readable line each, and never with their value."""

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest

from app.config import Settings, SettingsError, load_settings
from app.utils.crypto import generate_key
from tests.fixtures.settings import ENV_EXAMPLE

REAL: dict[str, Any] = {
    "environment": "production",
    "api_key": "a-real-key-of-some-length",
    "gologin_api_token": "a-real-token",
    "encryption_keys": f"k1:{generate_key()}",
    "oauth_apps": {"AIOTT1": {"client_id": "id", "redirect_uri": "https://example.org/callback"}},
}


KEY = base64.urlsafe_b64encode(bytes(range(32))).decode()
DEVELOPMENT_KEYS = load_settings(ENV_EXAMPLE).encryption_keys.get_secret_value()


def refused(env_file: Path | None = None, **values: Any) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load_settings(env_file, **values)
    return str(caught.value).splitlines()


def env(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "env"
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1"])
def test_an_env_file_in_another_encoding_is_named(tmp_path: Path, encoding: str):
    path = tmp_path / ".env"
    path.write_text("# für die Zugänge\nPORT=8001\n", encoding=encoding)
    assert refused(path) == [f"{path} is not UTF-8: save it in this encoding"]


def test_an_env_file_may_have_a_byte_order_mark(tmp_path: Path):
    path = tmp_path / ".env"
    path.write_text("PORT=8001\n", encoding="utf-8-sig")
    assert load_settings(path).port == 8001


def test_the_example_names_exactly_the_settings():
    names = re.findall(r"^(?:# )?([A-Z][A-Z0-9_]*)=", ENV_EXAMPLE.read_text(), re.MULTILINE)
    assert sorted(names) == sorted(name.upper() for name in Settings.model_fields)


def test_the_example_shows_the_defaults():
    example, defaults = load_settings(ENV_EXAMPLE), load_settings(None)
    differing = {name for name in Settings.model_fields if getattr(example, name) != getattr(defaults, name)}
    assert differing == {"oauth_apps"}


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("cors_origins", ["*"], "'*' is no origin such as https://tools.example.com"),
        ("cors_origins", ["https://a.example.com/"], "'https://a.example.com/' is no origin"),
        ("trusted_proxies", ["10.0.0.1/8"], "value is not a valid IPv4 or IPv6 network"),
    ],
)
def test_trusted_addresses_must_be_spelt_exactly(name: str, value: list[str], problem: str):
    (line,) = refused(**{name: value})
    assert line.startswith(name.upper())
    assert problem in line


def test_replaced_settings_name_their_successors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    successors = (
        "EVENT_AUDIT_RETENTION_DAYS and EVENT_LIFECYCLE_RETENTION_DAYS and EVENT_ROUTINE_RETENTION_DAYS"
    )
    line = f"EVENT_RETENTION_DAYS: replaced by {successors}; see CHANGELOG.md"
    assert refused(env(tmp_path, "EVENT_RETENTION_DAYS=90")) == [line]
    monkeypatch.setenv("EVENT_RETENTION_DAYS", "90")
    assert refused() == [line]


def test_the_docs_are_on_in_development_alone():
    assert load_settings(None).shows_docs
    assert not load_settings(None, **REAL).shows_docs
    assert load_settings(None, **REAL, docs_enabled=True).shows_docs


def test_each_wrong_setting_has_one_readable_line(tmp_path: Path):
    lines = refused(
        env(
            tmp_path,
            "PORT=not-a-port",
            "LEASE_SECONDS=-1",
            "DATABASE_URL=mysql://user:s3cret@host/db",
            "ENCRYPTION_KEYS=k1:s3cret",
            "GOLOGIN_API_URL=s3cret",
            "LOG_LEVEL=s3cret",
        )
    )
    names = ["DATABASE_URL", "ENCRYPTION_KEYS", "GOLOGIN_API_URL", "LEASE_SECONDS", "LOG_LEVEL", "PORT"]
    assert sorted(line.split(":")[0] for line in lines) == names
    assert "s3cret" not in "".join(lines)
    assert "not-a-port" not in "".join(lines)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("nokey-s3cret", "'id:key' pairs"),
        ("k 1:s3cret", "'id:key' pairs"),
        ("k1:s3cret!", "base64"),
        (f"k1:{KEY[:20]}s3cret=", "base64|bytes"),
        (f"k1:{KEY},k1:{KEY}", "stands twice"),
        ("", "'id:key' pairs"),
    ],
)
def test_unusable_encryption_keys_are_refused(value: str, problem: str):
    (line,) = refused(encryption_keys=value)
    assert re.search(f"^ENCRYPTION_KEYS: .*({problem})", line)
    assert "s3cret" not in line


@pytest.mark.parametrize("text", ['{"A": s3cret', "s3cret", '"s3cret"'])
def test_apps_that_are_not_json_are_refused(tmp_path: Path, text: str):
    (line,) = refused(env(tmp_path, f"OAUTH_APPS={text}"))
    assert "oauth_apps" in line.lower()
    assert "s3cret" not in line


def test_a_mistake_inside_an_app_is_named_by_its_place(tmp_path: Path):
    apps = {"AIOTT1": {"client_id": "id", "client_sekret": "s3cret", "redirect_uri": "localhost/callback"}}
    lines = refused(env(tmp_path, f"OAUTH_APPS={json.dumps(apps)}"))
    assert sorted(line.split(":")[0] for line in lines) == [
        "OAUTH_APPS.AIOTT1.CLIENT_SEKRET",
        "OAUTH_APPS.AIOTT1.REDIRECT_URI",
    ]
    assert "s3cret" not in "".join(lines)


@pytest.mark.parametrize(
    "address", ["https://exa mple.org/cb", "https://example.org:99999/cb", "http://[::g]/cb"]
)
def test_a_redirect_uri_that_no_browser_opens_is_refused(tmp_path: Path, address: str):
    apps = {"AIOTT1": {"client_id": "id", "redirect_uri": address}}
    (line,) = refused(env(tmp_path, f"OAUTH_APPS={json.dumps(apps)}"))
    assert "no browser can open this address" in line


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({}, None),
        ({"client_secret": None}, "needs its client_secret"),
        ({"client_secret": ""}, "needs its client_secret"),
        ({"scopes": ["tweet.read"]}, "has no scopes"),
        ({"kind": "oauth3"}, "'oauth2' or 'oauth1'"),
    ],
    ids=str,
)
def test_an_app_of_oauth1_signs_with_its_secret_and_has_no_scopes(
    changes: dict[str, Any], problem: str | None
):
    app = {"kind": "oauth1", "client_id": "id", "client_secret": "s3cret", "redirect_uri": "https://h/cb"}
    settings = {"oauth_apps": {"OLD1": app | changes}}
    if problem is None:
        assert load_settings(None, **settings).oauth_apps["OLD1"].kind == "oauth1"
        return
    (line,) = refused(**settings)
    assert line.startswith("OAUTH_APPS.OLD1")
    assert problem in line
    assert "s3cret" not in line


def test_unknown_name_in_the_file_is_reported(tmp_path: Path):
    (line,) = refused(env(tmp_path, "MAX_CONCURENT_PROFILES=3"))
    assert line.startswith("MAX_CONCURENT_PROFILES: no such setting")


def test_misspelt_environment_variable_is_reported(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GOLOGIN_API_TOKN", "s3cret")
    (line,) = refused()
    assert line.startswith("GOLOGIN_API_TOKN: no such setting")
    assert "s3cret" not in line


def test_other_programs_variables_are_left_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PGHOST", "somewhere")
    load_settings(None)


def test_the_environment_wins_over_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("PORT", "4321")
    assert load_settings(env(tmp_path, "PORT=1234")).port == 4321


@pytest.mark.parametrize("environment", ["staging", "production"])
def test_the_examples_placeholders_start_in_development_only(environment: str):
    (line,) = refused(ENV_EXAMPLE, environment=environment)
    for name in ("API_KEY", "GOLOGIN_API_TOKEN", "OAUTH_APPS.AIOTT1", "ENCRYPTION_KEYS"):
        assert name in line


def test_real_values_start_in_production():
    assert load_settings(None, **REAL).environment == "production"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("api_key", "change-me"),
        ("gologin_api_token", "change-me"),
        ("encryption_keys", DEVELOPMENT_KEYS),
        ("encryption_keys", f"k1:{KEY},{DEVELOPMENT_KEYS}"),
    ],
)
def test_single_placeholder_is_refused(name: str, value: str):
    (line,) = refused(**REAL | {name: value})
    assert name.upper() in line


def test_adspower_needs_no_gologin_token():
    own = REAL | {"gologin_api_token": "change-me", "profile_browser": "adspower"}
    assert load_settings(None, **own).environment == "production"


@pytest.mark.parametrize("placeholder", [{"client_id": "change-me"}, {"client_secret": "change-me"}], ids=str)
def test_single_placeholder_in_an_app_is_refused(placeholder: dict[str, str]):
    app = {"client_id": "id", "client_secret": "s", "redirect_uri": "https://example.org/cb"} | placeholder
    (line,) = refused(**REAL | {"oauth_apps": {"A": app}})
    assert "OAUTH_APPS.A" in line


@pytest.mark.parametrize("key", ["", "short"])
def test_a_bootstrap_key_that_can_be_guessed_is_refused(key: str):
    (line,) = refused(**REAL | {"api_key": key})
    assert line.startswith("API_KEY: must have at least 16 characters")


def test_no_secret_is_in_the_settings_text():
    app = {"client_id": "id", "client_secret": "s3cret-app", "redirect_uri": "https://example.org/cb"}
    settings = load_settings(None, **REAL | {"oauth_apps": {"A": app}})
    shown = f"{settings!r} {settings}"
    for secret in ("a-real-key-of-some-length", "a-real-token", REAL["encryption_keys"], "s3cret-app"):
        assert secret not in shown


def test_the_first_encryption_key_writes():
    keys = f"new:{generate_key()}, old:{generate_key()}"
    assert (
        load_settings(None, encryption_keys=keys).key_ring.encrypt("x", associated_data="").startswith("new:")
    )


def test_a_base_url_loses_its_last_slash():
    assert load_settings(None, x_api_url="https://api.example.org/").x_api_url == "https://api.example.org"


def test_a_session_may_run_as_long_as_an_attempt_with_a_person():
    fitting = {"profile_start_timeout": 60, "authorization_timeout": 120, "attended_timeout": 900}
    assert load_settings(None, **fitting, session_max_running=1080)
    with pytest.raises(SettingsError, match="SESSION_MAX_RUNNING must be at least 1080"):
        load_settings(None, **fitting, session_max_running=1079)


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        (
            "database_url",
            "postgresql+psycopg://user:pass@pl4nted@host/db",
            "DATABASE_URL: has more than one @",
        ),
        (
            "database_url",
            "postgresql+psycopg://user:pass@pl4n/ted@host/db",
            "DATABASE_URL: has more than one @",
        ),
        ("database_url", "postgresql+psycopg://user:pass@host:pl4nted/db", "DATABASE_URL: cannot be read"),
        ("rate_limit_storage", "redis://:pl4nted/1@host/0", "RATE_LIMIT_STORAGE: cannot be read"),
    ],
)
def test_a_password_that_breaks_its_url_is_not_taken_for_another_part(name: str, value: str, problem: str):
    """Errors name hosts and ports."""
    with pytest.raises(SettingsError, match=problem) as refused:
        load_settings(None, **{name: value})
    assert "pl4n" not in str(refused.value)


def test_no_secret_is_in_the_representation():
    given = {"database_url": "postgresql+psycopg://user:pl4nted@host/db", "api_key": "pl4nted-pl4nted-"}
    assert "pl4nted" not in repr(load_settings(None, **given))


def test_an_api_without_workers_needs_postgresql():
    with pytest.raises(SettingsError, match="SERVE_WORKERS=false needs PostgreSQL"):
        load_settings(None, serve_workers=False)
    settings = load_settings(None, serve_workers=False, database_url="postgresql+psycopg://localhost/x")
    assert not settings.serve_workers


def test_internal_address_that_other_machines_reach_needs_its_secret():
    for host in ("127.0.0.1", "::1", "localhost"):
        assert load_settings(None, internal_host=host).internal_secret is None
    (line,) = refused(internal_host="0.0.0.0")
    assert "INTERNAL_SECRET must be set" in line
    (line,) = refused(internal_secret="too-short")
    assert line.startswith("INTERNAL_SECRET: must have at least 32 characters")
    assert load_settings(None, internal_host="10.0.0.7", internal_secret="s" * 32).internal_secret


SINGLE_SIGN_ON: dict[str, Any] = {
    "oidc_issuer": "https://login.example.com/",
    "oidc_client_id": "the-service",
    "oidc_redirect_uri": "https://gologin.example.com/ui/sign-in/callback",
    "oidc_rights": {"admins": {"scopes": ["admin"]}},
}


def test_single_sign_on_is_whole_or_absent():
    assert load_settings(None, **REAL | SINGLE_SIGN_ON).oidc_issuer == "https://login.example.com/"
    assert load_settings(None, oidc_name="X", oidc_claim="roles", oidc_scopes=["openid"]).oidc_issuer is None
    for name in SINGLE_SIGN_ON:
        (line,) = refused(**{other: value for other, value in SINGLE_SIGN_ON.items() if other != name})
        assert f"single sign-on needs {name.upper()}, too" in line
    (line,) = refused(oidc_client_secret="a-secret")
    assert "needs OIDC_ISSUER, OIDC_CLIENT_ID, OIDC_REDIRECT_URI, OIDC_RIGHTS, too" in line


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"oidc_issuer": "http://login.example.com"}, "OIDC_ISSUER must start with https://"),
        ({"oidc_issuer": "login.example.com"}, "OIDC_ISSUER is no address"),
        ({"oidc_issuer": "https://login.example.com?a=b"}, "OIDC_ISSUER must have no user"),
        ({"oidc_issuer": "https://a:b@login.example.com"}, "OIDC_ISSUER must have no user"),
        (
            {"oidc_redirect_uri": "http://gologin.example.com/ui/sign-in/callback"},
            "OIDC_REDIRECT_URI must start",
        ),
        ({"oidc_redirect_uri": "https://gologin.example.com/"}, "must end with /ui/sign-in/callback"),
        ({"oidc_scopes": ["profile"]}, 'must contain "openid"'),
        ({"oidc_rights": {"admins": {"scopes": []}}}, "OIDC_RIGHTS.ADMINS.SCOPES"),
        ({"oidc_rights": {"admins": {"scopes": ["admin"], "apps": ["A"]}}}, "OIDC_RIGHTS.ADMINS.APPS"),
    ],
)
def test_mistake_in_single_sign_on_is_named(change: dict[str, Any], problem: str):
    (line,) = refused(**SINGLE_SIGN_ON | change)
    assert problem in line


def test_provider_without_tls_is_for_this_machine_in_development():
    local = SINGLE_SIGN_ON | {
        "oidc_issuer": "http://localhost:8080",
        "oidc_redirect_uri": "http://127.0.0.1:8000/ui/sign-in/callback",
    }
    assert load_settings(None, **local).oidc_issuer == "http://localhost:8080"
    (line,) = refused(**REAL | local)
    assert "OIDC_ISSUER must start with https://" in line


def test_placeholder_as_client_secret_is_refused_outside_development():
    (line,) = refused(**REAL | SINGLE_SIGN_ON | {"oidc_client_secret": "change-me"})
    assert "OIDC_CLIENT_SECRET" in line
