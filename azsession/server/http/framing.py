"""The check of a request's head. The server's HTTP parser accepts some heads that other parsers read in a different way.

Two programs that see different ends of one request can be made to see different requests ("request smuggling", RFC 9112,
section 11.2). The ASGI application therefore refuses every head whose meaning is not certain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

#: Bytes that each header adds to the size of a head: a colon, a space and the end of the line.
_HEADER_EXTRA = 4

#: Headers that a request may have once.
_ONCE = frozenset((b"authorization", b"content-length", b"host", b"transfer-encoding"))
_FRAMING_TWINS = frozenset((b"content_length", b"transfer_encoding"))
#: HTTP/2 and HTTP/3 frame requests in another way, so that a server for them finds the ends itself.
_BINARY_VERSIONS = frozenset(("2", "3"))

RawHeaders = Sequence[tuple[bytes, bytes]]


def head_size(target: bytes, headers: RawHeaders) -> int:
    """Return the size of a head in bytes."""
    return len(target) + sum(len(name) + len(value) + _HEADER_EXTRA for name, value in headers)


def framing_error(version: str, headers: RawHeaders) -> str | None:
    """Return why a head must be refused, or `None`.

    Args:
        version: The HTTP version in the form of ASGI, for example ``1.1``.
        headers: The headers, with names in lower case.
    """
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in _FRAMING_TWINS:
            return f"the header {name.decode()} must be written with a hyphen"
        if name in _ONCE:
            if name in found:
                return f"the header {name.decode()} must not be repeated"
            found[name] = value.strip()
    if version in _BINARY_VERSIONS:
        return None
    if version not in ("1.0", "1.1"):
        return "the HTTP version must be 1.0 or 1.1"
    if version == "1.1" and b"host" not in found:
        return "an HTTP/1.1 request must have the header Host (RFC 9112, 3.2)"
    if not found.get(b"content-length", b"0").isdigit():
        return "Content-Length must be a whole number"
    has_body = b"transfer-encoding" in found or int(found.get(b"content-length", b"0")) > 0
    if has_body and asks_for_upgrade(headers):
        return "a request with a body must not ask for another protocol"
    return _encoding_error(version, found) if b"transfer-encoding" in found else None


def asks_for_upgrade(headers: RawHeaders) -> bool:
    """Return whether a request asks for another protocol (RFC 9110, section 7.8). The parser stops after its head."""
    return any(name == b"upgrade" for name, _ in headers) and any(
        name == b"connection" and b"upgrade" in value.lower() for name, value in headers
    )


def _encoding_error(version: str, found: Mapping[bytes, bytes]) -> str | None:
    if version == "1.0":
        return "an HTTP/1.0 request must not have Transfer-Encoding (RFC 9112, 6.1)"
    if found[b"transfer-encoding"].lower() != b"chunked":
        return "Transfer-Encoding must be chunked"
    if b"content-length" in found:
        return "a request must not have both Content-Length and Transfer-Encoding (RFC 9112, 6.1)"
    return None
