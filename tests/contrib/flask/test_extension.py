"""`AzSession`, `current_provider` and handlers, in one process and in forked ones."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from flask import Flask, current_app, g, has_app_context

from azsession import (
    ConfigurationError,
    DeadLetter,
    Message,
    ReceivedMessage,
    ServiceBusProvider,
    SessionClient,
    SessionProcessor,
)
from azsession.contrib.flask import AzSession, current_provider
from azsession.testing import AzsessionServer

from ...conftest import eventually
from ...support.paths import ROOT
from ...support.processes import FORKS_IGNORED, environment, run_python


def make_app(name: str = __name__, **config: object) -> Flask:
    app = Flask(name)
    app.config.update({"AZSESSION_EMBEDDED": "memory", **config})
    return app


@pytest.fixture
def app() -> Iterator[Flask]:
    app = make_app()
    azsession = AzSession(app)
    yield app
    azsession.close(app)


def left(provider: ServiceBusProvider) -> int | None:
    return provider.get_queue("orders").active_count


def test_all_requests_of_an_app_use_the_same_provider(app: Flask) -> None:
    @app.post("/orders/<order>")
    def place(order: str) -> str:
        return current_provider.send_message("orders", Message("placed", session_id=order))

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda number: app.test_client().post(f"/orders/{number}"), range(24)))
    assert {answer.status_code for answer in answers} == {200}
    with app.app_context():
        # With several providers, each would have its own embedded broker.
        assert len(current_provider.list_sessions("orders")) == 24
        assert isinstance(current_provider, ServiceBusProvider)


def test_threads_that_ask_at_the_same_time_get_the_same_provider(app: Flask) -> None:
    together = threading.Barrier(8)

    def ask() -> ServiceBusProvider:
        with app.app_context():
            together.wait(30)
            return app_provider(app)

    with ThreadPoolExecutor(8) as pool:
        assert len({id(each.result()) for each in [pool.submit(ask) for _ in range(8)]}) == 1


def app_provider(app: Flask) -> ServiceBusProvider:
    with app.app_context():
        return AzSession().provider


def test_apps_in_one_process_have_providers_of_their_own() -> None:
    azsession = AzSession()
    apps = [make_app(name) for name in ("shop", "stock")]
    for app in apps:
        azsession.init_app(app)
        with app.app_context():
            current_provider.send_message("orders", Message(app.name, session_id="1"))
    for app in apps:
        with app.app_context():
            assert [message.text() for message in current_provider.peek_messages("orders", "1")] == [app.name]
            assert azsession.provider is app_provider(app)
        azsession.close(app)


def test_the_application_context_wins_over_the_app_of_the_constructor() -> None:
    shop, stock = make_app("shop"), make_app("stock")
    azsession = AzSession(shop)
    azsession.init_app(stock)
    with stock.app_context():
        assert azsession.provider is app_provider(stock)
    assert azsession.provider is app_provider(shop)
    azsession.close(shop)
    azsession.close(stock)


def test_without_a_context_there_is_no_current_provider(app: Flask) -> None:
    for use in (lambda: current_provider.config, lambda: AzSession().provider, lambda: AzSession().handler(print)):
        with pytest.raises(RuntimeError, match="application context"):
            use()


def test_an_app_without_an_extension_is_an_error() -> None:
    with Flask(__name__).app_context(), pytest.raises(ConfigurationError, match=r"no AzSession: call AzSession\(app\)"):
        _ = current_provider.config


def test_a_second_extension_for_an_app_is_refused(app: Flask) -> None:
    with pytest.raises(ConfigurationError, match="already has an AzSession"):
        AzSession(app)


def test_the_next_use_after_close_makes_another_provider(app: Flask) -> None:
    azsession = AzSession()
    with app.app_context():
        first = azsession.provider
        azsession.close()
        azsession.close()
        with pytest.raises(ConfigurationError, match="closed"):
            first.list_sessions("orders")
        assert azsession.provider is not first


# Handlers


def test_each_call_of_a_handler_has_its_own_context_which_ends_before_its_message_is_completed(app: Flask) -> None:
    handled: list[tuple[str, bool, str]] = []
    torn_down: list[tuple[object, int | None]] = []
    all_done = threading.Event()

    @app.teardown_appcontext
    def teardown(error: BaseException | None) -> None:
        if "text" in g:
            torn_down.append((g.text if error is None else (g.text, type(error)), left(current_provider)))

    def handle(message: ReceivedMessage, session: SessionClient) -> None:
        handled.append((message.text(), "text" in g, current_app.name))
        g.text = message.text()
        if message.text() == "b":
            raise DeadLetter("no such order")

    def closed(session: SessionClient) -> None:
        assert has_app_context()
        all_done.set()

    with app.app_context():
        provider, processor = AzSession().provider, AzSession().processor("orders", handle, on_session_closed=closed)
    provider.send_messages("orders", [Message(text, session_id="1") for text in "abc"])
    with processor:
        assert all_done.wait(30)
    assert handled == [(text, False, app.name) for text in "abc"]
    assert torn_down == [("a", 3), (("b", DeadLetter), 2), ("c", 1)]
    assert (left(provider), provider.get_queue("orders").dead_letter_count) == (0, 1)


def test_on_error_has_a_context_and_the_failed_message_is_redelivered(app: Flask) -> None:
    reported: list[str] = []
    times = iter([RuntimeError("not yet"), None])
    done = threading.Event()

    def handle(message: ReceivedMessage, session: SessionClient) -> None:
        error = next(times)
        if error is not None:
            raise error
        done.set()

    def report(error: BaseException, session: SessionClient | None, message: ReceivedMessage | None) -> None:
        reported.append(f"{current_app.name}: {error}")

    with app.app_context():
        processor, provider = AzSession().processor("orders", handle, on_error=report), AzSession().provider
    provider.send_message("orders", Message("paid", session_id="1"))
    with processor:
        assert done.wait(30)
        eventually(lambda: left(provider) == 0)
    assert reported == [f"{app.name}: not yet"]


def test_a_handler_may_be_a_coroutine_function(app: Flask) -> None:
    seen: list[str] = []

    async def handle(message: ReceivedMessage, session: SessionClient) -> None:
        seen.append(f"{current_app.name}: {message.text()}")

    with app.app_context():
        processor, provider = AzSession().processor("orders", handle), AzSession().provider
    provider.send_message("orders", Message("paid", session_id="1"))
    with processor:
        eventually(lambda: left(provider) == 0)
    assert seen == [f"{app.name}: paid"]


def test_handler_wraps_a_function_for_another_processor(app: Flask) -> None:
    seen: list[str] = []
    with app.app_context():
        provider = AzSession().provider

        @AzSession().handler
        def handle(message: ReceivedMessage, session: SessionClient) -> None:
            """Its docstring."""
            seen.append(f"{current_app.name}: {message.text()}")

    assert handle.__doc__ == "Its docstring."
    provider.send_message("orders", Message("paid", session_id="1"))
    with SessionProcessor(provider, "orders", handle):
        eventually(lambda: left(provider) == 0)
    assert seen == [f"{app.name}: paid"]


def test_a_handler_that_is_wrapped_twice_has_one_context(app: Flask) -> None:
    torn_down: list[object] = []
    app.teardown_appcontext(torn_down.append)
    azsession = AzSession()
    with app.app_context():
        wrapped = azsession.handler(azsession.handler(lambda: "done"))
    torn_down.clear()
    assert (wrapped(), torn_down) == ("done", [None])


# Processes


def run(script: str, connection_string: str) -> None:
    """Run a script with an app to its end. Any warning fails the test."""
    head = """
import os, sys, traceback
from flask import Flask
from azsession import *
from azsession.contrib.flask import AzSession, current_provider

app = Flask("scripted")
azsession = AzSession(app)

def fork(work):
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
"""
    run_python(
        "-X", "dev", "-W", FORKS_IGNORED, "-c", head + script, environ=environment(connection_string, PYTHONPATH=str(ROOT))
    )


def test_open_sessions_are_released_when_the_process_ends(azsession_server: AzsessionServer) -> None:
    with azsession_server.provider() as provider:
        provider.send_message("orders", Message("paid", session_id="1"))
        run(
            """
with app.app_context():
    session = current_provider.create_session_client("orders", "1")
    print(session.receive_message(timeout=5).text())
""",
            azsession_server.connection_string,
        )
        with provider.create_session_client("orders", "1") as session:
            received = session.receive_message(timeout=0)
            assert received is not None
            session.complete_message(received)


def test_a_forked_child_makes_its_own_provider_and_settles_messages_of_its_parent(
    azsession_server: AzsessionServer,
) -> None:
    run(
        """
parents = azsession.provider
parents.send_messages("orders", [Message(text, session_id="1") for text in "abc"])
session = parents.create_session_client("orders", "1")
receipt = str(session.receive_message().receipt)

def child():
    with app.app_context():
        assert azsession.provider is not parents
        with current_provider.session_from_receipt(receipt) as elsewhere:
            elsewhere.complete_message(receipt)
        current_provider.send_message("orders", Message("d", session_id="1"))
    azsession.close()

fork(child)
assert azsession.provider is parents
assert [message.text() for message in session.messages(timeout=0)] == ["b", "c", "d"]
""",
        azsession_server.connection_string,
    )


def test_a_forked_child_cannot_use_the_embedded_broker_of_its_parent(azsession_server: AzsessionServer) -> None:
    run(
        """
app.config.update(AZSESSION_EMBEDDED="memory")
azsession.provider.send_message("orders", Message("paid", session_id="1"))

def child():
    try:
        azsession.provider.list_sessions("orders")
    except ConfigurationError as error:
        assert "belongs to the process that opened it" in str(error), error
    else:
        raise AssertionError("it has another broker")

fork(child)
assert len(azsession.provider.list_sessions("orders")) == 1
""",
        azsession_server.connection_string,
    )
