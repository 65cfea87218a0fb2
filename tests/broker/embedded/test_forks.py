"""Forked children of a process with an embedded broker: they cannot use the broker, and do not damage its file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from azsession.broker.embedded import EmbeddedBroker

from .helpers import copy_data, peek, send

_SCRIPT = """
import gc, json, os, sys, threading
from azsession import Message, ProviderError
from azsession.broker.calls import ReceiveRequest
from azsession.broker.embedded import EmbeddedBroker

path, what = sys.argv[1:]
broker = EmbeddedBroker(path, queues=["q"])
broker.send("q", [Message(b"before", session_id="s")]).result()
read, write = os.pipe()
child = os.fork()
if child == 0:
    said = []
    def attempt(call):
        try:
            call()
            said.append("done")
        except ProviderError as error:
            said.append(str(error))
    if what == "use":
        attempt(lambda: broker.send("q", [Message(b"child", session_id="s")]).result())
        attempt(lambda: broker.receive(ReceiveRequest("q", "s", "A", max_count=1, timeout=60)).result())
        attempt(broker.stop_waiting)
    elif what == "close":
        attempt(broker.close)
        attempt(broker.close)
    elif what == "forget":
        del broker
        gc.collect()
    elif what == "open":
        try:
            EmbeddedBroker(path)
        except ValueError as error:
            said.append(str(error))
    os.write(write, json.dumps(said).encode())
    sys.exit(0)
os.close(write)
said = os.read(read, 10000).decode()
os.waitpid(child, 0)
broker.send("q", [Message(b"after", session_id="s")]).result()
print(json.dumps([json.loads(said), sorted(os.listdir(os.path.dirname(path)))]), flush=True)
sys.stdin.readline()
if what != "kill":
    broker.close()
else:
    os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("what", ["nothing", "use", "close", "forget", "open", "kill"])
def test_a_forked_child_does_not_damage_the_file_of_its_parent(tmp_path: Path, what: str) -> None:
    path = tmp_path / "data" / "data.db"
    path.parent.mkdir()
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", _SCRIPT, str(path), what],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        said, files = json.loads(process.stdout.readline())
        with EmbeddedBroker(copy_data(path)) as broker:
            assert peek(broker) == ["before", "after"], "the file as a kill of the parent would leave it"
        process.stdin.write("\n")
        process.stdin.close()
        process.wait(30)
    assert files == ["data.db", "data.db-wal"]
    with EmbeddedBroker(path) as broker:
        assert peek(broker) == ["before", "after"]
        send(broker, "later")
    if what == "use":
        assert len(said) == 3
        assert all("the process that opened it" in one for one in said)
    elif what == "close":
        assert said == ["done", "done"]
    elif what == "open":
        assert len(said) == 1
        assert "is open in another process" in said[0]
