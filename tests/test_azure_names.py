"""Code that uses a name of azure-servicebus, as the installed package has it, gets an error that has the right one."""

from __future__ import annotations

import inspect
import pickle
import re
from collections.abc import Callable

import attrs
import azure.servicebus
import azure.servicebus.exceptions
import pytest
from azure.servicebus import (
    NEXT_AVAILABLE_SESSION,
    ServiceBusClient,
    ServiceBusMessage,
    ServiceBusReceivedMessage,
    ServiceBusReceiver,
    ServiceBusSender,
    ServiceBusSession,
)

import azsession
from azsession import (
    ConfigurationError,
    Message,
    PeekedMessage,
    ReceivedMessage,
    ServiceBusConfig,
    ServiceBusProvider,
    SessionClient,
    SessionLockedError,
    ValidationError,
)
from azsession.azure_names import COUNTERPARTS, counterpart

#: Each class of azure-servicebus, and the class that has its purpose here.
CLASSES = [
    (ServiceBusClient, ServiceBusProvider, "ServiceBusProvider"),
    (ServiceBusSender, ServiceBusProvider, "ServiceBusProvider"),
    (ServiceBusReceiver, SessionClient, "SessionClient"),
    (ServiceBusSession, SessionClient, "SessionClient"),
    (ServiceBusMessage, Message, "Message"),
    (ServiceBusReceivedMessage, ReceivedMessage, "PeekedMessage"),
]
FUNCTIONS: list[tuple[Callable[..., object], Callable[..., object], str]] = [
    (ServiceBusMessage.__init__, Message.__init__, "Message()"),
    (ServiceBusReceiver.receive_messages, SessionClient.receive_messages, "receive_messages()"),
    (ServiceBusReceiver.dead_letter_message, SessionClient.dead_letter_message, "dead_letter_message()"),
    (ServiceBusClient.get_queue_receiver, ServiceBusProvider.create_session_client, "create_session_client()"),
]


def public(thing: object) -> set[str]:
    return {name for name in dir(thing) if not name.startswith("_")}


@pytest.mark.parametrize(("theirs", "ours", "place"), CLASSES, ids=lambda each: getattr(each, "__name__", None))
def test_every_attribute_of_theirs_is_here_or_has_a_counterpart(theirs: type, ours: type, place: str) -> None:
    assert len(public(theirs)) > 4
    assert {name for name in public(theirs) - public(ours) if counterpart(place, name) is None} == set()


@pytest.mark.parametrize(("theirs", "ours", "place"), FUNCTIONS, ids=lambda each: getattr(each, "__qualname__", None))
def test_every_argument_of_theirs_is_here_or_has_a_counterpart(
    theirs: Callable[..., object], ours: Callable[..., object], place: str
) -> None:
    wanted = {name for name, each in inspect.signature(theirs).parameters.items() if each.kind is not each.VAR_KEYWORD}
    missing = wanted - set(inspect.signature(ours).parameters) - {"message"}
    assert missing
    assert {name for name in missing if counterpart(place, name) is None} == set()


def test_every_class_and_error_of_theirs_has_a_counterpart() -> None:
    errors = [each for each in vars(azure.servicebus.exceptions).values() if inspect.isclass(each)]
    names = {each.__name__ for each in errors if each.__module__ == azure.servicebus.exceptions.__name__}
    assert len(names) > 15
    assert {name for name in names | set(azure.servicebus.__all__) if counterpart("azsession", name) is None} == set()


def known_names() -> set[str]:
    """Return all public names of the package, of its classes, and of their arguments."""
    classes = [getattr(azsession, name) for name in azsession.__all__ if name != "__version__"]
    known = set(azsession.__all__) | {name for cls in classes for name in public(cls)}
    functions = [each for cls in classes for _, each in inspect.getmembers(cls, inspect.isfunction)]
    known |= {name for function in functions for name in inspect.signature(function).parameters}
    return known | {field.name for field in attrs.fields(ServiceBusConfig)} | {"config", "code"}


def test_the_counterparts_exist() -> None:
    hints = [hint for table in COUNTERPARTS.values() for hint in table.values()]
    named = {name for hint in hints for name in re.findall(r"(?:\buse |provider\.|session\.|SessionClient\.)(\w+)", hint)}
    assert len(named) > 40
    assert named - known_names() - {"transport", "the", "session", "str", "__cause__"} == set()


@pytest.mark.parametrize(
    ("name", "instead"), [("application_properties", "attributes"), ("label", "subject"), ("partition_key", "session_id")]
)
def test_a_message_made_with_their_argument_names_the_right_one(name: str, instead: str) -> None:
    with pytest.raises(TypeError, match=rf"^Message\(\) got an unexpected keyword argument '{name}': use {instead}"):
        Message("x", **{name: "y"})  # type: ignore[arg-type]


def test_an_unknown_argument_of_a_message_is_the_error_of_python() -> None:
    with pytest.raises(TypeError, match=r"got an unexpected keyword argument 'sesion_id'"):
        Message("x", sesion_id="s")  # type: ignore[call-arg]
    assert list(inspect.signature(Message).parameters)[:2] == ["body", "session_id"]


def test_an_attribute_of_theirs_names_the_right_one() -> None:
    message = PeekedMessage(body=b"x")
    with pytest.raises(AttributeError, match="'PeekedMessage' object has no attribute 'enqueued_time_utc': use enqueued_at"):
        message.enqueued_time_utc  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(AttributeError, match=r"'Message' object has no attribute 'nothing'\Z"):
        Message("x").nothing  # type: ignore[attr-defined]  # noqa: B018
    assert not hasattr(message, "label")
    assert pickle.loads(pickle.dumps(message)) == message


def test_an_attribute_of_their_errors_names_the_right_one() -> None:
    error = SessionLockedError("locked", code="SessionLocked")
    with pytest.raises(AttributeError, match=r"'SessionLockedError' object has no attribute 'message': use str\(error\)"):
        error.message  # type: ignore[attr-defined]  # noqa: B018
    assert not hasattr(error, "nothing")
    assert str(pickle.loads(pickle.dumps(error))) == "locked"


def test_a_method_of_theirs_names_the_right_one() -> None:
    with ServiceBusProvider.embedded() as provider:
        with pytest.raises(AttributeError, match=r"no attribute 'get_queue_receiver': use provider\.create_session_client"):
            provider.get_queue_receiver  # type: ignore[attr-defined]  # noqa: B018
        with provider.create_session_client("q", "s") as session:
            with pytest.raises(AttributeError, match="no attribute 'session': use the SessionClient itself"):
                session.session  # type: ignore[attr-defined]  # noqa: B018
            with pytest.raises(TypeError, match=r"use session\.messages"):
                iter(session)  # type: ignore[call-overload]


def test_an_argument_of_theirs_names_the_right_one_before_anything_happens() -> None:
    with ServiceBusProvider.embedded() as provider, provider.create_session_client("q", "s") as session:
        for receive in (session.receive_messages, session.messages):
            with pytest.raises(TypeError, match=rf"^{receive.__name__}\(\) got .* 'max_wait_time': use timeout"):
                receive(5, max_wait_time=1)  # type: ignore[operator]
        with pytest.raises(TypeError, match=r"^receive_message\(\) got an unexpected keyword argument 'max_wait'\Z"):
            session.receive_message(max_wait=1)  # type: ignore[call-arg]
        with pytest.raises(TypeError, match="'error_description': use description"):
            session.dead_letter_message("receipt", "reason", error_description="d")  # type: ignore[call-arg]
        with pytest.raises(TypeError, match="'auto_lock_renewer': leave it out"):
            provider.create_session_client("q", auto_lock_renewer=None)  # type: ignore[call-arg]
        with pytest.raises(ValidationError, match="not ServiceBusSessionFilter; leave it out for the next available session"):
            provider.create_session_client("q", NEXT_AVAILABLE_SESSION)  # type: ignore[arg-type]
        with pytest.raises(ValidationError, match="must be a Message, not ServiceBusMessage"):
            provider.send_message("q", ServiceBusMessage("x"))  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="'retry_total': use retry_attempts"):
        ServiceBusConfig(namespace="n", retry_total=3)  # type: ignore[call-arg]
    with pytest.raises(ConfigurationError, match=r"not str; use ServiceBusProvider\.from_connection_string or"):
        ServiceBusProvider("Endpoint=sb://h/")  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "instead"), [("ServiceBusClient", "ServiceBusProvider"), ("AutoLockRenewer", "auto_renew")])
def test_an_import_of_their_name_names_the_right_one(name: str, instead: str) -> None:
    with pytest.raises(ImportError, match=rf"^azsession has no {name}, a name of azure-servicebus: .*{instead}"):
        exec(f"from azsession import {name}")
    assert not hasattr(azsession, "ServiceBusThing")
