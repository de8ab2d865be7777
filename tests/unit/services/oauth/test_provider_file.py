"""A provider that is described wrongly is told at the start, with file and line."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.config import SettingsError
from app.services.browser.consent_page import script_rules
from app.services.browser.consent_places import ConsentPlaces
from app.services.oauth.provider import ConsentPageRules, OAuthProvider
from app.services.oauth.provider_file import load_providers
from tests.fixtures.settings import MakeSettings

ROOT = Path(__file__).resolve().parents[4]

SHORTEST = """\
[plain]
authorize_url = "https://plain.example/authorize"
token_url = "https://api.plain.example/token"
me_url = "https://api.plain.example/me"
username_path = "user.login"
user_id_path = "user.uid"
consent_page.consent_buttons = ["button.allow"]
"""

Load = Callable[..., dict[str, OAuthProvider]]


@pytest.fixture
def load(make_settings: MakeSettings, tmp_path: Path) -> Load:
    path = tmp_path / "providers.toml"

    def load(text: str | bytes, **changes: Any) -> dict[str, OAuthProvider]:
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return load_providers(make_settings(providers_file=path, **changes))

    return load


def problems(load: Load, text: str | bytes, **changes: Any) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(text, **changes)
    return [re.sub(r"^.*/(providers\.toml:)", r"\1", line) for line in str(caught.value).splitlines()]


def test_x_is_the_only_provider_without_a_file(make_settings: MakeSettings):
    providers = load_providers(make_settings(x_api_url="https://api.example"))
    assert list(providers) == ["x"]
    assert providers["x"].token_url == "https://api.example/2/oauth2/token"


def test_shortest_description_has_defaults(load: Load):
    plain = load(SHORTEST)["plain"]
    assert (plain.name, plain.revoke_url, plain.client_auth) == ("plain", "", "basic")
    assert (plain.default_scopes, plain.scope_separator, plain.extra_authorize_params) == ((), " ", {})
    assert (plain.pkce, plain.refresh_tokens_rotate) == (True, True)
    assert plain.consent_page.consent_buttons == ("button.allow",)
    assert plain.consent_page.handle_pattern == r"@(\w{1,50})"
    json.dumps(
        script_rules(
            plain.consent_page,
            ConsentPlaces.from_rules(plain.authorize_url, plain.consent_page),
            "alice",
        )
    )


def test_the_example_is_read(make_settings: MakeSettings):
    providers = load_providers(make_settings(providers_file=ROOT / "providers.example.toml"))
    assert sorted(providers) == ["github", "plainbook", "reddit", "x"]


def test_the_page_on_providers_lists_every_key():
    page = (ROOT / "docs" / "providers.md").read_text()
    keys = {key for cls in (OAuthProvider, ConsentPageRules) for key in cls.__dataclass_fields__}
    assert [key for key in keys if f"`{key}`" not in page] == []


def test_a_table_extends_the_preset(load: Load):
    x = load("")["x"]
    mine = load(
        """
        [mine]
        extends = "x"
        default_scopes = ["users.read"]
        consent_page.banner_buttons = ["#bar button"]
        consent_page.home_paths = []
        consent_page.frame = "iframe"
        [theirs]
        extends = "mine"
        name = "Theirs"
        """
    )
    page, preset = mine["mine"].consent_page, x.consent_page
    assert page.banner_buttons == ("#bar button", *preset.banner_buttons)
    assert (page.consent_buttons, page.home_paths) == (preset.consent_buttons, preset.home_paths)
    assert (page.frame, preset.frame) == ("iframe", "")
    assert (mine["mine"].default_scopes, mine["mine"].name) == (("users.read",), "Twitter")
    assert (mine["mine"].oauth1, mine["mine"].token_url) == (x.oauth1, x.token_url)
    assert mine["theirs"].consent_page == page
    assert mine["theirs"].name == "Theirs"


def with_line(number: int, line: str) -> str:
    """`SHORTEST` with another line in the place of one of its own."""
    lines = SHORTEST.splitlines()
    lines[number - 1] = line
    return "\n".join(lines)


PAGE = "consent_page.consent_buttons = ['b']\nconsent_page."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[plain\n", "1: Expected ']' at the end of a table declaration"),
        ('[plain]\nname = "x', '2: Unterminated string|2: Expected .*"'),
        (f"{SHORTEST}[plain]\n", r"8: Cannot declare \('plain',\) twice"),
        (b"[plain]\n# \xff\n", "2: is not UTF-8 text"),
        ("plain = 3\n", "1: plain: must be a table"),
        (f"{SHORTEST}\n[x]\n", "9: x: is built in; choose another name"),
        (with_line(3, ""), "1: plain.token_url: is missing"),
        (with_line(7, ""), "1: plain.consent_page: is missing"),
        (with_line(7, "[plain.consent_page]"), "7: plain.consent_page.consent_buttons: is missing"),
        (with_line(7, "consent_page = 7"), "7: plain.consent_page: must be a table"),
        ("[mine]\nextends = 'y'\n", "1: mine: extends: must be one of x; a table must stand above"),
        ("[mine]\nextends = 7\n", "1: mine: extends: must be one of x"),
        ("[mine]\nextends = 'x'\npkce = 7\n", "3: mine.pkce: Input should be a valid boolean"),
        ("[mine]\nextends = 'x'\nconsent_page = 7\n", "3: mine.consent_page: must be a table"),
        (with_line(7, f"{PAGE}consent_paths = ['a/*']"), "8: .*consent_paths.0: must start with /"),
        (with_line(7, f"{PAGE}consent_urls = ['https://u@a/b']"), "8: .*consent_urls.0: .* without user"),
        (with_line(7, f"{PAGE}consent_urls = ['https://a/b?c']"), "8: .*consent_urls.0: must be an http"),
        (with_line(7, f"{PAGE}provider_origins = ['https://a/b']"), "8: .*provider_origins.0: .* alone"),
        (SHORTEST + 'tokn_url = ""', "8: plain.tokn_url: no such key"),
        (SHORTEST + "consent_page.buttons = []", "8: plain.consent_page.buttons: no such key"),
        (SHORTEST + "pkce = 'yes'", "8: plain.pkce: Input should be a valid boolean"),
        (SHORTEST + "name = 7", "8: plain.name: Input should be a valid string"),
        (SHORTEST + "default_scopes = 'a b'", "8: plain.default_scopes: Input should be a valid tuple"),
        (SHORTEST + "default_scopes = [\n 'a',\n 7]", "8: plain.default_scopes.1: Input .* valid string"),
        (SHORTEST + "client_auth = 'header'", "8: plain.client_auth: Input should be 'basic' or 'body'"),
        (with_line(2, "authorize_url = 'plain.example'"), "2: plain.authorize_url: must be an http"),
        (with_line(2, "authorize_url = 'https://'"), "2: plain.authorize_url: must be an http"),
        (with_line(3, "token_url = 'https://a/b#c'"), "3: plain.token_url: must be an http"),
        (with_line(4, "me_url = ''"), "4: plain.me_url: must be an http"),
        (SHORTEST + "revoke_url = 'ftp://a'", "8: plain.revoke_url: must be an http"),
        (with_line(5, "username_path = 'user..login'"), "5: plain.username_path: must be a path"),
        (SHORTEST + "extra_authorize_params = { state = 'x' }", "8: .*may not hold state"),
        (with_line(7, "consent_page.consent_buttons = ['']"), "7: .*buttons.0: is an empty selector"),
        (with_line(7, "consent_page.consent_buttons = [' ']"), "7: .*buttons.0: is an empty selector"),
        (with_line(7, "consent_page.consent_buttons = ['a', 'b[c']"), "7: .*buttons.1: .*']' is missing"),
        (with_line(7, f"{PAGE}fallback_buttons = ['//a[(b])']"), "8: .*'\\]' closes nothing"),
        (with_line(7, f"{PAGE}banner_buttons = ['a)']"), "8: .*banner_buttons.0: .*'\\)' closes nothing"),
        (with_line(7, f"{PAGE}account_choices = '[a=\"b]'"), '8: .*account_choices: .*a " is not closed'),
        (with_line(7, f"{PAGE}signed_in_handle = ' '"), "8: .*signed_in_handle: is an empty selector"),
        (with_line(7, f"{PAGE}handle_pattern = '(a'"), "8: .*handle_pattern: is not a regular expression"),
        (with_line(7, f"{PAGE}handle_pattern = 'a'"), "8: .*handle_pattern: must have exactly one group"),
        (with_line(7, f"{PAGE}handle_pattern = '(?P<a>b)'"), "8: .*handle_pattern: must have exactly one"),
        (with_line(7, f"{PAGE}handle_pattern = '(?i)(b)'"), "8: .*handle_pattern: must have exactly one"),
        (with_line(7, f"{PAGE}error_texts = ['Sorry']"), "8: .*error_texts.0: must be lower case"),
        (with_line(7, f"{PAGE}human_check_texts = ['']"), "8: .*human_check_texts.0: must be lower case"),
        (with_line(7, f"{PAGE}login_paths = ['login']"), "8: .*login_paths.0: must start with /"),
        (
            with_line(7, f"{PAGE}login_paths = ['/login/']"),
            "8: .*login_paths.0: must start with /, not end with it",
        ),
        (with_line(7, f"{PAGE}login_paths = ['/a?b=c']"), "8: .*login_paths.0: .*hold no"),
        (with_line(7, f"{PAGE}handle_pattern = '@(\\w{{,50}})'"), "8: .*handle_pattern: .*JavaScript"),
        (with_line(7, f"{PAGE}handle_pattern = '@(\\w+)\\Z'"), "8: .*handle_pattern: .*JavaScript"),
        (
            with_line(7, f"{PAGE}error_details = ['/html/body/p']"),
            "8: .*error_details.0: .*must start with //",
        ),
    ],
)
def test_mistake_is_reported_with_its_line(load: Load, text: str | bytes, expected: str):
    (line,) = problems(load, text)
    assert re.match(f"providers.toml:(?:{expected})", line)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("[a-z", "is not a regular expression"),
        ("a{1,99999999999999999999}", "is not a regular expression"),
        ("a" * 129, "must have 128 characters at most"),
        ("(?u)[a-z]+", "must hold no flags"),
        ("(?x)(a+) +b", "must hold no flags"),
        ("(?i:a)", "must hold no flags"),
        ("(?-i:a)", "must hold no flags"),
        ("(a+)+", "must repeat no group"),
        ("(?:a|b)*c", "must repeat no group"),
        ("(a|aa){2,}", "must repeat no group"),
        ("a*a*a*a*a*b", "must repeat no group, .* and have 4 of"),
        ("(a|a)(a|a)(a|a)(a|a)(a|a)b", "must repeat no group, .* and have 4 of"),
        ("a?a?a?a?a?aaaaa", "must repeat no group, .* and have 4 of"),
    ],
)
def test_a_handle_rule_that_cannot_be_used_is_refused(load: Load, rule: str, expected: str):
    (line,) = problems(load, SHORTEST + f"handle_rule = '{rule}'")
    assert re.match(f"providers.toml:8: plain.handle_rule: {expected}", line)


GITHUB = "[a-z0-9](?:[a-z0-9-]{0,37}[a-z0-9])?"


@pytest.mark.parametrize(
    ("rule", "handle", "fits"),
    [
        ("", "ann.lee@mail.example", True),
        (GITHUB, "ann-lee", True),
        (GITHUB, "ann-", False),
        (GITHUB, "x" * 40, False),
        (r"\w{1,15}", "ann_lee", True),
        (r"\w{1,15}", "ann_lee.x", False),
        (r"\w{1,15}", "xann_lee_has_16c", False),
        ("[A-Z]+", "ann", True),
        (r"[\]*+?{|(]+", "+++", True),
        ("ann|bob", "bobby", False),
    ],
)
def test_a_handle_must_match_its_providers_rule_as_a_whole(load: Load, rule: str, handle: str, fits: bool):
    problem = load(SHORTEST + f"handle_rule = '{rule}'")["plain"].handle_problem(handle)
    sentence = f"must be a handle of plain, by the provider's handle_rule: {rule}"
    assert problem == (None if fits else sentence)


@pytest.mark.parametrize(
    "selector",
    [
        '[data-testid="a)b"]',
        "a:not(.b):has(> [c='d'])",
        "(//button[contains(@class, 'a')])[1]",
        r"a\[b\]",
        r"a\:hover",
    ],
)
def test_selectors_that_pages_need_are_accepted(load: Load, selector: str):
    text = with_line(7, f"consent_page.consent_buttons = ['''{selector}''']")
    assert load(text)["plain"].consent_page.consent_buttons == (selector,)


@pytest.mark.parametrize("pattern", [r"as ([\w.-]+)", r"(?:a|b)(\w+)(?=c)", r"(?<!x)(y)"])
def test_patterns_that_javascript_reads_too_are_accepted(load: Load, pattern: str):
    text = SHORTEST + f"consent_page.handle_pattern = '''{pattern}'''"
    assert load(text)["plain"].consent_page.handle_pattern == pattern


def test_all_mistakes_are_reported_in_their_order(load: Load):
    text = with_line(2, "authorize_url = 7") + "\npkce = 7\nunknown = 7\nname = 7\n[x]\n[empty]\n"
    found = [line.split(": ")[0] for line in problems(load, text)]
    assert found[:5] == [f"providers.toml:{number}" for number in (2, 8, 9, 10, 11)]
    assert set(found[5:]) == {"providers.toml:12"}


def test_missing_file_is_reported(make_settings: MakeSettings, tmp_path: Path):
    for path in (tmp_path / "missing.toml", tmp_path):
        with pytest.raises(SettingsError, match=f"^PROVIDERS_FILE: {path} cannot be read: .+$"):
            load_providers(make_settings(providers_file=path))


def test_app_of_an_unknown_provider_is_refused(load: Load):
    apps = {
        name: {"client_id": "id", "redirect_uri": "https://a.example/cb", "provider": provider}
        for name, provider in {"A": "plain", "B": "s3cret", "C": "X"}.items()
    }
    assert problems(load, SHORTEST, oauth_apps=apps) == [
        "OAUTH_APPS.B.PROVIDER: no such provider; there are: x, plain",
        "OAUTH_APPS.C.PROVIDER: no such provider; there are: x, plain",
    ]


OAUTH1 = """\
[plain.oauth1]
request_token_url = "https://api.plain.example/request_token"
authorize_url = "https://plain.example/authorize1"
access_token_url = "https://api.plain.example/access_token"
"""


def test_an_app_of_oauth1_needs_a_provider_with_its_endpoints(load: Load):
    own = {"kind": "oauth1", "client_id": "id", "client_secret": "s", "redirect_uri": "https://a.example/cb"}
    apps = {"A": own, "B": own | {"provider": "plain"}}
    (line,) = problems(load, SHORTEST, oauth_apps=apps)
    assert line == "OAUTH_APPS.B.KIND: no OAuth 1.0a endpoints are known; describe them in [plain.oauth1]"
    plain = load(SHORTEST + OAUTH1, oauth_apps=apps)["plain"]
    assert plain.oauth1 is not None
    assert (plain.oauth1.authorize_url, plain.oauth1.revoke_url) == ("https://plain.example/authorize1", "")


def test_a_mistake_in_the_endpoints_of_oauth1_has_its_line(load: Load):
    text = SHORTEST + OAUTH1.replace('"https://plain.example/authorize1"', '"plain.example"')
    (line,) = problems(load, text)
    assert line.startswith("providers.toml:10: plain.oauth1.authorize_url: must be an http://")
