"""Acts of a person: what is read, what becomes of it, and what is refused without a word of it."""

import json
from typing import Any

import pytest

from app.clients.browsers.inputs import InputRefusedError, read_act


def commands(**act: Any) -> list[tuple[str, dict[str, Any]]]:
    return list(read_act(json.dumps(act)).commands(800, 600))


def key(name: str, **more: Any) -> list[dict[str, Any]]:
    return [params for _, params in commands(type="key", event="down", key=name, **more)]


def test_place_is_a_share_of_the_view():
    ((_, params),) = commands(type="wheel", x=1, y=0.5, dy=-120)
    assert (params["x"], params["y"], params["deltaY"]) == (800, 300, -120)
    ((method, touch),) = commands(type="touch", event="start", points=[{"id": 0, "x": 0.25, "y": 1.0}])
    assert (method, touch["touchPoints"]) == ("Input.dispatchTouchEvent", [{"id": 0, "x": 200, "y": 600}])


def test_keys_write_their_character_or_do_what_they_are_named_for():
    (letter,) = key("ü")
    assert (letter["type"], letter["text"]) == ("keyDown", "ü")
    (enter,) = key("Enter")
    assert (enter["text"], enter["windowsVirtualKeyCode"]) == ("\r", 13)
    (back,) = key("Backspace")
    assert "text" not in back
    (select_all,) = key("a", modifiers=2)
    assert "text" not in select_all


@pytest.mark.parametrize("letter", ["t", "w", "n", "v", "c", "x", "I", "1", "+"])
def test_shortcuts_of_the_window_and_of_the_clipboard_are_not_pressed(letter: str):
    assert key(letter, modifiers=2) == key(letter, modifiers=4) == []


@pytest.mark.parametrize(
    "act",
    [
        {"type": "Page.navigate", "url": "x"},
        {"type": "key", "event": "down", "key": "F12"},
        {"type": "key", "event": "down", "key": "BrowserBack"},
        {"type": "key", "event": "down", "key": "\x00"},
        {"type": "key", "event": "down", "key": "a", "code": "../x"},
        {"type": "key", "event": "down", "key": "a", "modifiers": 16},
        {"type": "mouse", "event": "down", "x": -0.1, "y": 0},
        {"type": "mouse", "event": "down", "x": "0.5", "y": 0},
        {"type": "mouse", "event": "down", "x": 0, "y": 0, "button": "back"},
        {"type": "mouse", "event": "down", "x": 0, "y": 0, "method": "Browser.close"},
        {"type": "wheel", "x": 0, "y": 0, "dy": 1e9},
        {"type": "text", "text": ""},
        {"type": "text", "text": "x" * 10_001},
        {"type": "touch", "event": "start", "points": [{"id": 0, "x": 0, "y": 0}] * 6},
        ["mouse"],
        None,
    ],
)
def test_what_is_no_act_is_refused(act: object):
    with pytest.raises(InputRefusedError):
        read_act(json.dumps(act))


@pytest.mark.parametrize("text", ["[" * 60_000, "x" * 70_000, '{"type":"text","text":"typed-secret"', "NaN"])
def test_refusal_quotes_nothing(text: str):
    with pytest.raises(InputRefusedError) as raised:
        read_act(text)
    assert raised.value.__cause__ is None
    assert "typed-secret" not in str(raised.value)
