"""The head of a plain HTTP/1.1 request as bytes, and of a plain response as fields, each in one step.

`http_connections` and `bounded_response` use these functions for most requests and responses. Everything unusual is left to
urllib3 and `http.client`, which handle each header in several steps: the functions return `None` for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from urllib3.util import SKIP_HEADER

#: The most headers of a response. `http.client` has the same limit: 100 lines with the empty one.
_MOST_HEADERS = 99
#: The characters of a header's name (RFC 9110, section 5.6.2).
_is_name = lru_cache(512)(re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch)
#: The target of a request has visible ASCII characters only.
_is_target = re.compile(r"/[!-~]*").fullmatch
#: urllib3 adds these headers if they are missing. In other cases than that of `requests` the head is left to it.
_NEEDED = ("User-Agent", "Accept-Encoding")
#: Headers in any case that change how the request is written.
_UNUSUAL = frozenset({"host", "transfer-encoding"})
_is_host = re.compile(r"[0-9A-Za-z._-]+").fullmatch
_STATUS_LINE = re.compile(r"HTTP/1\.1 ([2-9][0-9][0-9]) ([^\r\n]*)")
_is_length = re.compile(r"[0-9]{1,15}").fullmatch


@lru_cache(512)
def _is_usual(name: str) -> bool:
    return bool(_is_name(name)) and name.lower() not in _UNUSUAL


def request_head(method: str, target: str, host: str, headers: Mapping[str, str]) -> bytes | None:
    """Return the request line and the headers, with the empty line after them.

    Args:
        method: The HTTP method.
        target: The path and query, encoded.
        host: The value of the header ``Host``.
        headers: The headers.

    Returns:
        The bytes. `None` if a part is not plain text for its place, for example a value with a line feed.
    """
    lines = [f"{method} {target} HTTP/1.1", "Host: " + host]
    try:
        if not (_is_target(target) and all(map(_is_usual, headers)) and all(map(headers.__contains__, _NEEDED))):
            return None
        lines += [name + ": " + value for name, value in headers.items()]
        text = "\r\n".join(lines)
        breaks = len(lines) - 1
        # A line break in a value would begin another header, or end the request.
        if text.count("\n") != breaks or text.count("\r") != breaks or SKIP_HEADER in text:
            return None
        return (text + "\r\n\r\n").encode("latin-1")
    except (TypeError, UnicodeEncodeError):  # A part is bytes, or has characters that no header can carry.
        return None


def host_of(host: str, port: int | None, default_port: int) -> str | None:
    """Return the header ``Host`` for a server. `None` if its name is not plain: an IPv6 address, or international."""
    if not _is_host(host):
        return None
    return host if port is None or port == default_port else f"{host}:{port}"


class ResponseHeaders(Mapping[str, str]):
    """The headers of a response. The case of a name does not matter. Values of one name are joined (RFC 9110, section 5.3).

    Args:
        fields: Names and values, as the server sent them.
        values: The values by name in lower case.
    """

    __slots__ = ("_values", "fields")

    def __init__(self, fields: list[tuple[str, str]], values: dict[str, str]) -> None:
        self.fields: list[tuple[str, str]] = fields
        self._values = values

    def __getitem__(self, name: str) -> str:
        return self._values[name.lower()]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._values

    def get(self, name: str, default: Any = None) -> Any:
        return self._values.get(name.lower(), default)

    def __iter__(self) -> Iterator[str]:
        # With the case in which the server sent each name first.
        return iter({name.lower(): name for name, _ in reversed(self.fields)}.values())

    def __len__(self) -> int:
        return len(self._values)

    def pairs(self) -> Iterable[tuple[str, str]]:
        """Return each name with its values."""
        return self.fields if len(self.fields) == len(self._values) else self.items()


class ResponseHead:
    """The head of a plain response: it has a body of a known length, or none, and its connection stays open.

    Attributes:
        status: The HTTP status.
        reason: The text after it.
        headers: The headers.
        length: The bytes of the body.
    """

    __slots__ = ("headers", "length", "reason", "status")

    def __init__(self, status: int, reason: str, headers: ResponseHeaders, length: int) -> None:
        self.status: int = status
        self.reason: str = reason
        self.headers: ResponseHeaders = headers
        self.length: int = length


@lru_cache(16)
def response_head(data: bytes) -> ResponseHead | None:
    """Return the head in `data`, which ends before the empty line. `None` if it is not plain.

    The answers of one second to settlements have the same head. So the latest results are kept.
    """
    lines = data.decode("latin-1").split("\r\n")
    match = _STATUS_LINE.fullmatch(lines[0])
    breaks = len(lines) - 1
    if match is None or breaks > _MOST_HEADERS or data.count(b"\n") != breaks or data.count(b"\r") != breaks:
        return None
    fields: list[tuple[str, str]] = []
    values: dict[str, str] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        # A line that continues the one before begins with a blank, which no name does.
        if not colon or not _is_name(name):
            return None
        value = value.strip(" \t")
        fields.append((name, value))
        lowered = name.lower()
        values[lowered] = value if lowered not in values else f"{values[lowered]}, {value}"
    status, length = int(match[1]), values.get("content-length")
    if "transfer-encoding" in values or values.get("connection", "keep-alive").lower() != "keep-alive":
        return None
    if status in (204, 304):
        if length not in (None, "0"):
            return None
    elif length is None or not _is_length(length):  # Two lengths are joined, and are no number.
        return None
    return ResponseHead(status, match[2].strip(), ResponseHeaders(fields, values), int(length or 0))
