"""The names of azure-servicebus and their counterparts here, for the errors of code that was written for it.

`COUNTERPARTS` is the only table. Type checkers see none of this: to them a wrong name stays a wrong name.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypedDict, TypeVar

_Class = TypeVar("_Class")


class NoArguments(TypedDict):
    """The further keyword arguments of a function that accepts none. It gives them to `refuse`."""


_SETTLE = "settle it with its session: session.{}(message)"
_OPEN = "use provider.create_session_client(queue_name, session_id); leave session_id out for the next available session"
_SEND = "use provider.send_message(queue_name, message) and its other methods: a provider sends to any queue or topic"
_SESSION = "use provider.create_session_client, which returns a SessionClient"
_RENEWED = "leave it out: the lock is renewed in the background (auto_renew, max_renewal, on_lock_lost)"
_TIMEOUT = "use timeout"
_RETRIES = "use retry_attempts and retry_deadline: pauses grow from retry to retry"
_NO_TEXT = "use body, which is always bytes, or text() and json()"
_AMQP = "use the attributes of the message: azsession hides the AMQP message"

#: The names of classes and functions, and what to use instead.
_MODULE = {
    "ServiceBusClient": "use ServiceBusProvider",
    "ServiceBusSender": _SEND,
    "ServiceBusReceiver": _SESSION,
    "ServiceBusSession": _SESSION,
    "ServiceBusMessage": "use Message",
    "ServiceBusMessageBatch": "send a list: provider.send_messages(queue_name, messages) divides it into batches",
    "ServiceBusReceivedMessage": "use ReceivedMessage",
    "ServiceBusMessageState": "compare PeekedMessage.state with 'Active', 'Deferred' or 'Scheduled'",
    "ServiceBusReceiveMode": "leave it out: messages are always received under the session's lock (PEEK_LOCK)",
    "ServiceBusSessionFilter": _OPEN,
    "NEXT_AVAILABLE_SESSION": _OPEN,
    "ServiceBusSubQueue": "use provider.dead_letters, resubmit and delete_dead_letter",
    "AutoLockRenewer": _RENEWED,
    "TransportType": "use transport='amqp-websockets'",
    "parse_connection_string": "use ServiceBusConfig(connection_string=...), which has host and credentials",
    "ServiceBusConnectionStringProperties": "use ServiceBusConfig",
    "ServiceBusAdministrationClient": "use provider.create_queue, get_queue, list_queues and delete_queue (not on Azure)",
    "AutoLockRenewFailed": "use on_lock_lost and SessionNotFoundError",
    "AutoLockRenewTimeout": "use on_lock_lost and SessionNotFoundError",
    "MessageAlreadySettled": "use InvalidReceiptError",
    "MessageLockLostError": "use SessionNotFoundError, or InvalidReceiptError for a receipt of another process",
    "MessageNotFoundError": "use ProviderError, whose code is 'MessageNotFound'",
    "MessageSizeExceededError": "use MessageTooLargeError",
    "MessagingEntityAlreadyExistsError": "use ProviderError, whose code is 'Conflict'",
    "MessagingEntityDisabledError": "use ProviderError",
    "MessagingEntityNotFoundError": "use QueueNotFoundError",
    "OperationTimeoutError": "use NoSessionAvailableError, or ConnectionFailedError if no answer came",
    "ServiceBusAuthenticationError": "use AuthenticationFailedError",
    "ServiceBusAuthorizationError": "use PermissionDeniedError",
    "ServiceBusCommunicationError": "use ConnectionFailedError",
    "ServiceBusConnectionError": "use ConnectionFailedError",
    "ServiceBusError": "use QueueError",
    "ServiceBusQuotaExceededError": "use ProviderError",
    "ServiceBusServerBusyError": "use ThrottledError",
    "SessionCannotBeLockedError": "use SessionLockedError",
    "SessionLockLostError": "use SessionNotFoundError",
}

_MESSAGE_TO_SEND = {
    "application_properties": "use attributes",
    "user_properties": "use attributes",
    "properties": "use attributes",
    "label": "use subject",
    "scheduled_enqueue_time_utc": "use scheduled_enqueue_time",
    "partition_key": "use session_id: Azure requires that both are the same",
    "via_partition_key": "leave it out: azsession has no transactions",
}

_MESSAGE = {
    **_MESSAGE_TO_SEND,
    "body_type": _NO_TEXT,
    "body_as_str": "use text()",
    "body_as_json": "use json()",
    "message": _AMQP,
    "raw_amqp_message": _AMQP,
    "header": _AMQP,
    "annotations": _AMQP,
}

_RECEIVED_MESSAGE = {
    **_MESSAGE,
    "dead_letter_error_description": "use dead_letter_description",
    "dead_letter_source": "keep the name of the queue whose dead letters you list",
    "enqueued_sequence_number": "use sequence_number",
    "enqueued_time_utc": "use enqueued_at",
    "expires_at_utc": "use expires_at",
    "from_bytes": "use Message: azsession decodes no AMQP messages",
    "lock_token": "use receipt: str(message.receipt) is text that settles the message in any process",
    "locked_until_utc": "use session.session_expires_at: the session has the lock",
    "auto_renew_error": "use session.is_lock_lost, or on_lock_lost",
    "expired": "use session.is_lock_lost: the session has the lock",
    "renew_lock": "use session.renew_session_lock(): the session has the lock, and renews it in the background",
    "complete": _SETTLE.format("complete_message"),
    "abandon": _SETTLE.format("abandon_message"),
    "defer": _SETTLE.format("defer_message"),
    "dead_letter": _SETTLE.format("dead_letter_message"),
}

#: By class, or by method: each name of azure-servicebus, and what to use instead.
COUNTERPARTS: Mapping[str, Mapping[str, str]] = {
    "azsession": _MODULE,
    "Message": _MESSAGE,
    "Message()": _MESSAGE_TO_SEND,
    "PeekedMessage": _RECEIVED_MESSAGE,
    "ServiceBusProvider": {
        "get_queue_receiver": _OPEN,
        "get_queue_session_receiver": _OPEN,
        "get_subscription_receiver": _OPEN + ". The queue_name is 'topic/subscriptions/name'",
        "get_subscription_session_receiver": _OPEN + ". The queue_name is 'topic/subscriptions/name'",
        "get_queue_sender": _SEND,
        "get_topic_sender": _SEND,
        "create_message_batch": _MODULE["ServiceBusMessageBatch"],
        "list_queue_sessions": "use list_sessions(queue_name)",
        "list_subscription_sessions": "use list_sessions('topic/subscriptions/name')",
        "client_identifier": "leave it out: azsession does not name its connections",
        "fully_qualified_namespace": "use config.host",
    },
    "SessionClient": {
        "session": "use the SessionClient itself: it has get_session_state, set_session_state and renew_session_lock",
        "next": "use receive_message(timeout)",
        "peek_messages": "use provider.peek_messages(queue_name, session_id)",
        "get_state": "use get_session_state()",
        "set_state": "use set_session_state(state)",
        "renew_lock": "use renew_session_lock(); a background thread also renews the lock",
        "renew_message_lock": "use renew_session_lock(): the session has the lock of its messages",
        "locked_until_utc": "use session_expires_at",
        "auto_renew_error": "use is_lock_lost, or on_lock_lost",
        "register": _RENEWED,
        "send_messages": _SEND,
        "schedule_messages": "use provider.schedule_messages(queue_name, messages, at)",
        "client_identifier": "leave it out: azsession does not name its connections",
    },
    "QueueError": {
        "message": "use str(error)",
        "inner_exception": "use __cause__",
        "error_code": "use code",
    },
    "ServiceBusConfig()": {
        **dict.fromkeys(("retry_total", "retry_backoff_factor", "retry_backoff_max", "retry_mode"), _RETRIES),
        "transport_type": "use transport='amqp-websockets'",
        "connection_verify": "use ca_bundle",
        "fully_qualified_namespace": "use namespace",
        "conn_str": "use connection_string",
        "http_proxy": "set HTTPS_PROXY in the environment",
        "logging_enable": "configure the logger 'azsession' of the module logging",
        "user_agent": "leave it out",
    },
    "create_session_client()": {
        "max_wait_time": "use accept_timeout for the next available session, and the timeout of each receive",
        "auto_lock_renewer": _RENEWED,
        "prefetch_count": "use the prefetch of SessionClient.messages",
        "receive_mode": _MODULE["ServiceBusReceiveMode"],
        "sub_queue": _MODULE["ServiceBusSubQueue"],
        "client_identifier": "leave it out: azsession does not name its connections",
        "socket_timeout": "use request_timeout of ServiceBusConfig",
        "topic_name": "use the queue_name 'topic/subscriptions/name'",
        "subscription_name": "use the queue_name 'topic/subscriptions/name'",
    },
    "receive_message()": {"max_wait_time": _TIMEOUT},
    "receive_messages()": {"max_wait_time": _TIMEOUT},
    "messages()": {"max_wait_time": _TIMEOUT, "max_message_count": "use prefetch"},
    "dead_letter_message()": {"error_description": "use description"},
}


def counterpart(place: str, name: str) -> str | None:
    """Return what to use instead of a name of azure-servicebus, or `None` if the table of `place` does not have it."""
    return COUNTERPARTS.get(place, {}).get(name)


def refuse(arguments: Mapping[str, object], function: str) -> None:
    """Raise `TypeError` if there are further keyword arguments, as Python does, and name the right ones.

    Args:
        arguments: The keyword arguments that the function does not have.
        function: The name of the function.
    """
    for name in arguments:
        instead = counterpart(f"{function}()", name)
        raise TypeError(f"{function}() got an unexpected keyword argument {name!r}{': ' if instead else ''}{instead or ''}")


def refuse_module_name(name: str) -> None:
    """Raise `ImportError` for a class or function of azure-servicebus. ``from azsession import NAME`` shows its text."""
    instead = counterpart("azsession", name)
    if instead is not None:
        raise ImportError(f"azsession has no {name}, a name of azure-servicebus: {instead}", name="azsession")


def explain_azure_names(cls: type[_Class]) -> type[_Class]:
    """Let errors about attributes and constructor arguments of a class name the counterparts. A class decorator."""

    def explain(self: object, name: str) -> NoReturn:
        place = next((each.__name__ for each in type(self).__mro__ if each.__name__ in COUNTERPARTS), cls.__name__)
        instead = counterpart(place, name)
        text = f"{type(self).__name__!r} object has no attribute {name!r}{': ' if instead else ''}{instead or ''}"
        raise AttributeError(text, name=name, obj=self)

    changed: Any = cls
    changed.__getattr__ = explain
    if f"{cls.__name__}()" in COUNTERPARTS:
        changed.__init__ = _explained(changed.__init__, cls.__name__)
    return cls


def _explained(init: Callable[..., None], name: str) -> Callable[..., None]:
    table = COUNTERPARTS[f"{name}()"]

    @functools.wraps(init)
    def checked(*arguments: Any, **named: Any) -> None:
        if not table.keys().isdisjoint(named):
            refuse({each: None for each in named if each in table}, name)
        init(*arguments, **named)

    return checked
