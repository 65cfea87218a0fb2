"""Signs users in with the name and the secret of a key, and out again."""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Mapping

from ...connection_string import ConnectionString
from ...errors import AuthenticationFailedError, ConfigurationError
from ..answer import Answer
from ..authorization import Guard
from .page_request import PageRequest
from .rendering import redirect, render
from .sign_in_tokens import LIFETIME, SignedIn, SignInTokens
from .throttle import Throttle

_COOKIE = "azsession-explorer"
#: The cookie of the form for signing in. Other sites can send a form, but they do not know this cookie.
_FORM_COOKIE = "azsession-sign-in"
#: The page after signing in, and those that can be reached in one step from there.
START = "queues"
_MAX_NAME, _MAX_SECRET = 256, 4096
_WRONG = "No key has this name and this secret. Check both, for example in the connection string."


class SignIn:
    """The pages for signing in and out. It belongs to the thread of the event loop.

    Args:
        guard: Has the keys.
        pages: The pages that a user may be sent to after signing in.
    """

    def __init__(self, guard: Guard, pages: frozenset[str]) -> None:
        self._guard = guard
        self._pages = pages
        self._tokens = SignInTokens(guard)
        self._throttle = Throttle()

    def user(self, request: PageRequest) -> SignedIn | None:
        """Return the user of a request, or `None`."""
        text = request.cookie(_COOKIE + request.cookie_suffix)
        return self._tokens.check(text) if text else None

    async def page(self, request: PageRequest) -> Answer:
        """Show the form, or sign a user in."""
        if request.method != "POST":
            return self._form(request, 200)
        cookie = request.cookie(_FORM_COOKIE + request.cookie_suffix)
        # A missing cookie must not be equal to a missing field.
        if not _is_nonce(cookie) or not hmac.compare_digest(cookie.encode(), request.form.get("csrf", "").encode()):
            return self._form(request, 403, "Please try again. Your browser must accept cookies of this site.")
        wait = self._throttle.wait(request.address)
        if wait:
            text = f"There were too many wrong attempts. Try again in {wait} seconds."
            return self._form(request, 429, text, {"Retry-After": str(wait)})
        name, secret = _credentials(request.form)
        if len(name) > _MAX_NAME or len(secret) > _MAX_SECRET:
            name, secret = "", ""
        try:
            key = self._guard.sign_in(name, secret)
        except AuthenticationFailedError:
            self._throttle.count(request.address)
            return self._form(request, 403, _WRONG)
        return redirect(self._target(request), {"Set-Cookie": _cookie(request, _COOKIE, self._tokens.issue(key), LIFETIME)})

    async def sign_out(self, request: PageRequest) -> Answer:
        """Sign the user out."""
        self._tokens.end(request.cookie(_COOKIE + request.cookie_suffix))
        return redirect("sign-in?done=signed-out", {"Set-Cookie": _cookie(request, _COOKIE, "", 0)})

    def _form(self, request: PageRequest, status: int, problem: str = "", headers: Mapping[str, str] | None = None) -> Answer:
        nonce = request.cookie(_FORM_COOKIE + request.cookie_suffix)
        if not _is_nonce(nonce):
            nonce = secrets.token_urlsafe(24)
        return render(
            "sign-in.html",
            status,
            {"Set-Cookie": _cookie(request, _FORM_COOKIE, nonce, LIFETIME), **(headers or {})},
            csrf=nonce,
            problem=problem,
            # The secret is not sent back.
            name=request.form.get("name", "")[:_MAX_NAME],
            to=self._target(request),
            is_signed_out=request.query.get("done") == "signed-out",
        )

    def _target(self, request: PageRequest) -> str:
        """Return the page to show after signing in. It is always a page of the Explorer."""
        wanted = request.query.get("to", "")
        page, _, query = wanted.partition("?")
        if page in self._pages and re.fullmatch(r"[\w.~%&=+*-]*", query, re.ASCII):
            return wanted
        return START


def _credentials(form: Mapping[str, str]) -> tuple[str, str]:
    """Return the name and the secret of a form. A connection string in the place of the secret has both."""
    name, secret = form.get("name", "").strip(), form.get("secret", "").strip()
    if re.match(r"Endpoint\s*=", secret, re.IGNORECASE):
        try:
            found = ConnectionString.parse(secret)
        except ConfigurationError:
            return name, secret
        return found.key_name or name, found.key or ""
    return name, secret


def _is_nonce(text: str) -> bool:
    return re.fullmatch(r"[\w-]{32}", text, re.ASCII) is not None


def _cookie(request: PageRequest, name: str, value: str, seconds: int) -> str:
    """Return a cookie for the Explorer alone.

    It has no ``Path``: browsers then use the folder of the page (RFC 6265, 5.1.4). It is the Explorer's, also below a prefix
    that a proxy adds and this gateway does not know.
    """
    secure = "; Secure" if request.is_secure else ""
    return f"{name}{request.cookie_suffix}={value}; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}"
