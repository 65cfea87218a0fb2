"""A program that runs all operations of azsession at DEBUG level and below, and prints all objects and errors.

``python -m tests.security.secrets_run FOLDER`` reads a connection string from its input, and writes its secrets as JSON to
``FOLDER/secrets``. `test_secrets` searches its other output for them.
"""

from __future__ import annotations

import base64
import contextlib
import faulthandler
import gc
import http.client
import json
import logging
import os
import pickle
import socket
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs

import requests
from rich.console import Console
from rich.traceback import Traceback

from azsession import (
    Message,
    QueueError,
    ServiceBusConfig,
    ServiceBusProvider,
    SessionClient,
    SessionNotFoundError,
    SessionProcessor,
)
from azsession.client.provider import core_of
from azsession.client.session import holder_of
from azsession.processor import DeadLetter

BEARER = "bearer-secret-eyJhbGciOiJub25lIn0"
QUEUE = "orders"


class Secrets:
    """The secrets by their kind."""

    def __init__(self) -> None:
        self.known: dict[str, list[str]] = {}

    def add(self, what: str, secret: str | bytes) -> Any:
        text = secret if isinstance(secret, str) else secret.decode()
        self.known.setdefault(what, []).append(text)
        return secret

    def add_received(self, message: Any) -> None:
        self.add("lock token", message.receipt.handle)
        self.add("receipt", str(message.receipt))

    def add_signatures(self, provider: ServiceBusProvider) -> None:
        tokens: Any = core_of(provider).transport._tokens
        for entry in tokens._entries.values():
            fields = parse_qs(entry.token.header.partition(" ")[2])
            if "sig" in fields:
                self.add("signature", fields["sig"][0])


class Credential:
    """A `TokenCredential` whose tokens no server accepts."""

    def get_token(self, *scopes: str, **kwargs: Any) -> Any:
        return SimpleNamespace(token=BEARER, expires_on=4_000_000_000)


def show_error(error: BaseException, *, show_locals: bool = True) -> None:
    """Print an error in every form."""
    print(repr(error), str(error), vars(error))
    traceback.print_exception(error)
    console = Console(file=sys.stderr, width=400)
    console.print(
        Traceback.from_exception(type(error), error, error.__traceback__, show_locals=show_locals, locals_max_string=None)
    )
    seen: set[int] = set()
    inner: BaseException | None = error
    while inner is not None and id(inner) not in seen:
        seen.add(id(inner))
        print(type(inner), inner.args, vars(inner))
        inner = inner.__cause__ or inner.__context__
    print(repr(pickle.dumps(error)))


def failing(call: Callable[[], object]) -> None:
    try:
        call()
    except QueueError as error:
        show_error(error)
    else:
        raise AssertionError("it did not fail")


def use_session(provider: ServiceBusProvider, secrets: Secrets) -> None:
    for n in range(8):
        provider.send_message(QUEUE, Message(secrets.add("body", f"body-secret-{n}-jV3"), session_id="s1"))
    with provider.create_session_client(QUEUE, "s1", on_lock_lost=lambda *_: print("lost")) as session:
        messages = session.receive_messages(8)
        for message in messages:
            secrets.add_received(message)
        secrets.add("lock id", holder_of(session).lock.lock_id)
        secrets.add_signatures(provider)
        session.set_session_state(secrets.add("state", b"state-secret-0-kQ7"))
        print(messages, [message.receipt for message in messages], session, vars(session), vars(provider))
        print(vars(holder_of(session)), vars(core_of(provider)))
        print(provider.peek_messages(QUEUE, "s1"), provider.list_sessions(QUEUE), provider.get_queue(QUEUE))
        session.get_session_state()
        session.renew_session_lock()
        session.complete_message(messages[0])
        session.abandon_message(messages[7])
        session.defer_message(messages[1])
        session.dead_letter_message(messages[2], "broken")
        session.complete_messages(messages[3:4])
        failing(lambda: session.complete_message(messages[0]))
        failing(lambda: session.receive_deferred_messages([999]))
        failing(lambda: session.dead_letter_message(messages[4], "r" * 5000))
        failing(lambda: session.set_session_state(secrets.add("state", "state-secret-1-kQ7" * 200_000).encode()))
        taker = provider.session_from_receipt(messages[4].receipt)
        print(taker)
        handle = session.lock_handle()
        secrets.add("lock handle", handle)
        mover = provider.session_from_handle(str.__str__(handle))
        print(mover, [handle], vars(mover), vars(holder_of(mover)))
        failing(lambda: provider.session_from_handle(handle[:-8]))
        failing(lambda: mover.receive_deferred_messages([998]))
        mover.detach()
        provider.create_session_client(QUEUE, "s1", auto_renew=False)
        failing(lambda: provider.create_session_client(QUEUE, "s1").receive_message(timeout=0))
        with socket.create_server(("127.0.0.1", 0)) as listener:
            threading.Thread(target=hang_up_on_all, args=(listener,), daemon=True).start()
            for port in (1, listener.getsockname()[1]):
                lose_the_way(provider.config.connection_string, port, messages[4])
        session.dead_letter_session("all of it")
        print(provider.dead_letters(QUEUE))


def hang_up_on_all(listener: socket.socket) -> None:
    """Read requests and never respond."""
    with contextlib.suppress(OSError):
        while True:
            sock, _ = listener.accept()
            with sock:
                sock.recv(65536)


def lose_the_way(connection_string: str | None, port: int, message: Any) -> None:
    """Run all operations against a server that never responds."""
    config = ServiceBusConfig(connection_string=connection_string, retry_attempts=1)
    with (
        requests.Session() as http,
        SessionClient("s1", QUEUE, 60, http, f"http://127.0.0.1:{port}", config, auto_renew=False) as broken,
    ):
        holder_of(broken).lock.register([message])
        failing(lambda: broken.complete_message(message))
        failing(lambda: broken.receive_message(timeout=0))


def be_refused(connection_string: str, secrets: Secrets) -> None:
    wrong = secrets.add("key", base64.b64encode(b"wrong-key-secret").decode())
    text = connection_string.rpartition("SharedAccessKey=")[0] + f"SharedAccessKey={wrong}"
    with ServiceBusProvider.from_connection_string(text) as provider:
        failing(lambda: provider.list_sessions(QUEUE))
        secrets.add_signatures(provider)
        failing(lambda: provider.create_session_client(QUEUE, "s9").receive_message(timeout=0))
        connection = core_of(provider).connection
        print(provider, provider.config, connection, vars(connection), connection.transport._tokens)
    signed = secrets.add("signature", base64.b64encode(b"wrong-signature-secret").decode().replace("=", "%3D"))
    endpoint = connection_string.partition(";")[0]
    text = f"{endpoint};SharedAccessSignature=SharedAccessSignature sr=x&sig={signed}&se=1&skn=root"
    with ServiceBusProvider.from_connection_string(text) as provider:
        failing(lambda: provider.list_sessions(QUEUE))
        print(provider.config, provider.config.credentials)
    config = ServiceBusConfig(gateway_url=endpoint.partition("=")[2])
    with ServiceBusProvider(config, credential=Credential()) as provider:
        failing(lambda: provider.list_sessions(QUEUE))
    named = "SharedAccessKeyName="
    for malformed in (connection_string.replace(named, "Name="), connection_string + ";;x", "x" + connection_string):
        malformed_one(malformed)


def malformed_one(connection_string: str) -> None:
    try:
        ServiceBusConfig(connection_string=connection_string)
    except QueueError as error:
        # The caller has the text in its own variables.
        show_error(error, show_locals=False)
    else:
        raise AssertionError("it was taken")


def process(provider: ServiceBusProvider, secrets: Secrets) -> None:
    for n in range(4):
        provider.send_message(QUEUE, Message(secrets.add("body", f"body-secret-{n}-pR5"), session_id=f"p{n}"))

    def handle(message: Any, session: SessionClient) -> None:
        secrets.add_received(message)
        secrets.add("lock id", holder_of(session).lock.lock_id)
        if session.session_id == "p0" and message.delivery_count == 1:
            raise RuntimeError("the handler failed")
        if session.session_id == "p1":
            raise DeadLetter("not wanted")
        if session.session_id == "p2" and message.delivery_count == 1:
            holder_of(session).lock.lose(SessionNotFoundError("stolen"))

    processor = SessionProcessor(provider, QUEUE, handle, on_error=lambda error, *_: show_error(error))
    processor.start()
    print(processor)
    deadline = time.monotonic() + 120
    while processor.stats.messages_done < 2 or processor.stats.messages_dead_lettered < 1:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    print(processor.stats)
    processor.stop(60)


def main(folder: str) -> None:
    logging.basicConfig(level=logging.DEBUG, format="%(name)s %(message)s")
    logging.raiseExceptions = True
    warnings.simplefilter("always")
    http.client.HTTPConnection.debuglevel = 1
    secrets = Secrets()
    connection_string = sys.stdin.readline().strip()
    secrets.add("key", connection_string.rpartition("SharedAccessKey=")[2])
    secrets.add("bearer token", BEARER)
    with ServiceBusProvider.from_connection_string(connection_string) as provider:
        use_session(provider, secrets)
        process(provider, secrets)
        faulthandler.dump_traceback(all_threads=True)
    be_refused(connection_string, secrets)
    with ServiceBusProvider.embedded() as provider:
        use_session_unclosed(provider, secrets)
    gc.collect()
    Path(folder, "secrets").write_text(json.dumps(secrets.known))
    print("all of it was done", flush=True)
    faulthandler.enable(all_threads=True)
    os.abort()


def use_session_unclosed(provider: ServiceBusProvider, secrets: Secrets) -> None:
    provider.send_message(QUEUE, Message(secrets.add("body", "body-secret-unclosed-wT1"), session_id="s1"))
    session = provider.create_session_client(QUEUE, "s1")
    message = session.receive_message()
    secrets.add_received(message)
    del session


if __name__ == "__main__":
    main(*sys.argv[1:])
