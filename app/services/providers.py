"""What the service knows of an OAuth provider: its endpoints, and how to read its consent page."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class ConsentPageRules:
    """How to read the consent page. Selectors are CSS, or XPath when they start with ``//``.

    Test ids and paths come before texts: texts are localised by the profile's language.
    """

    consent_button: str
    """The provider's own mark of the consent button."""
    fallback_buttons: tuple[str, ...]
    """In their order; looked at only when the page has settled without `consent_button`."""
    signed_in_handle: str
    error_detail: str
    login_button: str
    login_paths: tuple[str, ...]
    """Prefixes of the path of a page that asks for a login."""
    locked_paths: tuple[str, ...]
    human_check_texts: tuple[str, ...]
    """Lower case."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class OAuthProvider:
    authorize_url: str
    token_url: str
    revoke_url: str
    me_url: str
    consent_page: ConsentPageRules


def x_provider(*, web_url: str, api_url: str) -> OAuthProvider:
    """X, OAuth 2.0 with PKCE. Source: X's developer docs; the page as its web client builds it."""
    return OAuthProvider(
        authorize_url=f"{web_url}/i/oauth2/authorize",
        token_url=f"{api_url}/2/oauth2/token",
        revoke_url=f"{api_url}/2/oauth2/revoke",
        me_url=f"{api_url}/2/users/me",
        consent_page=ConsentPageRules(
            consent_button='[data-testid="OAuth_Consent_Button"]',
            fallback_buttons=(
                "//input[@id='allow']",
                "//input[@value='Authorize app']",
                "//button[contains(@class, 'submit')]",
                "//input[@type='submit']",
            ),
            signed_in_handle='[data-testid="UserCell"]',
            error_detail='[data-testid="OAuth_Consent_Error_Detail"]',
            login_button='[data-testid="OAuth_Consent_Log_In_Button"]',
            login_paths=("/i/flow/login", "/login", "/i/jf/onboarding/web"),
            locked_paths=("/account/access",),
            human_check_texts=("verify you are human", "confirm you are human", "are you a robot"),
        ),
    )
