"""A provider imports nothing after it was made: a child forked during an import would wait for its lock for ever."""

from __future__ import annotations

import pytest

from azsession.testing import AzsessionServer

from ..support.processes import environment, run_python

_SCRIPT = """
import sys
from azsession import *

place = sys.argv[1]
provider = ServiceBusProvider.from_connection_string(place, retry_attempts=1) if place else ServiceBusProvider.embedded()
before = set(sys.modules)
try:
    provider.send_message("q", Message("1", session_id="s"))
    with provider.create_session_client("q") as session:
        message = session.receive_message(timeout=5)
        session.renew_session_lock()
        session.abandon_message(message)
        for message in session.messages(timeout=0, prefetch=5):
            session.dead_letter_message(message, "why")
        session.set_session_state(b"1")
    provider.list_sessions("q")
    provider.dead_letters("q")
except ConnectionFailedError:
    assert place.endswith("a2V5")
provider.close()
print(sorted(set(sys.modules) - before))
"""

_REFUSED = "Endpoint=http://127.0.0.1:1/;SharedAccessKeyName=k;SharedAccessKey=a2V5"
_UNKNOWN = "Endpoint=https://nowhere.invalid/;SharedAccessKeyName=k;SharedAccessKey=a2V5"


@pytest.mark.parametrize("place", ["embedded", "gateway", _REFUSED, _UNKNOWN])
def test_a_provider_imports_nothing_after_it_was_made(azsession_server: AzsessionServer, place: str) -> None:
    places = {"embedded": "", "gateway": azsession_server.connection_string}
    ended = run_python("-c", _SCRIPT, places.get(place, place), environ=environment())
    assert ended.stdout == "[]\n"
