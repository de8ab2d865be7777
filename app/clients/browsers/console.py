"""The errors of a page's console, as the DevTools protocol tells of them.

Source: https://chromedevtools.github.io/devtools-protocol/tot/Runtime/, https://chromedevtools.github.io/devtools-protocol/tot/Log/
"""

from typing import Any, Final

_MAX_LINE_LENGTH: Final = 5000
"""Characters of one line that are looked at."""


def error_line(message: dict[str, Any]) -> str | None:
    """One line of text; None when the message tells of no error."""
    params = message.get("params", {})
    match message.get("method"):
        case "Runtime.consoleAPICalled" if params.get("type") in ("error", "assert"):
            return _cut(" ".join(_words(argument) for argument in params.get("args", ())))
        case "Runtime.exceptionThrown":
            details = params.get("exceptionDetails", {})
            exception_text = _words(details.get("exception", {}))
            return _cut(f"{details.get('text', '')} {exception_text} {details.get('url', '')}")
        case "Log.entryAdded" if params.get("entry", {}).get("level") == "error":
            entry = params["entry"]
            return _cut(f"{entry.get('text', '')} {entry.get('url', '')}")
    return None


def _words(value: dict[str, Any]) -> str:
    """Never the preview of an object: it holds beginnings and ends of long strings, which no mask would know."""
    return str(value.get("value", value.get("description", "")))


def _cut(line: str) -> str:
    """Cut a line at a space: half a secret would not be known as one."""
    line = " ".join(line.split())
    return line if len(line) <= _MAX_LINE_LENGTH else line[:_MAX_LINE_LENGTH].rpartition(" ")[0]
