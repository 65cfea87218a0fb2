"""The answer to an attach: the kind of link, and the checks of the client's rights. `connection` calls it."""

from __future__ import annotations

from types import NoneType
from typing import TYPE_CHECKING, Any

from proton import Described

from tests.standin.links import AnyLink, PlainReceives, Sends, SessionReceives
from tests.standin.refusal import Refusal
from tests.standin.requests import ManagementRequests, Responses, TokenRequests
from tests.standin.tokens import path_of

if TYPE_CHECKING:
    from tests.standin.connection import Peer

_FILTER_NAME, _FILTER_CODE = "com.microsoft:session-filter", 0x00000137000000C
#: Seconds that Azure lets a receiver wait for a session if the attach has no timeout.
_DEFAULT_WAIT = 65.0
_MANAGEMENT, _DEAD = "/$management", "/$deadletterqueue"


def attach(peer: Peer, impl: Any, link: Any) -> AnyLink:
    """Answer an attach, at once or when a session is available; return the link."""
    address = (link.remote_source if link.is_sender else link.remote_target).address or ""
    path = path_of(address)
    if path == "$cbs":
        cbs = Responses(peer, impl, link, path) if link.is_sender else TokenRequests(peer, impl, link, path)
        cbs.open()
        return cbs
    made = AnyLink(peer, impl, link)
    peer.links[impl] = made
    try:
        peer.server.refuse_if_told("attach", throttled=True)
        _attach(peer, impl, link, path, address)
    except Refusal as refusal:
        made.refuse(refusal)
    return peer.links[impl]


def _attach(peer: Peer, impl: Any, link: Any, path: str, address: str) -> None:
    entity = path.removesuffix(_MANAGEMENT)
    base = entity.removesuffix(_DEAD)
    managed = entity != path
    right = "Listen" if link.is_sender else "Send"
    rights = ("Listen", "Send") if managed else (right,)
    if not any(peer.allows(path, each) for each in rights):
        text = f"Unauthorized access. '{right}' claim(s) are required to perform this operation. Resource: '{address}'."
        raise Refusal("amqp:unauthorized-access", text, 401)
    server = peer.server
    made: AnyLink
    if managed:
        queue = server.manageable(entity)
        made = Responses(peer, impl, link, path) if link.is_sender else ManagementRequests(peer, impl, link, path, queue)
    elif not link.is_sender:
        server.sendable(entity)
        made = Sends(peer, impl, link, base, entity)
    else:
        queue = server.receivable(entity)
        wanted, session_id = _session_filter(link)
        if wanted != queue.sessions:
            text = "It is not possible for an entity that requires sessions to create a non-sessionful message receiver."
            if wanted:
                text = "A sessionful message receiver cannot be created on an entity that does not require sessions."
            raise Refusal("amqp:not-allowed", text)
        if wanted:
            made = SessionReceives(peer, impl, link, base, queue)
            peer.links[impl] = made
            timeout = (link.remote_properties or {}).get("com.microsoft:timeout")
            made.seek(session_id, _DEFAULT_WAIT if timeout is None else timeout / 1000)
            return
        made = PlainReceives(peer, impl, link, base, queue)
    peer.links[impl] = made
    made.open()


def _session_filter(link: Any) -> tuple[bool, str | None]:
    """Return whether the link asks for a session, and its id; `None` is the next available session."""
    filters = link.remote_source.filter
    filters.rewind()
    found = filters.get_object() if filters.next() else None
    for name, value in (found or {}).items():
        if name in (_FILTER_NAME, _FILTER_CODE):
            value = value.value if isinstance(value, Described) else value
            if not isinstance(value, (str, NoneType)):
                raise Refusal("amqp:invalid-field", f"The session id must be a string, but it is {value!r}.")
            return True, value
    return False, None
