"""The peer of several benchmarks: receive and complete with plain `requests`, without azsession's client."""

from __future__ import annotations

import json
import time
import uuid

import requests

from azsession.protocol.sas import generate_sas_token

from .common import QUEUE, Gateway


def headers(server: Gateway) -> dict[str, str]:
    """Return the headers of the requests of one holder: a token for an hour, and a new lock id."""
    fields = dict(part.split("=", 1) for part in server.connection_string.split(";"))
    token = generate_sas_token(server.url, fields["SharedAccessKeyName"], fields["SharedAccessKey"], int(time.time()) + 3600)
    return {"Authorization": token, "Azsession-Lock-Id": str(uuid.uuid4())}


class PlainSession:
    """The holder of a session that makes two requests for each message.

    Args:
        server: The gateway.
        http: Makes the requests.
        session_id: The session.
    """

    def __init__(self, server: Gateway, http: requests.Session, session_id: str) -> None:
        self._http = http
        self._base = f"{server.url}/{QUEUE}/sessions/{session_id}/messages"
        self._headers = headers(server)

    def receive(self) -> str:
        """Receive a message. Return its lock token."""
        received = self._http.delete(f"{self._base}/head?timeout=30", headers=self._headers)
        return str(json.loads(received.headers["BrokerProperties"])["LockToken"])

    def complete(self, lock_token: str) -> None:
        """Complete a message."""
        assert self._http.delete(f"{self._base}/{lock_token}", headers=self._headers).status_code == 204
