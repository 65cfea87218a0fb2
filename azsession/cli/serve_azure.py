"""Azure behind `azsession serve`: which namespace it is, the broker on it, and whether it can be reached."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import click
from click.core import ParameterSource

from .._extras import need
from ..config import ConnectionString, ServiceBusConfig
from ..errors import AuthenticationFailedError, ConfigurationError, QueueError
from .common import note

if TYPE_CHECKING:
    from ..broker.azure import ServiceBusBroker

#: Environment variables that `azsession serve` reads. They are not the clients': these name the gateway.
ENV_AZURE, ENV_AZURE_NAMESPACE = "AZSESSION_AZURE_CONNECTION_STRING", "AZSESSION_AZURE_NAMESPACE"

#: Seconds between looks at a namespace that could not be reached: at first, and at most.
LOOK_AGAIN = (2.0, 60.0)


@attrs.frozen
class AzureOptions:
    """What the command line or the environment says of Azure.

    Attributes:
        connection_string: Of the namespace, with a key or signature in it.
        namespace: Its name, instead: the process's own identity is used.
        websockets: Whether AMQP goes over WebSockets.
        given_by: The option or environment variable that said so, for messages to people.
    """

    connection_string: str | None = attrs.field(repr=False)
    namespace: str | None
    websockets: bool
    given_by: str

    def config(self) -> ServiceBusConfig:
        """Return how the namespace is reached.

        Raises:
            ConfigurationError: What was given is malformed.
        """
        transport = "amqp-websockets" if self.websockets else "amqp"
        try:
            if self.connection_string is None:
                return ServiceBusConfig(namespace=self.namespace, transport=transport)
            parsed = ConnectionString.parse(self.connection_string)
            if parsed.key is None and parsed.signature is None:
                raise ConfigurationError("the connection string has no key or signature: --azure-namespace needs none")
            if not self.websockets and parsed.transport is not None:
                transport = parsed.transport
            return ServiceBusConfig(connection_string=self.connection_string, transport=transport)
        except ConfigurationError as error:
            raise ConfigurationError(f"{self.given_by}: {error}") from None


def azure_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give `serve` the options that put it in front of Azure."""
    for option in (
        click.option(
            "--azure-websockets", is_flag=True, help="Speak AMQP over WebSockets with Azure, where only port 443 is open."
        ),
        click.option(
            "--azure-namespace",
            metavar="NAME",
            envvar=ENV_AZURE_NAMESPACE,
            help="The same, under this process's own identity (DefaultAzureCredential): myns, or its full host name. By "
            f"default {ENV_AZURE_NAMESPACE}'s.",
        ),
        click.option(
            "--azure",
            "azure_string",
            metavar="CONNECTION_STRING",
            envvar=ENV_AZURE,
            help="Front this Azure Service Bus namespace; no data is kept here. Others on this machine can see a command "
            f"line: better put it into {ENV_AZURE}.",
        ),
    ):
        command = option(command)
    return command


def chosen_azure(string: str | None, namespace: str | None, websockets: bool) -> AzureOptions | None:
    """Return what was said of Azure, or `None` where nothing was. A command line goes before the environment.

    Raises:
        UsageError: It contradicts itself.
    """
    source = click.get_current_context().get_parameter_source
    by_line = ParameterSource.COMMANDLINE
    if string is not None and namespace is not None:
        if source("azure_string") == source("azure_namespace"):
            raise click.UsageError(
                f"give --azure ({ENV_AZURE}) or --azure-namespace ({ENV_AZURE_NAMESPACE}), not both: the one has a key, the "
                "other uses this process's identity"
            )
        string, namespace = (string, None) if source("azure_string") == by_line else (None, namespace)
    if string is not None:
        return AzureOptions(string, None, websockets, "--azure" if source("azure_string") == by_line else ENV_AZURE)
    if namespace is not None:
        given_by = "--azure-namespace" if source("azure_namespace") == by_line else ENV_AZURE_NAMESPACE
        return AzureOptions(None, namespace, websockets, given_by)
    if websockets:
        raise click.UsageError("--azure-websockets is about the way to Azure: it needs --azure or --azure-namespace")
    return None


def refuse_local(azure: AzureOptions, *, data: Path | None, memory: bool, queues: bool, auto_create: bool) -> None:
    """Refuse the options of a broker that keeps messages here.

    Raises:
        UsageError: There is one of them.
    """
    reasons = {
        "--data": (data is not None, "messages are kept by Azure"),
        "--memory": (memory, "messages are kept by Azure"),
        "--queue": (queues, "queues of Azure are made with Azure's tools"),
        "--auto-create": (auto_create, "queues of Azure are made with Azure's tools"),
    }
    for option, (given, why) in reasons.items():
        if given:
            raise click.UsageError(f"{option} does not go with {azure.given_by}: {why}")


def azure_broker(config: ServiceBusConfig) -> ServiceBusBroker:
    """Return the broker on a namespace. Nothing is connected yet.

    Raises:
        ConfigurationError: The extra is missing.
    """
    need("azure.servicebus", "servicebus")
    if config.uses_websockets:
        need("websocket", "servicebus")
    from ..broker.azure import ServiceBusBroker

    return ServiceBusBroker(config)


class Lookout:
    """Says on stderr whether the namespace can be reached, in a thread of its own, until it can or until the end.

    The gateway starts all the same: a namespace that is away for a minute must not keep it from coming up, and its clients
    try again. What only people can mend shows at once.
    """

    def __init__(self, broker: ServiceBusBroker, config: ServiceBusConfig) -> None:
        self._broker, self._host = broker, config.host
        parsed = config.credentials
        # The key of a single entity is good for nothing else.
        self._has_key = parsed is not None
        self._entity = (parsed.entity_path or "") if parsed is not None else ""
        self._ended = threading.Event()

    def start(self) -> None:
        """Begin to look."""
        threading.Thread(target=self._look, name="azsession-lookout", daemon=True).start()

    def _look(self) -> None:
        pause, most = LOOK_AGAIN
        told = ""
        while True:
            try:
                self._broker.check(self._entity)
            except QueueError as error:
                if self._ended.is_set():
                    return
                hint = ""
                if isinstance(error, AuthenticationFailedError) and self._has_key and not self._entity:
                    hint = " (the key of a single queue needs EntityPath in its connection string)"
                text = f"warning: {self._host} is of no use yet: {error}{hint}; trying on"
                if text != told:
                    note(text)
                told = text
            else:
                note(f"azure   {self._host} answers")
                return
            if self._ended.wait(pause):
                return
            pause = min(2 * pause, most)

    def end(self) -> None:
        """Say nothing more."""
        self._ended.set()
