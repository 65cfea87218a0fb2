"""`get_provider`: when the provider is made and closed, also with threads and after a fork."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from django.test import override_settings

from azsession import ConfigurationError, Message
from azsession.contrib.django import close_provider, get_provider
from azsession.testing import AzsessionServer

from ...support.processes import FORKS_IGNORED, run_python
from .projects import surroundings

MEMORY = {"EMBEDDED": "memory"}


@override_settings(AZSESSION=MEMORY)
def test_all_threads_get_the_same_provider() -> None:
    together = threading.Barrier(8)

    def get() -> object:
        together.wait()
        return get_provider()

    with ThreadPoolExecutor(8) as pool:
        assert len({id(future.result()) for future in [pool.submit(get) for _ in range(8)]}) == 1


def test_overriding_the_setting_closes_the_provider_and_makes_another(server: AzsessionServer) -> None:
    real = get_provider()
    with override_settings(AZSESSION=MEMORY):
        embedded = get_provider()
        assert embedded is not real
        assert "embedded in memory" in repr(embedded)
        with pytest.raises(ConfigurationError, match="closed"):
            real.send_message("q", Message("x", session_id="s"))
    assert repr(get_provider()) == f"<ServiceBusProvider at {server.url}>"
    with pytest.raises(ConfigurationError, match="closed"):
        embedded.send_message("q", Message("x", session_id="s"))


@override_settings(AZSESSION=MEMORY)
def test_overriding_another_setting_keeps_the_provider() -> None:
    provider = get_provider()
    with override_settings(DEBUG=True):
        assert get_provider() is provider


@override_settings(AZSESSION=MEMORY)
def test_after_close_the_next_embedded_broker_is_empty() -> None:
    get_provider().send_message("q", Message("x", session_id="s"))
    close_provider()
    close_provider()
    assert get_provider().list_queues() == []


def test_an_embedded_broker_keeps_its_messages_in_a_file(tmp_path: Path) -> None:
    with override_settings(AZSESSION={"EMBEDDED": tmp_path / "shop.db"}):
        get_provider().send_message("q", Message("kept", session_id="s"))
        close_provider()
        assert [each.body for each in get_provider().peek_messages("q", "s")] == [b"kept"]


_SCRIPT = """
import os, signal, sys, threading, traceback
signal.alarm(55)
from django.conf import settings
settings.configure(AZSESSION=sys.argv[1])
from azsession import Message
from azsession.contrib.django import get_provider

def fork(work):
    pid = os.fork()
    if pid:
        return pid
    signal.alarm(50)
    try:
        work()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    sys.exit()  # Runs the functions of atexit, like a worker of a web server.

def join(*children):
    for pid in children:
        assert os.waitpid(pid, 0)[1] == 0
"""


def script(text: str, server: AzsessionServer, tmp_path: Path) -> None:
    """Run a script in a separate process. It must end with status 0 and without a warning."""
    warnings = ["-W", "error", "-W", FORKS_IGNORED]
    run_python(*warnings, "-c", _SCRIPT + text, server.connection_string, environ=surroundings(None, tmp_path / "none"))


def test_open_sessions_are_released_when_the_process_ends(server: AzsessionServer, tmp_path: Path) -> None:
    get_provider().send_message("q", Message("x", session_id="s"))
    script(
        """
session = get_provider().create_session_client("q", "s")
assert session.receive_message(timeout=5).body == b"x"
""",
        server,
        tmp_path,
    )
    # The session was released before its lock of one minute expired.
    with get_provider().create_session_client("q", "s") as session:
        message = session.receive_message(timeout=0)
        assert message is not None
        assert message.delivery_count == 1


def test_forked_children_use_connections_of_their_own(server: AzsessionServer, tmp_path: Path) -> None:
    script(
        """
provider = get_provider()
kept = provider.create_session_client("q", "parent")
provider.send_message("q", Message("x", session_id="parent"))
kept.receive_message(timeout=5)

def sockets():
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add(os.readlink("/proc/self/fd/" + name))
        except OSError:
            pass
    return {name for name in found if name.startswith("socket:")}

before = sockets()

def child(name):
    with get_provider().create_session_client("q", name) as session:
        for number in range(20):
            get_provider().send_message("q", Message(str(number), session_id=name))
            message = session.receive_message(timeout=5)
            assert message.text() == str(number)
            session.complete_message(message)
    assert sockets() - before

join(*[fork(lambda name=name: child(name)) for name in ("a", "b", "c")])
# The end of a child has not released the parent's session.
kept.renew_session_lock()
kept.close_session()
""",
        server,
        tmp_path,
    )
    assert [each.session_id for each in get_provider().list_sessions("q")] == ["parent"]


def test_a_forked_child_cannot_use_the_embedded_broker_of_its_parent(server: AzsessionServer, tmp_path: Path) -> None:
    script(
        """
from azsession import ConfigurationError
settings.AZSESSION = {"EMBEDDED": "memory"}
get_provider().send_message("q", Message("x", session_id="s"))

def child():
    try:
        get_provider().list_sessions("q")
    except ConfigurationError as error:
        assert "belongs to the process that opened it" in str(error)
    else:
        raise AssertionError

join(fork(child))
assert len(get_provider().list_sessions("q")) == 1
""",
        server,
        tmp_path,
    )


def test_a_fork_while_a_thread_makes_the_provider_leaves_no_lock_held(server: AzsessionServer, tmp_path: Path) -> None:
    script(
        """
from azsession.contrib.provider_setting import ProviderSetting
inside, forked, make = threading.Event(), threading.Event(), ProviderSetting.make_provider

def slow(self):
    if threading.current_thread() is not threading.main_thread():
        inside.set()
        assert forked.wait(20)
    return make(self)

ProviderSetting.make_provider = slow
maker = threading.Thread(target=get_provider)
maker.start()
assert inside.wait(20)
child = fork(lambda: get_provider().send_message("q", Message("x", session_id="s")))
forked.set()
maker.join()
join(child)
""",
        server,
        tmp_path,
    )
    assert [each.session_id for each in get_provider().list_sessions("q")] == ["s"]
