"""Acts of a person in a browser's tab: read within limits, and turned into commands of the DevTools protocol.

Source: https://chromedevtools.github.io/devtools-protocol/tot/Input/. Nothing else than these acts reaches the browser.
No error here quotes what a person types.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator

MAX_ACT_BYTES: Final = 64 * 1024
"""Size limit of one act, as JSON."""
_MAX_TEXT: Final = 10_000
_CONTROL: Final = 2 | 4
"""Modifiers of shortcuts: Ctrl and Meta."""
_SHORTCUTS: Final = frozenset("azy")
"""Letters that may be pressed with Ctrl or Meta: others belong to the browser's window or the machine's clipboard."""
_NAMED_KEYS: Final = {
    "Backspace": 8, "Tab": 9, "Enter": 13, "Shift": 16, "Control": 17, "Alt": 18, "Escape": 27, "PageUp": 33,
    "PageDown": 34, "End": 35, "Home": 36, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40,
    "Delete": 46, "Meta": 91,
}  # fmt: skip
"""Codes of keys that write no character, as Windows numbers them."""
_MODIFIER_KEYS: Final = frozenset({"Shift", "Control", "Alt", "Meta"})

Command = tuple[str, dict[str, Any]]

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
"""Place on the frame: 0 is its left or upper edge, 1 the other one."""
Modifiers = Annotated[int, Field(ge=0, le=15)]
"""Alt 1, Ctrl 2, Meta 4, Shift 8."""


class InputRefusedError(ValueError):
    """The message is no act of these."""


class _Act(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)

    def commands(self, width: float, height: float) -> Iterator[Command]:
        """Yield the commands of the act, in a view of this size (CSS pixels)."""
        raise NotImplementedError


class MouseAct(_Act):
    type: Literal["mouse"]
    event: Literal["move", "down", "up"]
    x: Share
    y: Share
    button: Literal["none", "left", "middle", "right"] = "none"
    buttons: Annotated[int, Field(ge=0, le=7)] = 0
    """Buttons that are held: left 1, right 2, middle 4."""
    clicks: Annotated[int, Field(ge=0, le=3)] = 0
    modifiers: Modifiers = 0

    def commands(self, width: float, height: float) -> Iterator[Command]:
        kinds = {"move": "mouseMoved", "down": "mousePressed", "up": "mouseReleased"}
        yield (
            "Input.dispatchMouseEvent",
            {
                "type": kinds[self.event],
                "x": self.x * width,
                "y": self.y * height,
                "button": self.button,
                "buttons": self.buttons,
                "clickCount": self.clicks,
                "modifiers": self.modifiers,
            },
        )


class WheelAct(_Act):
    type: Literal["wheel"]
    x: Share
    y: Share
    dx: Annotated[float, Field(ge=-5000, le=5000, allow_inf_nan=False)] = 0
    """CSS pixels."""
    dy: Annotated[float, Field(ge=-5000, le=5000, allow_inf_nan=False)] = 0
    modifiers: Modifiers = 0

    def commands(self, width: float, height: float) -> Iterator[Command]:
        yield (
            "Input.dispatchMouseEvent",
            {
                "type": "mouseWheel",
                "x": self.x * width,
                "y": self.y * height,
                "deltaX": self.dx,
                "deltaY": self.dy,
                "modifiers": self.modifiers,
            },
        )


class KeyAct(_Act):
    type: Literal["key"]
    event: Literal["down", "up"]
    key: Annotated[str, Field(min_length=1, max_length=12)]
    """A character, or a name of UI Events KeyboardEvent key values."""
    code: Annotated[str, Field(max_length=20, pattern=r"^[A-Za-z0-9]*$")] = ""
    modifiers: Modifiers = 0

    @field_validator("key")
    @classmethod
    def _known_key(cls, value: str) -> str:
        if value not in _NAMED_KEYS and not (len(value) == 1 and value.isprintable()):
            raise ValueError("no key that may be pressed")
        return value

    def commands(self, width: float, height: float) -> Iterator[Command]:
        is_shortcut = bool(self.modifiers & _CONTROL) and self.key not in _NAMED_KEYS
        if is_shortcut and self.key.lower() not in _SHORTCUTS:
            return
        params: dict[str, Any] = {"key": self.key, "code": self.code, "modifiers": self.modifiers}
        upper = self.key.upper()
        number = _NAMED_KEYS.get(self.key) or (ord(upper) if upper.isascii() and upper.isalnum() else 0)
        params["windowsVirtualKeyCode"] = number
        text = "" if is_shortcut else "\r" if self.key == "Enter" else self.key if len(self.key) == 1 else ""
        if self.event == "up":
            yield "Input.dispatchKeyEvent", {"type": "keyUp", **params}
        elif text:
            yield "Input.dispatchKeyEvent", {"type": "keyDown", "text": text, **params}
        else:
            kind = "rawKeyDown" if self.key in _MODIFIER_KEYS else "keyDown"
            yield "Input.dispatchKeyEvent", {"type": kind, **params}


class TextAct(_Act):
    """Text that is pasted, or written by an input method."""

    type: Literal["text"]
    text: Annotated[str, Field(min_length=1, max_length=_MAX_TEXT)]

    def commands(self, width: float, height: float) -> Iterator[Command]:
        yield "Input.insertText", {"text": self.text}


class TouchPoint(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)

    id: Annotated[int, Field(ge=0, le=31)]
    x: Share
    y: Share


class TouchAct(_Act):
    type: Literal["touch"]
    event: Literal["start", "move", "end", "cancel"]
    points: Annotated[list[TouchPoint], Field(max_length=5)] = []
    modifiers: Modifiers = 0

    def commands(self, width: float, height: float) -> Iterator[Command]:
        is_over = self.event in ("end", "cancel")
        points = [{"id": each.id, "x": each.x * width, "y": each.y * height} for each in self.points]
        yield (
            "Input.dispatchTouchEvent",
            {
                "type": f"touch{self.event.capitalize()}",
                "touchPoints": [] if is_over else points,
                "modifiers": self.modifiers,
            },
        )


Act = MouseAct | WheelAct | KeyAct | TextAct | TouchAct
_ADAPTER: Final[TypeAdapter[Act]] = TypeAdapter(Annotated[Act, Field(discriminator="type")])


def read_act(message: str | bytes) -> Act:
    """Return the act of a message. Raises `InputRefusedError`, which quotes nothing of it."""
    if len(message) > MAX_ACT_BYTES:
        raise InputRefusedError("The message is too long")
    try:
        return _ADAPTER.validate_json(message)
    except ValidationError:
        raise InputRefusedError("The message is no act of a mouse, keyboard or finger") from None
