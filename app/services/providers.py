"""What the service knows of an OAuth provider: its endpoints, and how to read its consent page."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ConsentPageRules:
    """How to read the consent page. Selectors are CSS, or XPath when they start with ``//`` or ``(``; empty: none.

    Test ids and paths come before texts: texts are localised by the profile's language.
    """

    consent_buttons: tuple[str, ...]
    """The provider's own marks of the consent button, in their order."""
    fallback_buttons: tuple[str, ...] = ()
    """In their order; looked at only when the page has settled without any of `consent_buttons`."""
    account_choices: str = ""
    """Elements of a page that asks which of the signed-in accounts to use; each names its account."""
    account_continue: str = ""
    """To press after choosing; empty: choosing is enough."""
    banner_buttons: tuple[str, ...] = ()
    """Dismiss what covers the page."""
    signed_in_handle: str = ""
    handle_pattern: str = r"@(\w{1,50})"
    """With one group: the handle in the text of `signed_in_handle`."""
    error_details: tuple[str, ...] = ()
    login_marks: tuple[str, ...] = ()
    login_paths: tuple[str, ...] = ()
    """Prefixes of the path of a page that asks for a login."""
    locked_paths: tuple[str, ...] = ()
    home_paths: tuple[str, ...] = ()
    """Where a person lands after logging in."""
    human_check_texts: tuple[str, ...] = ()
    """Lower case."""
    error_texts: tuple[str, ...] = ()
    """Lower case."""


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
            consent_buttons=('[data-testid="OAuth_Consent_Button"]',),
            fallback_buttons=(
                "//input[@id='allow']",
                "//input[@value='Authorize app']",
                "//button[contains(@class, 'submit')]",
                "//input[@type='submit']",
            ),
            signed_in_handle='[data-testid="UserCell"]',
            error_details=('[data-testid="OAuth_Consent_Error_Detail"]',),
            login_marks=('[data-testid="OAuth_Consent_Log_In_Button"]',),
            login_paths=("/i/flow/login", "/login", "/i/jf/onboarding/web"),
            locked_paths=("/account/access",),
            home_paths=("/home",),
            human_check_texts=("verify you are human", "confirm you are human", "are you a robot"),
        ),
    )
