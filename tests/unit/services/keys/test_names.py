"""Names of API keys: none passes for the service, or for another script's word."""

import pytest

from app.services.keys.names import is_fit


@pytest.mark.parametrize(
    "name",
    [
        "self-healing",
        "Self-Healing",
        "SELF_HEALING",
        "self healing",
        "selfhealing",
        "self\u2010healing",
        "self\u2014healing",
        "self\u30fchealing",
        "se1f-hea1ing",
        "ｓｅｌｆ-ｈｅａｌｉｎｇ",
        "sеlf-healing",
        "sélf-healing",
        "self-healıng",
        "\U0001d5cc\U0001d5be\U0001d5c5\U0001d5bf-healing",
        "service",
        "SERVICE",
        "Serv1ce",
        "sеrvісе",
        "ꮪervice",
        "ｃｌｉ",
        "CLI",
        "сӏі",
        "ᏟᏞᎥ",
        "ᴄʟɪ",
        "c.l.i",
        "Bootstrap",
        "b00tstrap",
        "вootstrap",
        "bοotstrap",
        "",
        " ",
        " a",
        "a\n",
        "a\u200bb",
        "a\u202eb",
        "a\x1bb",
        "a" * 101,
        "ﬁnance",
    ],
)
def test_a_name_that_passes_for_another_is_refused(name: str):
    assert not is_fit(name)


@pytest.mark.parametrize(
    "name",
    [
        "billing",
        "Billing 2 (EU)",
        "[/x]",
        "self-healing of billing",
        "services",
        "client",
        "Bücher",
        "биллинг",
        "τιμολόγηση",
        "請求 API キー",
        "결제",
        "a" * 100,
    ],
)
def test_a_name_of_its_own_is_taken(name: str):
    assert is_fit(name)
