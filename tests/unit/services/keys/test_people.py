"""People of single sign-on: their names, their rights, and mistakes in the settings."""

from typing import Any

import pytest

from app.config import SettingsError
from app.models import ActorKind
from app.services.keys.names import MAX_NAME, is_fit
from app.services.keys.people import People
from app.services.keys.service import Scope
from app.services.shared.access import AccessScope
from tests.fixtures.settings import MakeSettings

SETTINGS: dict[str, Any] = {
    "oidc_issuer": "https://login.example.com",
    "oidc_client_id": "a-client",
    "oidc_redirect_uri": "https://gologin.example.com/ui/sign-in/callback",
}
RIGHTS: dict[str, Any] = {
    "admins": {"scopes": ["admin"]},
    "helpers": {"scopes": ["evidence"], "api_apps": ["AIOTT1"], "account_patterns": ["@Shop_*"]},
}


def people_of(make_settings: MakeSettings, rights: Any = RIGHTS, **changes: Any) -> People:
    people = People.from_settings(make_settings(**SETTINGS, oidc_rights=rights, **changes))
    assert people is not None
    return people


def test_first_value_of_the_settings_counts(make_settings: MakeSettings):
    people = people_of(make_settings)
    person = people.person_of({"sub": "1", "groups": ["helpers", "admins", "others", 1]})
    assert person.values == ("admins", "helpers")
    assert people.caller_of(person).scopes == {Scope.ADMIN}
    helper = people.caller_of(people.person_of({"sub": "1", "groups": "helpers"}))
    assert helper.scopes == {Scope.EVIDENCE}
    assert helper.access == AccessScope.from_lists(["AIOTT1"], ["shop_*"])
    assert (helper.kind, helper.key_id, helper.person_id) == (ActorKind.OIDC, None, person.id)


@pytest.mark.parametrize(
    ("claim", "claims"),
    [
        ("realm_access.roles", {"realm_access": {"roles": ["admins"]}}),
        ("https://example.com/roles", {"https://example.com/roles": ["admins"]}),
        ("hd", {"hd": "admins"}),
    ],
)
def test_claim_has_any_name_and_may_be_inside_another(
    make_settings: MakeSettings, claim: str, claims: dict[str, Any]
):
    assert people_of(make_settings, oidc_claim=claim).person_of({"sub": "1", **claims}).values == ("admins",)


@pytest.mark.parametrize(
    ("verified", "values"), [(True, ("admins",)), (False, ()), (None, ()), ("true", ())], ids=str
)
def test_address_has_rights_only_when_the_provider_has_checked_it(
    make_settings: MakeSettings, verified: Any, values: tuple[str, ...]
):
    people = people_of(make_settings, oidc_claim="email")
    claims = {"sub": "1", "email": "admins", "email_verified": verified}
    assert people.person_of(claims).values == values


@pytest.mark.parametrize(
    ("claims", "shown"),
    [
        ({"email": "a@example.com", "name": "Anna"}, "a@example.com"),
        ({"email": "a@example.com", "email_verified": False, "preferred_username": "anna"}, "anna"),
        ({"email": 1, "name": "Anna  B"}, "Anna B"),
        ({"name": "\u202eanna\n~00000000\x00\ud800"}, "anna 00000000"),
        ({"name": "\u200b"}, "the-subject"),
        ({"name": "x" * 5_000}, "x" * 60),
    ],
)
def test_name_is_one_short_line_and_unlike_a_key(
    make_settings: MakeSettings, claims: dict[str, Any], shown: str
):
    people = people_of(make_settings)
    person = people.person_of({"sub": "the-subject", **claims})
    assert person.name == f"oidc:{shown}~{person.id[:8]}"
    assert len(person.name) <= MAX_NAME
    assert not is_fit(person.name)
    namesake = people.person_of({"sub": "another", **claims})
    assert namesake.name != person.name


@pytest.mark.parametrize(
    "name", ["oidc", "oidc:anna~12345678", "OIDC anna", "0idc:a", "o|dc:a", "οіdс:a", "oidc∶a"]
)
def test_no_key_is_named_like_a_person(name: str):
    assert not is_fit(name)


@pytest.mark.parametrize("name", ["old crm", "oidcs", "my oidc", "video-cutter"])
def test_other_names_are_free(name: str):
    assert is_fit(name)


@pytest.mark.parametrize(
    ("rights", "problem"),
    [
        (
            {"admins": {"scopes": ["root"]}},
            "OIDC_RIGHTS.admins.scopes: no scope 'root'; there are: authorize",
        ),
        (
            {"admins": {"scopes": ["admin"], "api_apps": ["NONE"]}},
            "OIDC_RIGHTS.admins.api_apps: no app 'NONE'",
        ),
        ({"a": {"scopes": ["admin"], "account_patterns": ["?"]}}, "OIDC_RIGHTS.a.account_patterns: must be"),
        (
            {"a": {"scopes": ["admin"], "account_patterns": ["a"] * 21}},
            "OIDC_RIGHTS.a.account_patterns: at most",
        ),
        ({"": {"scopes": ["admin"]}}, "OIDC_RIGHTS: a value of the claim has 1 to 255 characters"),
    ],
)
def test_mistake_in_the_rights_is_named(make_settings: MakeSettings, rights: Any, problem: str):
    with pytest.raises(SettingsError) as error:
        people_of(make_settings, rights)
    assert problem in str(error.value)


def test_without_a_provider_there_are_no_people(settings: Any):
    assert People.from_settings(settings) is None
