"""A request for a page: its query, form and cookies, and the values in them that the pages need."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

import attrs

from ...errors import ValidationError
from ...validation import MAX_SEQUENCE_NUMBER, check_queue_name, check_session_id
from .. import fields
from ..request import Headers
from .sign_in_tokens import SignedIn

#: Bytes of a form at most. Larger messages are sent with the command line or a program.
MAX_FORM_SIZE = 512 * 1024
#: Bytes of the form for signing in: everyone can send it.
MAX_SIGN_IN_SIZE = 32 * 1024
#: Fields of a query or a form at most.
_MAX_FIELDS = 32


@attrs.frozen
class PageRequest:
    """A request for a page.

    Attributes:
        method: The HTTP method.
        page: The name of the page: the path behind ``/explorer/``; ``""`` for ``/explorer`` itself.
        query: The fields of the query.
        form: The fields of the form that the request submits.
        headers: The headers.
        is_secure: Whether the browser uses HTTPS.
        address: The address of the client.
        user: The user, if one is signed in.
    """

    method: str
    page: str
    query: Mapping[str, str]
    form: Mapping[str, str] = attrs.field(repr=False)
    headers: Headers = attrs.field(repr=False)
    is_secure: bool = False
    address: str = ""
    user: SignedIn | None = None

    @property
    def folder(self) -> str:
        """The folder of the pages, as a relative URL: ``""``, except for a page that does not exist, such as ``a/b``."""
        return "../" * self.page.count("/")

    @property
    def queue(self) -> str:
        """The queue that the page is about.

        Raises:
            ValidationError: The query has no queue, or a malformed name.
        """
        return check_queue_name(self.query.get("queue", "").strip())

    @property
    def session_id(self) -> str | None:
        """The session that the page is about, or `None`. ``""`` is a session, too.

        Raises:
            ValidationError: The session id is malformed.
        """
        session_id = self.query.get("session")
        return None if session_id is None else check_session_id(session_id)

    def number(self, name: str, default: int = 0, highest: int = MAX_SEQUENCE_NUMBER) -> int:
        """Return a whole number of the query.

        Raises:
            ValidationError: It is not a whole number from 0 to `highest`.
        """
        return whole_number(self.query.get(name), name, default, highest)

    def cookie(self, name: str) -> str:
        """Return the value of a cookie, or ``""``. Of several with the same name, it is the first."""
        for pair in (self.headers.get("Cookie") or "").split(";"):
            found, _, value = pair.strip().partition("=")
            if found == name:
                return value
        return ""

    @property
    def cookie_suffix(self) -> str:
        """The end of the names of cookies: the port. Browsers send the cookies of a host to all its ports (RFC 6265, 8.5)."""
        try:
            port = urlsplit(f"//{self.headers.get('Host') or ''}").port
        except ValueError:
            port = None
        return "" if port is None else f"-{port}"


def whole_number(text: str | None, name: str, default: int, highest: int) -> int:
    """Return the whole number that a text has; `default` for no text.

    Raises:
        ValidationError: The text is not a whole number from 0 to `highest`.
    """
    if not text:
        return default
    if not re.fullmatch(r"[0-9]{1,19}", text) or int(text) > highest:
        raise ValidationError(f"{name} must be a whole number from 0 to {highest}, not {text[:80]!r}")
    return int(text)


def read_fields(text: str) -> Mapping[str, str]:
    """Return the fields of a query or of a form.

    Raises:
        ValidationError: The text is malformed, has too many fields, or has a field twice.
    """
    return fields.read_fields(text, _MAX_FIELDS, place="the query or the form", field="field")


def read_form(body: bytes, content_type: str) -> Mapping[str, str]:
    """Return the fields of a form.

    Raises:
        ValidationError: The body is not a form.
    """
    if content_type.partition(";")[0].strip().lower() != "application/x-www-form-urlencoded":
        raise ValidationError("the request must be a form of the type application/x-www-form-urlencoded")
    return read_fields(body.decode("latin-1"))
