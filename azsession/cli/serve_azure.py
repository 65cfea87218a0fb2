"""The Azure part of `azsession serve`: its options, its broker, and a check that the namespace can be reached."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs
import click
from click.core import ParameterSource

from .._extras import need
from ..config import ConnectionString, ServiceBusConfig
from ..errors import AuthenticationFailedError, ConfigurationError, QueueError
from .common import note

if TYPE_CHECKING:
    from ..broker.azure import AzureBroker

#: Environment variables of `azsession serve`. Clients do not read them, because clients connect to the gateway.
ENV_AZURE, ENV_AZURE_NAMESPACE = "AZSESSION_AZURE_CONNECTION_STRING", "AZSESSION_AZURE_NAMESPACE"

#: Seconds between two checks of a namespace that cannot be reached: the first pause and the longest one.
CHECK_PAUSES = (2.0, 60.0)


@attrs.frozen
class AzureOptions:
    """The Azure namespace given on the command line or in the environment.

    Attributes:
        connection_string: The namespace's connection string, with a key or a signature.
        namespace: The namespace's name, if the process's own identity is used instead.
        websockets: Use AMQP over WebSockets.
        given_by: The option or environment variable that named the namespace, for error messages.
    """

    connection_string: str | None = attrs.field(repr=False)
    namespace: str | None
    websockets: bool
    given_by: str

    def config(self) -> ServiceBusConfig:
        """Return the configuration for the connection to the namespace.

        Raises:
            ConfigurationError: The connection string or the namespace is malformed.
        """
        transport = "amqp-websockets" if self.websockets else "amqp"
        try:
            if self.connection_string is None:
                return ServiceBusConfig(namespace=self.namespace, transport=transport)
            parsed = ConnectionString.parse(self.connection_string)
            if parsed.key is None and parsed.signature is None:
                raise ConfigurationError(
                    "the connection string has no key or signature: to use this process's identity, give --azure-namespace"
                )
            if not self.websockets and parsed.transport is not None:
                transport = parsed.transport
            return ServiceBusConfig(connection_string=self.connection_string, transport=transport)
        except ConfigurationError as error:
            raise ConfigurationError(f"{self.given_by}: {error}") from None


def azure_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the Azure options to a command."""
    for option in (
        click.option(
            "--azure-websockets",
            is_flag=True,
            help="Connect to Azure with AMQP over WebSockets, for networks that allow port 443 only.",
        ),
        click.option(
            "--azure-namespace",
            metavar="NAME",
            envvar=ENV_AZURE_NAMESPACE,
            help="Like --azure, but with this process's own identity (DefaultAzureCredential). NAME is myns or the full host "
            f"name. Default: {ENV_AZURE_NAMESPACE}.",
        ),
        click.option(
            "--azure",
            "azure_string",
            metavar="CONNECTION_STRING",
            envvar=ENV_AZURE,
            help="Serve the sessions of this Azure Service Bus namespace; the gateway keeps no messages. Other users of this "
            f"machine can see a command line, so prefer to set {ENV_AZURE}.",
        ),
    ):
        command = option(command)
    return command


def chosen_azure(string: str | None, namespace: str | None, websockets: bool) -> AzureOptions | None:
    """Return the Azure namespace that was given, or `None`. The command line overrides the environment.

    Raises:
        UsageError: The options contradict each other.
    """
    source = click.get_current_context().get_parameter_source
    command_line = ParameterSource.COMMANDLINE
    if string is not None and namespace is not None:
        if source("azure_string") == source("azure_namespace"):
            raise click.UsageError(
                f"give --azure ({ENV_AZURE}) or --azure-namespace ({ENV_AZURE_NAMESPACE}), not both: --azure uses a key, "
                "--azure-namespace uses this process's identity"
            )
        string, namespace = (string, None) if source("azure_string") == command_line else (None, namespace)
    if string is not None:
        return AzureOptions(string, None, websockets, "--azure" if source("azure_string") == command_line else ENV_AZURE)
    if namespace is not None:
        given_by = "--azure-namespace" if source("azure_namespace") == command_line else ENV_AZURE_NAMESPACE
        return AzureOptions(None, namespace, websockets, given_by)
    if websockets:
        raise click.UsageError("--azure-websockets needs --azure or --azure-namespace")
    return None


def refuse_local_options(azure: AzureOptions, *, data: bool, memory: bool, queues: bool, auto_create: bool) -> None:
    """Refuse the options of the embedded broker, each of which is true if it was given.

    Raises:
        UsageError: One of them was given.
    """
    reasons = {
        "--data": (data, "Azure keeps the messages"),
        "--memory": (memory, "Azure keeps the messages"),
        "--queue": (queues, "create queues of Azure with Azure's tools"),
        "--auto-create": (auto_create, "create queues of Azure with Azure's tools"),
    }
    for option, (given, why) in reasons.items():
        if given:
            raise click.UsageError(f"{option} cannot be used with {azure.given_by}: {why}")


def azure_broker(config: ServiceBusConfig) -> AzureBroker:
    """Return a broker for a namespace, not connected yet.

    Raises:
        ConfigurationError: The extra for Azure is not installed.
    """
    if config.uses_websockets:
        need("websocket", "websockets")
    from ..broker.azure import AzureBroker

    return AzureBroker(config)


class AzureCheck:
    """Checks in a thread whether the namespace can be reached, and reports that on stderr, until the first success.

    The gateway starts in any case, because a namespace can be away for a minute and clients retry. The report shows mistakes
    that only people can correct, for example a wrong key.
    """

    def __init__(self, broker: AzureBroker, config: ServiceBusConfig) -> None:
        self._broker, self._host = broker, config.host
        credentials = config.credentials
        self._has_key = credentials is not None
        # The key of a single entity is valid for that entity only.
        self._entity = (credentials.entity_path or "") if credentials is not None else ""
        self._ended = threading.Event()

    def start(self) -> None:
        """Start the thread."""
        threading.Thread(target=self._run, name="azsession-azure-check", daemon=True).start()

    def end(self) -> None:
        """Make the thread end without another report."""
        self._ended.set()

    def _run(self) -> None:
        pause, longest = CHECK_PAUSES
        reported = ""
        while True:
            try:
                self._broker.check_ready().result()
            except QueueError as error:
                if self._ended.is_set():
                    return
                hint = ""
                if isinstance(error, AuthenticationFailedError) and self._has_key and not self._entity:
                    hint = " (with the key of a single queue, the connection string needs EntityPath)"
                text = f"warning: cannot use {self._host} yet: {error}{hint}; retrying"
                if text != reported:
                    note(text)
                reported = text
            else:
                note(f"azure   {self._host} answers")
                return
            if self._ended.wait(pause):
                return
            pause = min(2 * pause, longest)
