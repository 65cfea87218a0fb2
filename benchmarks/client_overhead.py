"""Processor time of receive + complete with `SessionClient`, compared with plain requests.

Both make the same two requests to the same gateway. The gateway runs in another process, whose time does not count.
"""

from __future__ import annotations

import json
import time
import uuid

import requests

from azsession.config import ServiceBusConfig
from azsession.protocol.sas import generate_sas_token

from .common import QUEUE, Figure, arguments, fill, gateway, interleaved, show


def main() -> None:
    """Measure and print the result."""
    options = arguments("client_overhead", __doc__ or "", rounds=60, messages=50)
    with gateway() as server, server.provider() as provider, requests.Session() as http:
        config = ServiceBusConfig(connection_string=server.connection_string)
        assert config.connection_string is not None
        fields = dict(part.split("=", 1) for part in server.connection_string.split(";"))
        token = generate_sas_token(
            server.url, fields["SharedAccessKeyName"], fields["SharedAccessKey"], int(time.time()) + 3600
        )
        fill(provider, "plain", (options.rounds + 1) * options.messages)
        fill(provider, "ours", (options.rounds + 1) * options.messages)
        session = provider.create_session_client(QUEUE, "ours")
        base = f"{server.url}/{QUEUE}/sessions/plain/messages"
        headers = {"Authorization": token, "Azsession-Lock-Id": str(uuid.uuid4())}

        def plain() -> float:
            began = time.process_time()
            for _ in range(options.messages):
                received = http.delete(f"{base}/head?timeout=30", headers=headers)
                lock_token = json.loads(received.headers["BrokerProperties"])["LockToken"]
                assert http.delete(f"{base}/{lock_token}", headers=headers).status_code == 204
            return (time.process_time() - began) / float(options.messages)

        def ours() -> float:
            began = time.process_time()
            for _ in range(options.messages):
                message = session.receive_message(30)
                assert message is not None
                session.complete_message(message)
            return (time.process_time() - began) / float(options.messages)

        plain()
        ours()
        before = server.cpu()
        found = interleaved(options.rounds, plain=plain, ours=ours)
        spent = (server.cpu() - before) / (2 * options.rounds * options.messages)
        session.close()
    ratio = found["ours"] / found["plain"]
    show(
        "client_overhead",
        [
            Figure(
                f"processor time of receive + complete, in the client ({options.rounds} rounds of {options.messages})",
                f"{found['plain'] * 1e6:.0f} us   requests.Session().delete(url, headers=...), twice",
                f"{found['ours'] * 1e6:.0f} us   receive_message + complete_message",
                ratio,
                "at most 0.45",
                ratio <= 0.45,
            ),
            Figure("the same, in the gateway", "", f"{spent * 1e6:.0f} us"),
        ],
    )


if __name__ == "__main__":
    main()
