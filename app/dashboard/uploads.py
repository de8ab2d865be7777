"""Uploads of files by a form: how one is read, and how its content goes from the check to the confirmation."""

import base64
import binascii
import re
import zlib
from email.message import Message
from typing import Final

from fastapi import Request

from app.config import Settings
from app.dashboard.page_route import SignedInRoute
from app.utils.exceptions import BodyTooLargeException, InvalidRequestException, UnsupportedMediaTypeException

CHECK_PATH: Final = "/ui/batches/check"
START_PATH: Final = "/ui/batches"
_FORM: Final = "multipart/form-data"
_ENVELOPE: Final = 64 * 1024
"""Bytes of the other fields, and of what stands between fields."""
_MAX_PARTS: Final = 20
_NAME: Final = re.compile(rb'\bname="([^"\r\n]{1,64})"')
_FILE_NAME: Final = re.compile(rb'\bfilename="([^"\r\n]*)"')


class UploadRoute(SignedInRoute):
    """A form with one file (RFC 7578): the file's content is in `state.upload`, its name in the form."""

    async def read_form(self, request: Request) -> dict[str, str]:
        form, request.state.upload = _read_parts(
            request.headers.get("Content-Type", ""), await request.body()
        )
        return form


def body_limits(settings: Settings) -> dict[str, int]:
    """Return the size limits of requests with a file, which is as large as a batch of the API may be."""
    # Base64 of what cannot be compressed is a third longer.
    return {
        CHECK_PATH: settings.max_batch_bytes + _ENVELOPE,
        START_PATH: settings.max_batch_bytes * 3 // 2 + _ENVELOPE,
    }


def pack(content: bytes) -> str:
    """Return a file as the value of a hidden field: the bytes as they are, which a field for text would change."""
    return base64.urlsafe_b64encode(zlib.compress(content)).decode().rstrip("=")


def unpack(value: str, *, max_bytes: int) -> bytes:
    """Return what `pack` was given. Raises `InvalidRequestException`, and `BodyTooLargeException` for a larger file."""
    decompressor = zlib.decompressobj()
    try:
        packed = base64.b64decode(value + "=" * (-len(value) % 4), altchars=b"-_", validate=True)
        content = decompressor.decompress(packed, max_bytes + 1)
    except (binascii.Error, ValueError, zlib.error):
        raise InvalidRequestException("The file did not arrive as it was checked; upload it again") from None
    if len(content) > max_bytes:
        raise BodyTooLargeException(max_bytes)
    if not decompressor.eof:
        raise InvalidRequestException("The file did not arrive whole; upload it again")
    return content


def _read_parts(content_type: str, body: bytes) -> tuple[dict[str, str], bytes]:
    """Raises `UnsupportedMediaTypeException`, `InvalidRequestException`."""
    header = Message()
    header["Content-Type"] = content_type
    boundary = header.get_boundary()
    if header.get_content_type() != _FORM or not boundary or not boundary.isascii():
        raise UnsupportedMediaTypeException(_FORM)
    delimiter = b"\r\n--" + boundary.encode()
    first, *parts = (b"\r\n" + body).split(delimiter, _MAX_PARTS + 1)
    if first or len(parts) > _MAX_PARTS or not parts or not parts[-1].startswith(b"--"):
        raise InvalidRequestException("The form cannot be read; load the page again")
    form: dict[str, str] = {}
    upload = b""
    for part in parts[:-1]:
        head, _, content = part.partition(b"\r\n\r\n")
        name = _NAME.search(head)
        if name is None:
            raise InvalidRequestException("A field of the form has no name; load the page again")
        if (file_name := _FILE_NAME.search(head)) is not None:
            upload, name_text = content, file_name[1]
        else:
            name_text = content
        form[_text(name[1])] = _text(name_text)
    return form, upload


def _text(value: bytes) -> str:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        raise InvalidRequestException("A field of the form is not UTF-8 text") from None
    if "\x00" in text:
        raise InvalidRequestException("A form holds no NUL character")
    return text
