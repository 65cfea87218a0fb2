"""Sessions per second that have one message each: accept the next session, receive, complete, release, in one thread.

azsession opens a link on one connection for each session, and waits for every answer. The SDK's session receiver opens a
connection of its own.
"""

from __future__ import annotations

import time

from .common import Figure, arguments, interleaved, show
from .standin import PEER, SERVERS, fill_sessions, namespace, sdk_session

OURS, THEIRS = "ours", "theirs"


def main() -> None:
    """Run the benchmark, and print its figures."""
    options = arguments("azure_sessions", __doc__ or "", rounds=5, sessions=300, peer_sessions=4, server=SERVERS)
    with namespace(OURS, THEIRS, server=options.server) as standin, standin.provider() as provider, standin.sdk() as client:
        fill_sessions(provider, OURS, options.rounds * options.sessions + options.sessions)
        fill_sessions(provider, THEIRS, options.rounds * options.peer_sessions + 1)

        def ours() -> float:
            began = time.perf_counter()
            for _ in range(options.sessions):
                with provider.create_session_client(OURS) as session:
                    message = session.receive_message(5)
                    assert message is not None
                    session.complete_message(message)
            return float(options.sessions) / (time.perf_counter() - began)

        def theirs() -> float:
            began = time.perf_counter()
            for _ in range(options.peer_sessions):
                sdk_session(client, THEIRS)
            return float(options.peer_sessions) / (time.perf_counter() - began)

        ours()
        sdk_session(client, THEIRS)
        found = interleaved(options.rounds, theirs=theirs, ours=ours)
    ratio = found["ours"] / found["theirs"]
    show(
        "azure_sessions",
        [
            Figure(
                f"sessions of one message a second, one thread, server {options.server} ({options.rounds} rounds)",
                f"{found['theirs']:.2f}/s   get_queue_receiver(NEXT_AVAILABLE_SESSION) each ({PEER})",
                f"{found['ours']:.0f}/s   create_session_client + receive_message + complete_message + close_session",
                ratio,
                "at least 500 a second",
                found["ours"] >= 500,
            )
        ],
    )


if __name__ == "__main__":
    main()
