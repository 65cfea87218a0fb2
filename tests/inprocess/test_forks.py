"""A forked child of a process with an embedded provider: its calls fail at once, and change nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

_SCRIPT = """
import gc, json, os, signal, sys, threading, time
signal.alarm(100)
from azsession import *
from azsession.client.provider import core_of
path = sys.argv[1] or None
provider = ServiceBusProvider.embedded(path)
provider.send_message("q", Message(b"before", session_id="s"))
session = provider.create_session_client("q", "s")
message = session.receive_message(timeout=0)
def wait():
    with provider.create_session_client("q", "other") as other:
        assert other.receive_message(timeout=60).body == b"woken"
waiting = threading.Thread(target=wait)
waiting.start()
while len(core_of(provider).connection.clients()) < 2:
    time.sleep(0.005)
read, write = os.pipe()
child = os.fork()
if child == 0:
    signal.alarm(80)
    said = []
    def attempt(call):
        began = time.monotonic()
        try:
            call()
            said.append("done")
        except QueueError as error:
            assert time.monotonic() - began < 5, "the call was retried"
            said.append(f"{type(error).__name__}: {error}")
    attempt(lambda: provider.send_message("q", Message(b"child", session_id="s")))
    attempt(lambda: provider.create_session_client("q", "t").receive_message(timeout=60))
    attempt(lambda: session.complete_message(message))
    attempt(lambda: session.receive_message(timeout=0))
    attempt(provider.close)
    del session, provider
    gc.collect()
    with ServiceBusProvider.embedded() as own:
        own.send_message("q", Message(b"own", session_id="s"))
        with own.create_session_client("q", "s") as client:
            said.append(client.receive_message(timeout=0).text())
    if path:
        attempt(lambda: ServiceBusProvider.embedded(path))
    os.write(write, json.dumps(said).encode())
    os._exit(0)
os.close(write)
print(os.read(read, 100000).decode())
assert os.waitpid(child, 0)[1] == 0
provider.send_message("q", Message(b"woken", session_id="other"))
waiting.join()
session.complete_message(message)
provider.send_message("q", Message(b"after", session_id="s"))
assert session.receive_message(timeout=0).body == b"after"
provider.close()
"""


@pytest.mark.parametrize("kept", ["in memory", "on a file"])
def test_calls_of_a_forked_child_fail_at_once_and_the_parent_goes_on(tmp_path: Path, kept: str) -> None:
    path = str(tmp_path / "data.db") if kept == "on a file" else ""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _SCRIPT, path], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    said = json.loads(done.stdout)
    for refusal in said[:3]:
        assert refusal.startswith("ConfigurationError: the embedded broker ")
        assert "belongs to the process that opened it" in refusal
        assert "azsession serve" in refusal
        assert (path or "in memory") in refusal
    # The session always stays the parent's. Closing succeeds, although the child does not own the broker.
    assert said[3].startswith("SessionNotFoundError")
    assert said[4:6] == ["done", "own"]
    if path:
        assert "is open in another process" in said[6]
