"""Replacements of the modules that Microsoft's tests import to record traffic and to create resources in Azure.

The preparers are decorators that create an entity in the stand-in and pass it to the test.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import azure.servicebus
import isodate
from azure.core.credentials import AccessToken

from tests.standin.microsoft.sessions import client_of_one_session, give_messages_a_session

if TYPE_CHECKING:
    from tests.standin.server import StandIn

Test = Callable[..., Any]


class _Credential:
    token: Callable[[], str]

    def get_token(self, *_scopes: str, **_options: Any) -> AccessToken:
        return AccessToken(type(self).token(), int(time.time()) + 86400)

    def close(self) -> None:
        """Do nothing."""


class _PlainClient(azure.servicebus.ServiceBusClient):
    """A client without TLS, which the stand-in does not serve here. WebSockets have a port of their own."""

    websocket_address: str | None = None

    def __init__(self, *args: Any, **options: Any) -> None:
        if options.get("transport_type") is azure.servicebus.TransportType.AmqpOverWebsocket:
            options["custom_endpoint_address"] = self.websocket_address
        super().__init__(*args, use_tls=False, **options)


class _Preparers:
    """Makes the decorators of one stand-in."""

    def __init__(self, standin: StandIn, lock_duration: str) -> None:
        self._standin, self._lock_duration, self._numbers = standin, lock_duration, itertools.count()

    def group(self, **_options: Any) -> Callable[[Test], Test]:
        return lambda test: test

    def namespace(self, **_options: Any) -> Callable[[Test], Test]:
        return self._adding("servicebus_namespace", lambda _given: "127.0.0.1")

    def queue(self, **options: Any) -> Callable[[Test], Test]:
        def create(_given: dict[str, Any]) -> str:
            name = f"queue-{next(self._numbers)}"
            self._standin.create_queue(name, **self._settings(options))
            return name

        return self._adding("servicebus_queue", create)

    def topic(self, **_options: Any) -> Callable[[Test], Test]:
        def create(_given: dict[str, Any]) -> str:
            name = f"topic-{next(self._numbers)}"
            self._standin.create_topic(name)
            return name

        return self._adding("servicebus_topic", create)

    def subscription(self, **options: Any) -> Callable[[Test], Test]:
        def create(given: dict[str, Any]) -> str:
            name = f"subscription-{next(self._numbers)}"
            self._standin.create_subscription(given["servicebus_topic"].name, name, **self._settings(options))
            return name

        return self._adding("servicebus_subscription", create)

    def _settings(self, options: dict[str, Any]) -> dict[str, Any]:
        return {
            "requires_session": options.get("requires_session", False),
            "lock_duration": isodate.parse_duration(options.get("lock_duration", self._lock_duration)).total_seconds(),
            "dead_letter_on_expiration": options.get("dead_lettering_on_message_expiration", False),
            "partitioned": options.get("enable_partitioning", False),
            "duplicate_detection": 600.0 if options.get("requires_duplicate_detection") else None,
        }

    @staticmethod
    def _adding(argument: str, create: Callable[[dict[str, Any]], str]) -> Callable[[Test], Test]:
        def decorate(test: Test) -> Test:
            def prepared(case: Any, **given: Any) -> Any:
                return test(case, **{**given, argument: SimpleNamespace(name=create(given))})

            return prepared

        return decorate


def install(standin: StandIn, one_session: bool = False) -> None:
    """Put the replacements into `sys.modules`, for tests that are imported afterwards.

    With `one_session`, all messages and receivers that name no session belong to one session.
    """
    tools = ModuleType("devtools_testutils")
    tools.AzureMgmtRecordedTestCase = type("AzureMgmtRecordedTestCase", (), {})  # type: ignore[attr-defined]
    # The stand-in takes "good" as the token of an identity. azsession's endpoint knows shared access signatures only.
    _Credential.token = staticmethod(getattr(standin, "token", lambda: "good"))
    tools.get_credential = _Credential  # type: ignore[attr-defined]
    # The lock of a session begins before the one of a message that is waited for, so it is as long as Azure allows.
    preparers, made = ModuleType("servicebus_preparer"), _Preparers(standin, "PT5M" if one_session else "PT1M")
    names = {"ResourceGroup": made.group, "Namespace": made.namespace, "Queue": made.queue}
    for name, maker in {**names, "Topic": made.topic, "Subscription": made.subscription}.items():
        setattr(preparers, f"ServiceBus{name}Preparer", maker)
        setattr(preparers, f"CachedServiceBus{name}Preparer", maker)
    preparers.SERVICEBUS_ENDPOINT_SUFFIX = f":{standin.port}"  # type: ignore[attr-defined]
    sys.modules[tools.__name__], sys.modules[preparers.__name__] = tools, preparers
    _PlainClient.websocket_address = getattr(standin, "websocket_address", None)
    azure.servicebus.ServiceBusClient = client_of_one_session(_PlainClient) if one_session else _PlainClient  # type: ignore[misc]
    if one_session:
        give_messages_a_session()
