"""`ServiceBusProvider.embedded`: sessions in one process, without a server."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from azsession import (
    ConfigurationError,
    Message,
    QueueNotFoundError,
    QueueSettings,
    ServiceBusProvider,
    SessionLockedError,
    ThrottledError,
    ValidationError,
)
from azsession.client.provider import core_of
from azsession.server import dispatch
from tests.conftest import eventually


def _python(code: str, *flags: str) -> tuple[int, str, str]:
    done = subprocess.run([sys.executable, *flags, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout, done.stderr


def test_a_message_is_sent_and_received_without_a_server() -> None:
    with ServiceBusProvider.embedded() as provider:
        sent = Message(
            b"paid", session_id="s/1 \u00e9", subject="x", attributes={"Case-Kept": "\u00e9", "n": 5, "f": 1.5, "b": True}
        )
        provider.send_message("orders", sent)
        with provider.create_session_client("orders") as session:
            message = session.receive_message(timeout=5)
            assert message is not None
            assert (message.body, message.session_id, message.subject) == (b"paid", "s/1 \u00e9", "x")
            assert message.attributes == sent.attributes
            session.set_session_state(b"\0state")
            assert session.get_session_state() == b"\0state"
            session.complete_message(str(message.receipt))
            assert session.receive_message(timeout=0) is None
        assert [queue.name for queue in provider.list_queues()] == ["orders"]


def test_an_embedded_provider_uses_no_socket_and_no_server_thread() -> None:
    code = """
import socket, sys, threading
def refuse(*args, **kwargs): raise AssertionError("a socket was made")
socket.socket.connect = socket.socket.bind = refuse
from azsession import *
with ServiceBusProvider.embedded() as provider:
    provider.send_message("q", Message(b"x", session_id="s"))
    with provider.create_session_client("q", "s", auto_renew=False) as session:
        session.complete_message(session.receive_message(timeout=0))
        names = [thread.name for thread in threading.enumerate() if "server" in thread.name or "presence" in thread.name]
        print(names, "uvicorn" in sys.modules)
"""
    assert _python(code) == (0, "[] False\n", "")


def test_a_sent_message_is_still_there_after_reopening_the_file(tmp_path: Path) -> None:
    path = tmp_path / "data.db"
    with ServiceBusProvider.embedded(path) as provider:
        provider.send_message("q", Message(b"1", session_id="s"))
    with ServiceBusProvider.embedded(str(path)) as provider, provider.create_session_client("q", "s") as session:
        message = session.receive_message(timeout=0)
        assert message is not None
        assert message.body == b"1"


def test_a_file_can_be_open_only_once(tmp_path: Path) -> None:
    path = tmp_path / "data.db"
    with ServiceBusProvider.embedded(path) as provider:
        with pytest.raises(ConfigurationError, match=r"data\.db is open in another process or broker"):
            ServiceBusProvider.embedded(path)
        provider.send_message("q", Message(b"1", session_id="s"))
    ServiceBusProvider.embedded(path).close()


def test_without_auto_create_only_the_named_queues_exist() -> None:
    with ServiceBusProvider.embedded(queues=["orders"], auto_create=False) as provider:
        provider.send_message("orders", Message(b"1", session_id="s"))
        with pytest.raises(QueueNotFoundError):
            provider.send_message("other", Message(b"1", session_id="s"))
        provider.create_queue("other", QueueSettings(lock_duration=5))
        assert provider.get_queue("other").settings.lock_duration == 5


def test_an_invalid_queue_name_is_refused() -> None:
    with pytest.raises(ValidationError):
        ServiceBusProvider.embedded(queues=["a b"])


def test_two_providers_in_memory_share_nothing() -> None:
    with ServiceBusProvider.embedded() as one, ServiceBusProvider.embedded() as other:
        one.send_message("q", Message(b"1", session_id="s"))
        assert other.list_queues() == []


def test_a_call_of_a_closed_provider_is_an_error() -> None:
    provider = ServiceBusProvider.embedded()
    provider.close()
    provider.close()
    with pytest.raises(ConfigurationError, match="the provider is closed"):
        provider.send_message("q", Message(b"1", session_id="s"))


def test_a_session_has_one_holder_at_a_time() -> None:
    with ServiceBusProvider.embedded() as provider:
        with provider.create_session_client("q", "s") as holder:
            holder.receive_message(timeout=0)
            other = provider.create_session_client("q", "s")
            with pytest.raises(SessionLockedError) as caught:
                other.receive_message(timeout=0)
            assert caught.value.locked_until is not None
        assert other.receive_message(timeout=0) is None
        other.close()


def test_the_limit_of_waiting_requests_does_not_apply_in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    # The limit protects a gateway from its clients. The waiting threads here are the caller's own.
    monkeypatch.setattr(dispatch, "MAX_WAITING", 1)
    throttled: list[ThrottledError] = []
    with ServiceBusProvider.embedded() as provider:

        def wait(number: int) -> None:
            with provider.create_session_client("q", f"s{number}") as session:
                try:
                    session.receive_message(timeout=60)
                except ThrottledError as error:
                    throttled.append(error)

        threads = [threading.Thread(target=wait, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        eventually(lambda: len(_waiting(provider)) == 8)
        for number in range(8):
            provider.send_message("q", Message(b"x", session_id=f"s{number}"))
        for thread in threads:
            thread.join()
    assert throttled == []


def _waiting(provider: ServiceBusProvider) -> list[object]:
    return [call for holder in core_of(provider).connection.clients() for call in holder.pending._calls]


def test_a_garbage_collected_provider_closes_its_file(tmp_path: Path) -> None:
    path = tmp_path / "data.db"
    provider = ServiceBusProvider.embedded(path)
    # The time to live starts a thread of the broker, which must not keep the broker alive.
    with provider.create_session_client("q", "s") as session:
        session.receive_message(timeout=0)
    provider.send_message("q", Message(b"1", session_id="s", time_to_live=1000))
    del provider, session
    gc.collect()

    def opens() -> bool:
        try:
            ServiceBusProvider.embedded(path).close()
        except ConfigurationError:
            return False
        return True

    eventually(opens)


def test_importing_azsession_does_not_load_the_broker() -> None:
    code = "import sys, azsession; print({'uvicorn', 'sqlite3', 'azsession.server'} & set(sys.modules))"
    assert _python(code) == (0, "set()\n", "")


def test_an_embedded_provider_needs_no_extra() -> None:
    code = """
import sys
for extra in ("uvicorn", "click", "rich", "websocket"):
    sys.modules[extra] = None
from azsession import *
with ServiceBusProvider.embedded(auto_create=True) as provider:
    provider.send_message("q", Message(b"1", session_id="s"))
    with provider.create_session_client("q", "s") as session:
        print(session.receive_message().body)
"""
    assert _python(code) == (0, "b'1'\n", "")


_OPEN = """
import sys, threading, time
from azsession import *
from azsession.client.provider import core_of
provider = ServiceBusProvider.embedded(PATH)
provider.send_message("q", Message(b"1", session_id="s"))
session = provider.create_session_client("q", "s", session_timeout=1)
session.receive_message(timeout=0)
waiting = threading.Event()
def wait():
    other = provider.create_session_client("q", "empty")
    waiting.set()
    other.receive_message(timeout=300)
    raise AssertionError("the wait ended before the interpreter")
threading.Thread(target=wait, daemon=True).start()
waiting.wait()
while not any(holder.pending._calls for holder in core_of(provider).connection.clients()):
    time.sleep(0.005)
"""


@pytest.mark.parametrize("place", ["None", "file"])
@pytest.mark.parametrize(
    ("end", "status"), [("", 0), ("sys.exit(3)", 3), ("sys.kept = provider", 0), ("del provider, session", 0)]
)
def test_the_interpreter_ends_quietly_with_an_open_provider(tmp_path: Path, place: str, end: str, status: int) -> None:
    path = "None" if place == "None" else repr(str(tmp_path / "data.db"))
    assert _python(_OPEN.replace("PATH", path) + end) == (status, "", "")
    if place == "file":
        with ServiceBusProvider.embedded(tmp_path / "data.db") as provider:
            assert [message.body for message in provider.peek_messages("q", "s")] == [b"1"]


@pytest.mark.parametrize(
    "end", ["provider.close()", "import atexit; atexit.register(provider.close)", "with provider: sys.exit()"]
)
def test_the_interpreter_ends_without_warnings_after_closing_a_provider(end: str) -> None:
    quiet = (
        _OPEN.replace("PATH", "None")
        .replace('raise AssertionError("the wait', '("')
        .replace(
            "    other.receive_message(timeout=300)\n",
            "    try:\n        other.receive_message(timeout=300)\n    except SessionNotFoundError:\n        pass\n",
        )
    )
    assert _python(quiet + end, "-X", "dev", "-W", "error") == (0, "", "")
