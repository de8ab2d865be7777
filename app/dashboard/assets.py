"""Styles and scripts of the pages; an address names the content's hash, so that browsers may keep it for good."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

STATIC_PATH: Final = "/ui/static"
_FOLDER: Final = Path(__file__).parent / "static"
_MEDIA_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
_FOR_GOOD: Final = "public, max-age=31536000, immutable"


@dataclass(frozen=True)
class _File:
    content: bytes
    media_type: str
    digest: str


class Assets:
    """All files of the folder, read once."""

    def __init__(self) -> None:
        paths = (path for path in _FOLDER.rglob("*") if path.suffix in _MEDIA_TYPES)
        self._files = {path.relative_to(_FOLDER).as_posix(): _read(path) for path in paths}

    def url(self, name: str) -> str:
        """Return the address of a file."""
        return f"{STATIC_PATH}/{self._files[name].digest}/{name}"

    def answer(self, digest: str, name: str) -> Response:
        """Return a file. One of another version is the current one, which no browser keeps: processes may differ."""
        file = self._files.get(name)
        if file is None:
            return Response(status_code=404)
        headers = {"Cache-Control": _FOR_GOOD} if digest == file.digest else {}
        return Response(file.content, media_type=file.media_type, headers=headers)


async def serve_asset(request: Request) -> Response:
    """Answer `/ui/static/{digest}/{name}`; no sign-in is needed."""
    assets: Assets = request.app.state.pages.assets
    return assets.answer(request.path_params["digest"], request.path_params["name"])


def _read(path: Path) -> _File:
    content = path.read_bytes()
    return _File(content, _MEDIA_TYPES[path.suffix], hashlib.sha256(content).hexdigest()[:16])
