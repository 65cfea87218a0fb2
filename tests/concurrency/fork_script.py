"""Runs scripts that fork. Each script starts with the names that `_TOOLS` defines."""

from __future__ import annotations

import subprocess
import sys

_TOOLS = '''
import faulthandler, gc, os, signal, sys, threading, time, traceback
# A process that hangs prints where, and is killed. A forked child sets its own alarm.
faulthandler.register(signal.SIGALRM, chain=True)
signal.alarm(100)
from azsession import *
from azsession.client.session import holder_of

provider = ServiceBusProvider.from_connection_string(sys.argv[1], ca_bundle=sys.argv[2] if sys.argv[2:] else None)


def sockets():
    """Return the sockets of this process, by the kernel's numbers."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add(os.readlink("/proc/self/fd/" + name))
        except OSError:
            pass
    return {name for name in found if name.startswith("socket:")}


def fork(work, leave=os._exit):
    """Run `work` in a child; return its process id."""
    pid = os.fork()
    if pid:
        return pid
    signal.alarm(80)
    status = 1
    try:
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
    leave(status)


def join(*children):
    for pid in children:
        _, status = os.waitpid(pid, 0)
        assert status == 0, f"a child ended with {status}"


def refused(kind, call):
    try:
        call()
    except kind:
        return
    raise AssertionError(f"no {kind.__name__}")


def work_through(session, count=30):
    """Send messages to a session and receive them. Each answer must belong to its own request."""
    for n in range(count):
        provider.send_message("q", Message(f"{session}:{n}", session_id=session))
    with provider.create_session_client("q", session) as client:
        for n in range(count):
            message = client.receive_message(timeout=10)
            assert message.text() == f"{session}:{n}", message.text()
            client.complete_message(message)
    assert provider.peek_messages("q", session) == []


'''


def run(script: str, *arguments: str) -> str:
    """Run a script and return its output. It fails by raising an exception."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", _TOOLS + script, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout
