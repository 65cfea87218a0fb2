"""Reads the head of a request, and refuses heads that other HTTP parsers could read in a different way.

Two programs that see different ends of one request can be made to see different requests ("request smuggling", RFC 9112,
section 11.2). The ASGI application therefore refuses every head whose meaning is not certain.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain

import attrs

from ...errors import MessageTooLargeError, ValidationError
from ..request import Headers
from .limits import MAX_HEAD_SIZE

#: Bytes that each header adds to the size of a head: a colon, a space and the end of the line.
_HEADER_EXTRA = 4

#: The largest headers, in bytes, that a connection keeps for its next request.
MAX_KEPT = 4096
#: Headers that a request may have once.
_ONCE = frozenset((b"authorization", b"content-length", b"host", b"transfer-encoding"))
_FRAMING_TWINS = frozenset((b"content_length", b"transfer_encoding"))
_READ = _ONCE | _FRAMING_TWINS | {b"connection", b"expect", b"upgrade"}
#: HTTP/2 and HTTP/3 frame requests in another way, so that a server for them finds the ends itself.
_BINARY_VERSIONS = frozenset(("2", "3"))


@attrs.frozen
class Head:
    """The headers of a request.

    Attributes:
        headers: The headers.
        size: Bytes of the headers.
        length: The length that the request announces, or `None`.
        has_body: Whether a body may follow.
        awaits_consent: Whether the client sends the body only after a status 100 (RFC 9110, section 10.1.1). The server sends
            this status when the body is read.
        asks_for_upgrade: Whether the request asks for another protocol (RFC 9110, section 7.8). The parser stops after it.
    """

    headers: Headers
    size: int
    length: int | None
    has_body: bool
    awaits_consent: bool
    asks_for_upgrade: bool


class HeadReader:
    """Reads the heads of the requests of one connection. Most of them have the same headers, which are read once."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        #: The version and the headers of an earlier request, and their result.
        self._known: tuple[str, list[tuple[bytes, bytes]], Head] | None = None

    def read(self, version: str, target_size: int, fields: Iterable[tuple[bytes, bytes]]) -> Head:
        """Read the headers of a request.

        Args:
            version: The HTTP version in the form of ASGI, for example ``1.1``.
            target_size: Bytes of the path and the query.
            fields: The headers, with names in lower case.

        Raises:
            ValidationError: The end of the request is not certain.
            MessageTooLargeError: The head has more than `MAX_HEAD_SIZE` bytes.
        """
        given, known = list(fields), self._known
        if known is not None and known[1] == given and known[0] == version:
            head = known[2]
        else:
            head = _read(version, given)
            self._known = (version, given, head) if head.size <= MAX_KEPT else None
        size = target_size + head.size
        if size > MAX_HEAD_SIZE:
            raise MessageTooLargeError(
                f"the request line and headers have {size} bytes; the limit is {MAX_HEAD_SIZE}",
                size=size,
                limit=MAX_HEAD_SIZE,
            )
        return head


def _read(version: str, fields: Sequence[tuple[bytes, bytes]]) -> Head:
    texts = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in fields]
    special = [(name, value.strip()) for name, value in fields if name in _READ]
    found = dict(special)
    for name, _ in special:
        if name in _FRAMING_TWINS:
            raise ValidationError(f"the header {name.decode()} must be written with a hyphen")
    if len(found) != len(special):
        names = [name for name, _ in special]
        for name in _ONCE.intersection(names):
            if names.count(name) > 1:
                raise ValidationError(f"the header {name.decode()} must not be repeated")
    has_coding = b"transfer-encoding" in found
    upgrades = b"upgrade" in found and any(name == b"connection" and b"upgrade" in value.lower() for name, value in special)
    is_binary = version in _BINARY_VERSIONS
    length = found.get(b"content-length")
    if not is_binary:
        _check_framing(version, found, upgrades)
    return Head(
        Headers(texts),
        len(fields) * _HEADER_EXTRA + sum(map(len, chain.from_iterable(fields))),
        None if length is None else int(length),
        is_binary or has_coding or int(length or b"0") > 0,
        found.get(b"expect", b"").lower() == b"100-continue",
        upgrades,
    )


def _check_framing(version: str, found: Mapping[bytes, bytes], upgrades: bool) -> None:
    problem = None
    coding, length = found.get(b"transfer-encoding"), found.get(b"content-length", b"0")
    if version not in ("1.0", "1.1"):
        problem = "the HTTP version must be 1.0 or 1.1"
    elif version == "1.1" and b"host" not in found:
        problem = "an HTTP/1.1 request must have the header Host (RFC 9112, 3.2)"
    elif not length.isdigit():
        problem = "Content-Length must be a whole number"
    elif upgrades and (coding is not None or int(length) > 0):
        problem = "a request with a body must not ask for another protocol"
    elif coding is not None and version == "1.0":
        problem = "an HTTP/1.0 request must not have Transfer-Encoding (RFC 9112, 6.1)"
    elif coding is not None and coding.lower() != b"chunked":
        problem = "Transfer-Encoding must be chunked"
    elif coding is not None and b"content-length" in found:
        problem = "a request must not have both Content-Length and Transfer-Encoding (RFC 9112, 6.1)"
    if problem is not None:
        raise ValidationError(problem)
