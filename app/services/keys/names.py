"""Names of API keys: a name stands in sessions, events and log lines, and must look like nobody else's there."""

import re
import unicodedata
from typing import Final

from app.models import ActorKind

BOOTSTRAP_NAME: Final = "bootstrap"
COMMAND_LINE_NAME: Final = "cli"
SERVICE_NAME: Final = "service"
REPAIRER_NAME: Final = "self-healing"
RESERVED: Final = (BOOTSTRAP_NAME, COMMAND_LINE_NAME, SERVICE_NAME, REPAIRER_NAME)
"""Actors of events that are no API keys."""

PERSON_WORD: Final = ActorKind.OIDC.value
"""First word of the names of people, who are no API keys: `oidc:<name>~<id>`."""

MAX_NAME: Final = 100
_FIRST_WORD: Final = re.compile(r"(?:[^\W_]|\|)*")

_LATIN_LETTER: Final = re.compile(
    r"LATIN (?:SMALL |CAPITAL )?LETTER (?:SMALL CAPITAL |DOTLESS |SCRIPT |OPEN |LONG |TURNED )*([A-Z])\b"
)
_EAST_ASIAN: Final = frozenset(("CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "HANGUL", "BOPOMOFO"))
"""Scripts that are written together, and beside Latin."""
_LOOK_ALIKES: Final = str.maketrans(
    {
        **dict(zip("авсԁеёһіїјӏкмнопѓгрѕтцуүѵԝхԛьꙇ", "abcdeehiijlkmhonrrpstuyyvwxqbi", strict=True)),
        **dict(zip("αβϲδεγηικνορςστυχωζ", "abcdeynikvopcotuxwz", strict=True)),
        **dict(zip("սոօհցզյքռեյլձ", "unohgqjpnejld", strict=True)),
        **dict(zip("ᏟᏞᎥᏚᎬᏙᏒᎻᎪᏴᏢᎷᎢᏦᎮᏀᎳᏃ", "clisevrhabpmtkhgwz", strict=True)),
        **dict(zip("ɑɩʟꮯꮮ", "ailcl", strict=True)),
        **dict.fromkeys("ー一ㅡ", ""),
    }
)
"""Letters of other scripts that look like Latin ones (Unicode Technical Standard 39, confusables)."""
_SAME_LOOK: Final = str.maketrans({"i": "l", "1": "l", "|": "l", "0": "o"})


def is_fit(name: str) -> bool:
    """Return whether a key may have this name: printable, normalized, of one script, unlike reserved and people's."""
    is_plain = name.isprintable() and 0 < len(name.strip()) == len(name) <= MAX_NAME
    # The first word of a letter's Unicode name is its script, for which Python has no property.
    scripts = {unicodedata.name(char, "UNNAMED").split()[0] for char in name if char.isalpha()}
    return (
        is_plain
        and unicodedata.is_normalized("NFKC", name)
        and len(scripts - _EAST_ASIAN) <= 1
        and skeleton(name) not in _RESERVED_SKELETONS
        and skeleton(_first_word(name)) != skeleton(PERSON_WORD)
    )


def skeleton(name: str) -> str:
    """Return what a name looks like: without case, accents, look-alike letters, blanks and punctuation."""
    folded = unicodedata.normalize("NFKC", name).casefold()
    plain = "".join(char for char in unicodedata.normalize("NFKD", folded) if not unicodedata.combining(char))
    latin = "".join(map(_latin, plain.translate(_LOOK_ALIKES)))
    return "".join(char for char in latin.translate(_SAME_LOOK) if char.isalnum())


def _first_word(name: str) -> str:
    match = _FIRST_WORD.match(name)
    return match[0] if match else ""


def _latin(char: str) -> str:
    if char.isascii() or not (match := _LATIN_LETTER.match(unicodedata.name(char, ""))):
        return char
    return match[1].lower()


_RESERVED_SKELETONS: Final = frozenset(map(skeleton, RESERVED))
