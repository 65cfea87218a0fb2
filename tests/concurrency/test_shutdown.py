"""The exit of the interpreter, interrupts, and garbage collection. Each test runs a script and checks all that it prints."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from azsession import Message
from azsession.testing import AzsessionServer

from .servers import RenewalServer

_STRICT = ("-X", "dev", "-W", "error")
_DEV = ("-X", "dev")
_TOOLS = '''
import faulthandler
# A process that hangs prints where, and ends.
faulthandler.dump_traceback_later(30, exit=True)
import atexit, gc, logging, sys, threading, time
from azsession import *
from azsession.client.session import holder_of

logging.getLogger("azsession").addHandler(logging.NullHandler())
provider = ServiceBusProvider.from_connection_string(sys.argv[1])


def until(condition):
    while not condition():
        time.sleep(0.005)


def waits(client):
    """Return whether a request of the client waits for its answer."""
    holder = holder_of(client)
    calls = [*holder.pending._calls, *holder.renewals._calls]
    return any(call.in_flight is not None and call.in_flight.written for call in calls)


def threads():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("azsession")]


def opened(session_id, **options):
    client = provider.create_session_client("q", session_id, **options)
    client.receive_message(timeout=0)
    return client


'''


def run(flags: tuple[str, ...], script: str, connection_string: str, tools: str = _TOOLS) -> tuple[int, str]:
    """Run a script. Return its exit status and its stderr."""
    done = subprocess.run(
        [sys.executable, *flags, "-c", tools + script, connection_string],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stderr


def start(script: str, connection_string: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *_STRICT, "-c", _TOOLS + script, connection_string],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def complaints(stderr: str) -> list[str]:
    """Return the lines that are not of a warning about something that was never closed."""
    # Python 3.13 and later print the line of the script below the warning.
    fine = r"^.*ResourceWarning: .*was never closed: its lock holds until it expires\n(  .*\n)?"
    fine += r"|^ResourceWarning: Enable tracemalloc .*\n"
    return re.sub(fine, "", stderr, flags=re.MULTILINE).splitlines()


_UNDER_WAY = """
clients = [opened(f"s{n}", session_timeout=3) for n in range(5)]
waiting = opened("waiting")


def wait():
    try:
        waiting.receive_message(timeout=300)
    except SessionNotFoundError:  # It was closed.
        pass


threading.Thread(target=wait, daemon=True).start()
until(lambda: waits(waiting))
# The server does not answer their renewals.
until(lambda: any(map(waits, clients)))
"""


@pytest.fixture
def silent_server() -> Iterator[RenewalServer]:
    with RenewalServer(lasts=3) as server:
        server.silent |= {f"s{n}" for n in range(5)}
        yield server


def test_closing_a_provider_at_exit_closes_its_connections(azsession_server: AzsessionServer) -> None:
    early = """
import atexit, sys
atexit.register(lambda: provider.close())
from azsession import *
provider = ServiceBusProvider.from_connection_string(sys.argv[1])
client = provider.create_session_client("q", "s")
client.receive_message(timeout=0)
"""
    assert run(_STRICT, early, azsession_server.connection_string, tools="") == (0, "")
    with azsession_server.provider() as provider, provider.create_session_client("q", "s") as client:
        assert client.receive_message(timeout=0) is None


@pytest.mark.parametrize(
    ("end", "status"),
    [
        ("", 0),
        ("sys.exit(3)", 3),
        ("del clients, provider", 0),
        # They are deleted after the script's own names.
        ("sys.kept = clients", 0),
    ],
)
def test_the_interpreter_exits_quietly_during_waits_and_renewals(silent_server: RenewalServer, end: str, status: int) -> None:
    left, stderr = run(_DEV, _UNDER_WAY + end, silent_server.connection_string)
    assert (left, complaints(stderr)) == (status, []), stderr


@pytest.mark.parametrize("end", ["provider.close()", "atexit.register(provider.close)", "with provider: sys.exit()"])
def test_closing_during_waits_and_renewals_prints_no_warning(silent_server: RenewalServer, end: str) -> None:
    assert run(_STRICT, _UNDER_WAY + end, silent_server.connection_string) == (0, "")


def test_a_closed_session_prints_no_warning_at_exit(azsession_server: AzsessionServer) -> None:
    script = """
with provider:
    provider.send_message("q", Message("1", session_id="s"))
    with provider.create_session_client("q", "s") as client:
        client.complete_message(client.receive_message(timeout=10))
assert threads() == []
"""
    assert run(_STRICT, script, azsession_server.connection_string) == (0, "")


def test_a_session_can_be_used_while_the_interpreter_exits(
    azsession_server: AzsessionServer,
) -> None:
    script = """
provider.send_message("q", Message("1", session_id="s"))


@atexit.register
def last():
    with provider, provider.create_session_client("q", "s") as client:
        client.complete_message(client.receive_message(timeout=10))
"""
    assert run(_STRICT, script, azsession_server.connection_string) == (0, "")
    with azsession_server.provider() as provider:
        assert provider.peek_messages("q", "s") == []


@pytest.mark.parametrize("closed", [True, False])
def test_a_garbage_collected_provider_leaves_no_thread(silent_server: RenewalServer, closed: bool) -> None:
    script = """
client = opened("s", session_timeout=60)
until(threads)
if CLOSED:
    client.close()
del client, provider
gc.collect()
until(lambda: not threads())
"""
    script = script.replace("CLOSED", str(closed))
    status, stderr = run(_STRICT if closed else _DEV, script, silent_server.connection_string)
    assert (status, [] if closed else complaints(stderr)) == (0, []), stderr
    assert bool(stderr) is not closed


def test_a_client_can_be_used_after_an_interrupted_receive(azsession_server: AzsessionServer) -> None:
    script = """
def tell():
    until(lambda: waits(client))
    print("waiting", flush=True)


with provider, provider.create_session_client("q", "s") as client:
    teller = threading.Thread(target=tell)
    teller.start()
    try:
        client.receive_message(timeout=300)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    teller.join()
    message = client.receive_message(timeout=20)
    client.complete_message(message)
    print(message.text(), flush=True)
"""
    with start(script, azsession_server.connection_string) as process, azsession_server.provider() as provider:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "interrupted\n"
        provider.send_message("q", Message("1", session_id="s"))
        assert process.communicate(timeout=40) == ("1\n", "")
        assert process.returncode == 0
        assert provider.peek_messages("q", "s") == []


def test_an_interrupt_that_ends_the_program_releases_the_session(azsession_server: AzsessionServer) -> None:
    script = """
with provider, provider.create_session_client("q", "s") as client:
    message = client.receive_message(timeout=20)
    threading.Thread(target=lambda: (until(lambda: waits(client)), print("waiting", flush=True))).start()
    client.receive_message(timeout=300)
"""
    with azsession_server.provider() as provider:
        provider.send_message("q", Message("1", session_id="s"))
        with start(script, azsession_server.connection_string) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "waiting\n"
            process.send_signal(signal.SIGINT)
            _, stderr = process.communicate(timeout=40)
        assert process.returncode == -signal.SIGINT
        assert stderr.endswith("\nKeyboardInterrupt\n")
        assert "During handling" not in stderr
        assert "Exception ignored" not in stderr
        with provider.create_session_client("q", "s") as client:
            message = client.receive_message(timeout=20)
            assert message is not None
            assert message.body == b"1"


def test_the_warning_about_an_open_session_at_exit_has_no_traceback(
    azsession_server: AzsessionServer,
) -> None:
    script = """
session = opened("kept")
session.receive_message(timeout=0)
sys.modules["azsession"].kept = type("Kept", (), {"session": session})
"""
    left, stderr = run(_DEV, script, azsession_server.connection_string)
    assert (left, complaints(stderr)) == (0, []), stderr
    assert "'kept'" in stderr
