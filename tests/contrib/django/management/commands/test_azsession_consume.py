"""`manage.py azsession_consume`, as a process of the example project."""

from __future__ import annotations

import re
import signal
import subprocess
from pathlib import Path

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from azsession import Message, ServiceBusProvider
from azsession.testing import AzsessionServer

from .....conftest import eventually, whole_lines
from .....support.processes import Served
from ....running import Running
from ...projects import EXAMPLE, manage, start, surroundings

HANDLERS = "tests.contrib.django.handlers"
HOOKS = {"on_error": "on_error", "on_session_opened": "on_opened", "on_session_closed": "on_closed"}


class Scene:
    """A queue, and the folder with the notes of the handlers."""

    def __init__(self, server: AzsessionServer, provider: ServiceBusProvider, place: Path) -> None:
        self.provider = provider
        self._place = place
        self.environ = surroundings(server.connection_string, place / "shop.sqlite3", HANDLED_IN=str(place))

    def send(self, session_id: str, *bodies: str) -> None:
        self.provider.send_messages("q", [Message(body, session_id=session_id) for body in bodies])

    def consume(self, handler: str, *options: str) -> Running:
        command = [str(EXAMPLE / "manage.py"), "azsession_consume", "q", f"{HANDLERS}.{handler}", *options]
        return start(command, self.environ, self._place)

    def go(self) -> None:
        (self._place / "go").touch()

    def report(self) -> list[str]:
        return whole_lines(self._place / "report")

    def left(self, session_id: str) -> list[tuple[str, int]]:
        """Return text and delivery count of the remaining messages of a session. Fails if the session is locked."""
        with self.provider.create_session_client("q", session_id) as session:
            return [(each.text(), each.delivery_count) for each in session.receive_messages(100, timeout=0)]


@pytest.fixture
def scene(azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider, tmp_path: Path) -> Scene:
    azsession_server.create_queue("q")
    return Scene(azsession_server, azsession_provider, tmp_path)


def test_until_empty_ends_the_command_after_the_last_message(scene: Scene) -> None:
    for session_id in ("a", "b"):
        scene.send(session_id, "1", "2")
    ended = manage("azsession_consume", "q", f"{HANDLERS}.judge", "--until-empty", environ=scene.environ)
    assert ended.stdout == "q: 4 messages of 2 sessions done\n"
    assert scene.provider.list_sessions("q") == []


def test_sigterm_lets_handlers_finish_and_returns_the_other_messages(scene: Scene) -> None:
    for session_id in ("a", "b", "c"):
        scene.send(session_id, "1", "2", "3")
    with scene.consume("wait", "--max-concurrent-sessions", "2") as consumer:
        eventually(lambda: len(scene.report()) == 2, lambda: consumer.err, seconds=60)
        consumer.process.send_signal(signal.SIGTERM)
        # The consumer waits for the two handlers, and begins no other message.
        with pytest.raises(subprocess.TimeoutExpired):
            consumer.process.wait(0.5)
        scene.go()
        assert consumer.wait() == 0
        assert consumer.err == "consuming q; Ctrl-C ends it\n"
        assert consumer.out == "q: 2 messages of 2 sessions done\n"
    begun = {line.split()[1] for line in scene.report()}
    assert sorted(scene.report()) == sorted(f"{what} {session} 1" for what in ("began", "done") for session in begun)
    for session_id in ("a", "b", "c"):
        bodies = [body for body, _ in scene.left(session_id)]
        assert bodies == (["2", "3"] if session_id in begun else ["1", "2", "3"])


@pytest.mark.parametrize("again", [True, False])
def test_after_the_grace_period_or_a_second_signal_a_session_is_released_under_its_handler(scene: Scene, again: bool) -> None:
    scene.send("a", "1", "2")
    with scene.consume("wait", "--grace-period", "60" if again else "0.2") as consumer:
        eventually(lambda: len(scene.report()) == 1, lambda: consumer.err, seconds=60)
        consumer.process.send_signal(signal.SIGTERM)
        if again:
            with pytest.raises(subprocess.TimeoutExpired):
                consumer.process.wait(0.5)
            consumer.process.send_signal(signal.SIGINT)
        assert consumer.wait() == 1
        assert "1 session was released although the handler was still running" in consumer.err
        assert "Traceback" not in consumer.err
    assert [body for body, _ in scene.left("a")] == ["1", "2"]


def test_handlers_and_hooks_begin_with_fresh_database_connections(scene: Scene) -> None:
    scene.send("a", "good", "bad", "worse", "best")
    hooks = [f"--{hook.replace('_', '-')}={HANDLERS}.{name}" for hook, name in HOOKS.items()]
    with scene.consume("judge", "--prefetch", "2", "--session-id", "a", *hooks) as consumer:
        eventually(lambda: "fresh a best" in scene.report(), lambda: consumer.err, seconds=60)
        assert consumer.end(signal.SIGINT) == 0
        assert "q: 3 messages of 2 sessions done, 1 failed, 1 dead-lettered" in consumer.out
    told = [line for line in scene.report() if line.split()[0] in ("fresh", "stale", "ValueError")]
    assert told == ["fresh a good", "fresh a bad", "fresh a worse", "ValueError a worse", "fresh a worse", "fresh a best"]
    assert scene.report().count("opened a None") == scene.report().count("closed a None") == 2
    assert [each.body for each in scene.provider.dead_letters("q")] == [b"bad"]


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["q", f"{HANDLERS}.nobody"], "nobody"),
        (["q", "wait"], "'wait' cannot be imported"),
        (["q", f"{HANDLERS}:NOT_A_FUNCTION"], "must be a function, but it is of type int"),
        (["q", f"{HANDLERS}.wait", "--on-error", "no.such.hook"], "on_error 'no.such.hook' cannot be imported"),
        (["no queue", f"{HANDLERS}.wait"], "'no queue' is not a queue name"),
        (["q", f"{HANDLERS}.wait", "--prefetch", "0"], "prefetch"),
    ],
)
def test_a_wrong_argument_is_an_error_with_status_2(arguments: list[str], words: str) -> None:
    with pytest.raises(CommandError, match=re.escape(words)) as caught:
        call_command("azsession_consume", *arguments)
    assert caught.value.returncode == 2


def test_a_wrong_argument_on_the_command_line_has_no_traceback(scene: Scene) -> None:
    for option in ("--prefetch=0", "--prefetch=many"):
        ended = manage("azsession_consume", "q", f"{HANDLERS}.wait", option, environ=scene.environ, status=2)
        assert "prefetch" in ended.stderr
        assert "Traceback" not in ended.stderr


def test_a_missing_queue_is_an_error_with_status_1(scene: Scene) -> None:
    with Served("--memory") as served:
        environ = scene.environ | {"SERVICEBUS_CONNECTION_STRING": served.line}
        ended = manage("azsession_consume", "nothing", f"{HANDLERS}.wait", environ=environ, status=1)
    assert "CommandError: " in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_wrong_setting_is_an_error_of_the_system_checks(scene: Scene) -> None:
    environ = scene.environ | {"SERVICEBUS_CONNECTION_STRING": "Endpoint"}
    ended = manage("azsession_consume", "q", f"{HANDLERS}.wait", environ=environ, status=1)
    assert "azsession.E003" in ended.stderr
