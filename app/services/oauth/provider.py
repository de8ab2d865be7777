"""Description of an OAuth provider: its endpoints, and how to read its consent page."""

import re
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, ConfigDict, Field, StrictBool
from pydantic.dataclasses import dataclass

from app.clients.oauth.oauth1 import OAuth1Endpoints
from app.clients.oauth.oauth2 import EndpointUrl, ProviderApi
from app.clients.oauth.refusals import ErrorRules
from app.clients.oauth.token_answers import MAX_TOKEN_LIFE

X: Final = "x"
"""Name of the preset in an app's settings."""

_OWN_PARAMETERS: Final = frozenset(
    (
        "response_type",
        "client_id",
        "redirect_uri",
        "scope",
        "state",
        "code_challenge",
        "code_challenge_method",
    )
)
_MAX_RULE: Final = 128
"""Characters."""
_MAX_CHOICES: Final = 4
"""Quantifiers and alternatives: with more, a match can take seconds to fail."""
_ESCAPE_OR_SET: Final = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL)
_REPEATED_GROUP: Final = re.compile(r"\)[*+{]")
_CLOSING: Final = {"(": ")", "[": "]", "{": "}"}
_INLINE_FLAGS: Final = re.compile(r"\(\?[aiLmsux-]")
_HANDLE_FLAGS: Final = re.ASCII | re.IGNORECASE
_PYTHON_ONLY: Final = re.compile(r"\(\?(?![:=!]|<[=!])|\\[AZ]|\{,|[*+?}]\+")
"""Named groups, flags, anchors and quantifiers as JavaScript does not read them."""


def _selector(value: str) -> str:
    value = value.strip()
    if not value:
        raise ValueError("is an empty selector")
    if value.startswith("/") and not value.startswith("//"):
        raise ValueError("is no selector: an XPath must start with //")
    if problem := _unbalanced(value):
        raise ValueError(f"is no selector: {problem}")
    return value


def _unbalanced(selector: str) -> str | None:
    """Return the fault of the quotes and brackets, as CSS and XPath both have them."""
    open_brackets: list[str] = []
    quote = ""
    for char in re.sub(r"\\.", "", selector):
        if quote:
            quote = "" if char == quote else quote
        elif char in "\"'":
            quote = char
        elif char in _CLOSING:
            open_brackets.append(_CLOSING[char])
        elif char in _CLOSING.values() and (not open_brackets or open_brackets.pop() != char):
            return f"'{char}' closes nothing"
    if quote:
        return f"a {quote} is not closed"
    return f"'{open_brackets[-1]}' is missing" if open_brackets else None


def _not_empty(value: tuple[str, ...]) -> tuple[str, ...]:
    if not value:
        raise ValueError("must name one button at least")
    return value


def _handle_pattern(value: str) -> str:
    try:
        groups = re.compile(value).groups
    except re.error as error:
        raise ValueError(f"is not a regular expression: {error}") from None
    if groups != 1 or _PYTHON_ONLY.search(value):
        raise ValueError(
            "must have exactly one group, (...), and nothing that JavaScript reads otherwise: "
            "names, flags, \\A, \\Z, {,n}"
        )
    return value


def _handle_rule(value: str) -> str:
    if len(value) > _MAX_RULE:
        raise ValueError(f"must have {_MAX_RULE} characters at most")
    if _INLINE_FLAGS.search(value):
        raise ValueError("must hold no flags, (?i): it is matched with ASCII and IGNORECASE")
    try:
        re.compile(value, _HANDLE_FLAGS)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"is not a regular expression: {error}") from None
    syntax = _ESCAPE_OR_SET.sub("x", value).replace("(?", "(")
    if _REPEATED_GROUP.search(syntax) or sum(map(syntax.count, "*+?{|")) > _MAX_CHOICES:
        raise ValueError(
            f"must repeat no group, (...)+, and have {_MAX_CHOICES} of * + ? {{}} | at most: "
            "some handles would take too long to match"
        )
    return value


def _lower_case(value: str) -> str:
    if not value.strip() or value != value.lower():
        raise ValueError("must be lower case and not empty")
    return value


def _path(value: str) -> str:
    if not value.startswith("/") or (len(value) > 1 and value.endswith("/")) or set(value) & set("?#"):
        raise ValueError("must start with /, not end with it, and hold no ? or #")
    return value


def _consent_path(value: str) -> str:
    return value if value == "/*" else _path(value.removesuffix("/*")) and value


def _consent_url(value: str) -> str:
    parts = urlsplit(value)
    if (
        parts.scheme not in ("http", "https")
        or not parts.hostname
        or parts.username
        or set(value) & set("?#")
    ):
        raise ValueError("must be an http:// or https:// address without user, ? and #")
    return value


def _origin(value: str) -> str:
    if urlsplit(_consent_url(value)).path:
        raise ValueError("must be scheme and host alone, as https://login.example")
    return value


def _extra_parameters(value: dict[str, str]) -> dict[str, str]:
    if reserved := sorted(_OWN_PARAMETERS & value.keys()):
        raise ValueError(f"may not hold {', '.join(reserved)}: the service sets them")
    return value


_Selector = Annotated[str, AfterValidator(_selector)]
_OptionalSelector = Annotated[str, AfterValidator(lambda value: _selector(value) if value else value)]
_HandleRule = Annotated[str, AfterValidator(_handle_rule)]
_Text = Annotated[str, AfterValidator(_lower_case)]
_Path = Annotated[str, AfterValidator(_path)]
_ConsentPath = Annotated[str, AfterValidator(_consent_path)]
_ConsentUrl = Annotated[str, AfterValidator(_consent_url)]
_Origin = Annotated[str, AfterValidator(_origin)]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class ConsentPageRules:
    """Rules to read the consent page. Selectors are CSS, or XPath when they start with ``//`` or ``(``.

    Empty: the page has no such thing. Test ids and paths come before texts: texts are localised by the profile's
    language.

    Nothing is pressed outside the consent page, which is `authorize_url`'s origin and path and what `consent_paths` and
    `consent_urls` add; banners and account choices are pressed on the provider's origins only. What users write is no
    fact: an app may be called "Verify you are human".
    """

    consent_buttons: Annotated[tuple[_Selector, ...], AfterValidator(_not_empty)]
    """The provider's own marks of the consent button, in their order; pressed when visible and enabled."""
    fallback_buttons: tuple[_Selector, ...] = ()
    """Buttons in their order; looked at only when the page has settled without any of `consent_buttons`.

    A guess: the button's form must be sent to the consent page, and ask for nothing to be typed.
    """
    consent_paths: tuple[_ConsentPath, ...] = ()
    """Further paths of the consent page on `authorize_url`'s origin; ``/*`` at the end: all below."""
    consent_urls: tuple[_ConsentUrl, ...] = ()
    """Consent pages of other origins, whole addresses; these origins are the provider's, too."""
    provider_origins: tuple[_Origin, ...] = ()
    """Further origins that are the provider's: where it asks for a login or an account."""
    frame: _OptionalSelector = ""
    """The iframe that holds the consent; its document must be of the provider's origins."""
    shadow_host: _OptionalSelector = ""
    """The element in whose open shadow root the consent is; CSS selectors are looked for there, too."""
    checkboxes: tuple[_Selector, ...] = ()
    """Ticked before the consent button is pressed."""
    account_choices: _OptionalSelector = ""
    """The accounts on a page that asks which one to use; text, ``data-*``, ``value`` or ``aria-label`` names each."""
    account_continue: _OptionalSelector = ""
    """Pressed after the choice; empty: choosing is enough."""
    banner_buttons: tuple[_Selector, ...] = ()
    """Buttons that dismiss a cookie banner that covers the page."""
    signed_in_handle: _OptionalSelector = ""
    """The cell that names who is signed in, perhaps with a display name, which is no handle."""
    handle_pattern: Annotated[str, AfterValidator(_handle_pattern)] = r"@(\w{1,50})"
    """Pattern whose one group is the handle in the text of `signed_in_handle`, for JavaScript and Python alike."""
    user_texts: tuple[_Selector, ...] = ()
    """Elements whose text users write, an app's name: no `human_check_texts` or `error_texts` are looked for there."""
    error_details: tuple[_Selector, ...] = ()
    login_marks: tuple[_Selector, ...] = ()
    """Visible on a page that asks for a login."""
    login_paths: tuple[_Path, ...] = ()
    """Prefixes of the path of a page that asks for a login."""
    locked_paths: tuple[_Path, ...] = ()
    """Paths of a locked or suspended account."""
    human_check_paths: tuple[_Path, ...] = ()
    """Paths of a challenge that a person must pass."""
    home_paths: tuple[_Path, ...] = ()
    """Paths on which a signed-in person lands after logging in."""
    human_check_texts: tuple[_Text, ...] = ()
    error_texts: tuple[_Text, ...] = ()


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class OAuthProvider(ProviderApi):
    """An OAuth 2.0 provider, as it needs no code of its own."""

    authorize_url: EndpointUrl
    consent_page: ConsentPageRules
    default_scopes: tuple[str, ...] = ()
    """Scopes of apps that name none."""
    scope_separator: str = Field(default=" ", min_length=1)
    extra_authorize_params: Annotated[dict[str, str], AfterValidator(_extra_parameters)] = Field(
        default_factory=dict
    )
    default_token_life: float = Field(default=3600.0, gt=0, le=MAX_TOKEN_LIFE)
    """Seconds after which a token is refreshed whose answer names no lifetime."""
    refresh_tokens_rotate: StrictBool = True
    """A refresh answers with a new refresh token; an answer without one is worth a line in the log."""
    pkce: StrictBool = True
    """RFC 7636, S256."""
    oauth1: OAuth1Endpoints | None = None
    """Endpoints of OAuth 1.0a; None: no app of kind ``oauth1`` may be of this provider."""
    issuer: str = ""
    """The ``iss`` that every callback carries (RFC 9207); empty: it sends none."""
    handle_rule: _HandleRule = ""
    """A regular expression that a handle must match as a whole, in any case; empty: any handle."""

    def handle_problem(self, handle: str) -> str | None:
        """Return why nobody of the provider can have the normalized handle; None when somebody can."""
        if not self.handle_rule or re.fullmatch(self.handle_rule, handle, _HANDLE_FLAGS):
            return None
        return f"must be a handle of {self.name}, by the provider's handle_rule: {self.handle_rule}"


def x_provider(*, web_url: str, api_url: str) -> OAuthProvider:
    """X, OAuth 2.0 with PKCE, and 1.0a. Source: X's developer docs; the page as its web client builds it."""
    return OAuthProvider(
        name="Twitter",
        authorize_url=f"{web_url}/i/oauth2/authorize",
        token_url=f"{api_url}/2/oauth2/token",
        revoke_url=f"{api_url}/2/oauth2/revoke",
        me_url=f"{api_url}/2/users/me",
        username_path="data.username",
        user_id_path="data.id",
        default_token_life=7200.0,
        default_scopes=("tweet.read", "users.read", "offline.access"),
        errors=ErrorRules(
            refresh_refused=("invalid_request",),
            client_refused=("client-not-enrolled", "client-forbidden", "missing required parameter"),
            account_refused=("user-suspended", "64", "326", "temporarily locked"),
        ),
        oauth1=OAuth1Endpoints(
            request_token_url=f"{api_url}/oauth/request_token",
            authorize_url=f"{api_url}/oauth/authorize",
            access_token_url=f"{api_url}/oauth/access_token",
            revoke_url=f"{api_url}/1.1/oauth/invalidate_token",
        ),
        consent_page=ConsentPageRules(
            consent_buttons=('[data-testid="OAuth_Consent_Button"]', "input#allow"),
            fallback_buttons=(
                "//input[@id='allow']",
                "//input[@value='Authorize app']",
                "//button[contains(@class, 'submit')]",
                "//input[@type='submit']",
            ),
            # OAuth 1.0a's page is on the API's host or on the site's.
            consent_urls=(f"{web_url}/oauth/authorize", f"{api_url}/oauth/authorize"),
            # The cookie bar: "Accept all cookies" comes first, "Refuse non-essential cookies" last.
            banner_buttons=("(//*[@data-testid='BottomBar']//*[self::button or @role='button'])[last()]",),
            signed_in_handle='[data-testid="UserCell"]',
            error_details=('[data-testid="OAuth_Consent_Error_Detail"]',),
            # OAuth 1.0a's page asks for the login itself, with the same button.
            login_marks=('[data-testid="OAuth_Consent_Log_In_Button"]', "input#username_or_email"),
            login_paths=("/i/flow/login", "/login", "/i/jf/onboarding/web"),
            locked_paths=("/account/access", "/account/suspended"),
            human_check_paths=("/account/login_challenge", "/account/login_verification"),
            home_paths=("/home",),
            human_check_texts=("verify you are human", "confirm you are human", "are you a robot"),
        ),
    )
