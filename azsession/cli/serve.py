"""The command `azsession serve`: runs a gateway with the embedded broker, or in front of an Azure namespace."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import attrs
import click

from .. import __version__
from ..client.backends import AZURE_BODY_SIZE, AZURE_MESSAGE_SIZE
from ..config import ENV_CONNECTION_STRING, ServiceBusConfig, is_loopback
from ..errors import ConfigurationError
from .address import WILDCARDS, public_url
from .common import HOST, QUEUE, checked_options, note
from .data_folder import data_file, key_file_of, key_file_of_namespace
from .log_output import log_options
from .process import StopSignals, raise_open_file_limit
from .serve_amqp import AmqpOptions, amqp_options
from .serve_azure import AzureCheck, AzureOptions, azure_broker, azure_options, chosen_azure, refuse_local_options
from .serve_metrics import metrics_options

if TYPE_CHECKING:
    from ..broker.base import Broker
    from ..server import AccessKey, GatewayService
    from .key_watch import KeyFileWatch

DEFAULT_PORT = 8720
#: Stands for the key in the output of ``--hide-key``.
HIDDEN_KEY = "<hidden>"

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@attrs.frozen(kw_only=True)
class ServeOptions:
    """The options of `azsession serve`, under the names that `serve` declares. `azure` holds the three Azure options."""

    data: Path | None
    memory: bool
    host: str
    port: int
    hostnames: Sequence[str]
    queues: Sequence[str]
    auto_create: bool
    keys: Sequence[str] = attrs.field(repr=False)
    key_file: Path | None
    hide_key: bool
    tls_cert: Path | None
    tls_key: Path | None
    insecure: bool
    max_waiting: int | None
    max_connections: int | None
    explorer: bool
    amqp: AmqpOptions
    metrics_host: str
    metrics_port: int | None
    azure: AzureOptions | None
    as_json: bool

    def check(self) -> None:
        """Raise `click.UsageError` if two options contradict each other."""
        if self.azure is not None:
            refuse_local_options(
                self.azure,
                data=self.data is not None,
                memory=self.memory,
                queues=bool(self.queues),
                auto_create=self.auto_create,
            )
        self.amqp.check(None if self.azure is None else self.azure.given_by)
        if self.memory and self.data is not None:
            raise click.UsageError("give --data or --memory, not both")
        if self.keys and self.key_file is not None:
            raise click.UsageError("give --key (or AZSESSION_KEYS) or --key-file, not both")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise click.UsageError("TLS needs both --tls-cert and --tls-key")

    def access_keys(self) -> list[AccessKey]:
        """Return the keys given with ``--key``.

        Raises:
            UsageError: A key is malformed, or two keys have the same name.
        """
        from ..server import AccessKey

        with checked_options():
            keys = [AccessKey.parse(text) for text in self.keys]
        if len({key.name for key in keys}) != len(keys):
            raise click.UsageError("two keys have the same name")
        return keys


@attrs.frozen
class Storage:
    """Where messages and keys are kept.

    Attributes:
        data: The data file; `None` in memory and with Azure.
        key_file: The key file, if there is one.
        azure: The configuration of the Azure namespace, if there is one.
    """

    data: Path | None
    key_file: Path | None
    azure: ServiceBusConfig | None


@click.command(short_help="Run a gateway that serves message sessions over HTTP.")
@click.option(
    "--data",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Keep messages in this file; it is created if it does not exist. Default: azsession/azsession.db in your "
    "folder for application data (XDG_DATA_HOME or ~/.local/share).",
)
@click.option("--memory", is_flag=True, help="Keep messages in memory. They are lost when the process ends.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=DEFAULT_PORT,
    show_default=True,
    help="Port to listen on; 0 takes a free one.",
)
@click.option(
    "--hostname",
    "hostnames",
    type=HOST,
    multiple=True,
    metavar="NAME",
    help="Name that clients use for the gateway, if it differs from the address, for example behind a proxy or with --host "
    "0.0.0.0. Repeat it for more names; the connection string contains the first.",
)
@click.option("--queue", "queues", type=QUEUE, multiple=True, metavar="NAME", help="Create this queue. Repeat it for more.")
@click.option("--auto-create", is_flag=True, help="Create each queue when the first message is sent to it.")
@click.option(
    "--key",
    "keys",
    multiple=True,
    envvar="AZSESSION_KEYS",
    metavar="NAME:KEY:RIGHTS[@QUEUES]",
    help="Accept this key. RIGHTS is a comma-separated list of Send, Listen, Manage and Metrics. @QUEUES, a comma-separated "
    "list, limits the rights to these queues. Repeat the option for more keys; the connection string contains the first. By "
    "default the keys in AZSESSION_KEYS, separated by spaces. Without any, a key with all rights is created and kept in a "
    "file beside the data.",
)
@click.option(
    "--key-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File of such keys, one a line, readable by its owner only. It is created with one key if it does not exist. "
    "Gateways behind one load balancer need the same file.",
)
@click.option(
    "--hide-key",
    is_flag=True,
    help="Print the connection string without its key, for example where the output is kept as a log.",
)
@click.option("--tls-cert", type=_FILE, help="Certificate chain (PEM). Serves https.")
@click.option("--tls-key", type=_FILE, help="Private key of the certificate (PEM).")
@click.option("--insecure", is_flag=True, help="Allow plain http on an address that other machines can reach.")
@click.option(
    "--max-waiting",
    type=click.IntRange(1),
    help="Number of receives that may wait at once. Further ones get status 429. Default: 1024.",
)
@click.option(
    "--max-connections",
    type=click.IntRange(1),
    help="Connections at most, over HTTP and AMQP together. Beyond it, the HTTP connection that is idle longest is closed, "
    "or a new one is refused, over HTTP with status 503. "
    "Default: the process's limit of open files minus a reserve, at most 16384.",
)
@click.option(
    "--explorer/--no-explorer",
    default=True,
    help="Serve the Explorer, a web interface, at /explorer. It is on unless you turn it off.",
)
@amqp_options
@metrics_options
@azure_options
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print one line of JSON with connection_string, url, data and amqp_connection_string; with Azure, azure (its host) "
    "instead of the last.",
)
@click.option(
    "--access-log",
    is_flag=True,
    help="Log each request: method, route, status, milliseconds, key name and client address.",
)
@log_options
def serve(
    azure_string: str | None,
    azure_namespace: str | None,
    azure_websockets: bool,
    amqp_port: int | None,
    no_amqp: bool,
    **given: Any,
) -> None:
    """Run a gateway that serves message sessions over HTTP and AMQP, from a file, from memory or from an Azure namespace.

    Prints the connection string on standard output, in a second line the one for Azure's SDKs, which use the AMQP endpoint,
    and everything else on standard error. SIGTERM, SIGHUP and Ctrl-C
    finish the running requests and stop the gateway; a second signal stops it at once.
    """
    azure_chosen = chosen_azure(azure_string, azure_namespace, azure_websockets)
    options = ServeOptions(azure=azure_chosen, amqp=AmqpOptions(amqp_port, no_amqp), **given)
    options.check()
    keys = options.access_keys()
    storage = _storage(options)
    raise_open_file_limit()
    # Only the owner may read messages and keys, whatever the umask of the shell is.
    os.umask(0o077)
    check: AzureCheck | None = None
    watch: KeyFileWatch | None = None
    broker: Broker
    if storage.azure is None:
        from ..broker.embedded import EmbeddedBroker

        broker = EmbeddedBroker(storage.data, queues=options.queues, auto_create=options.auto_create)
    else:
        broker = azure = azure_broker(storage.azure)
        check = AzureCheck(azure, storage.azure)
    try:
        # Before the keys are read, so that no change is missed.
        watch = _key_watch(storage.key_file)
        keys = keys or _stored_keys(storage.key_file)
        signals = StopSignals()
        service = _started(options, broker, keys)
    except BaseException:
        broker.close()
        raise
    try:
        url = public_url(service.url, options.hostnames, options.tls_cert)
        _print_notes(options, storage, broker, service.url)
        if options.explorer:
            note(f"web     {_explorer_note(url)}")
        if service.metrics_url is not None:
            note(f"metrics {service.metrics_url}")
        _print_address_warnings(options, url)
        if check is not None:
            check.start()
        if watch is not None:
            watch.start(service.replace_keys, keys)
        shown = attrs.evolve(keys[0], key=HIDDEN_KEY) if options.hide_key else keys[0]
        amqp = None if service.amqp_port is None else service.amqp_connection_string(shown, urlsplit(url).hostname)
        _print_connection_strings(url, shown, amqp, storage, as_json=options.as_json)
        signals.wait()
        note("stopping after the running requests; a second signal stops at once")
    finally:
        if check is not None:
            check.end()
        if watch is not None:
            watch.end()
        service.stop()


def _explorer_note(url: str) -> str:
    """Return the address of the Explorer, or what to install for it."""
    from .._extras import need

    try:
        need("jinja2", "server")
    except ConfigurationError as error:
        return f"the Explorer is off: {error}"
    return f"{url}/explorer"


def _storage(options: ServeOptions) -> Storage:
    azure = None if options.azure is None else options.azure.config()
    data = None if options.memory or azure is not None else data_file(options.data)
    key_file = options.key_file
    if key_file is None and not options.keys:
        if azure is not None:
            key_file = key_file_of_namespace(azure.host)
        elif data is not None:
            key_file = key_file_of(data)
    return Storage(data, key_file, azure)


def _stored_keys(key_file: Path | None) -> list[AccessKey]:
    from ..server import AccessKey
    from .keyfile import stored_keys

    return [AccessKey.generate()] if key_file is None else stored_keys(key_file)


def _key_watch(key_file: Path | None) -> KeyFileWatch | None:
    from .key_watch import KeyFileWatch

    return None if key_file is None else KeyFileWatch(key_file)


def _started(options: ServeOptions, broker: Broker, keys: Sequence[AccessKey]) -> GatewayService:
    usual = options.amqp.chosen_port(options.host, is_azure=options.azure is not None)
    try:
        return _service(options, broker, keys, usual).start()
    except ConfigurationError:
        if usual is None or options.amqp.port is not None:
            raise
        # Another process may have taken the usual port of AMQP a moment ago.
        return _service(options, broker, keys, 0).start()


def _service(options: ServeOptions, broker: Broker, keys: Sequence[AccessKey], amqp_port: int | None) -> GatewayService:
    from ..server import MAX_WAITING, GatewayMetrics, GatewayService

    sizes: dict[str, int] = {}
    if options.azure is not None:
        sizes = {"max_body_size": AZURE_BODY_SIZE, "max_message_size": AZURE_MESSAGE_SIZE}
    return GatewayService(
        broker,
        keys,
        host=options.host,
        port=options.port,
        hosts=options.hostnames,
        tls_cert=options.tls_cert,
        tls_key=options.tls_key,
        insecure=options.insecure,
        max_waiting=options.max_waiting or MAX_WAITING,
        max_connections=options.max_connections,
        explorer=options.explorer,
        amqp_port=amqp_port,
        metrics=GatewayMetrics(),
        metrics_host=options.metrics_host,
        metrics_port=options.metrics_port,
        **sizes,
    )


def _print_notes(options: ServeOptions, storage: Storage, broker: Broker, url: str) -> None:
    note(f"azsession {__version__} listens on {url}; Ctrl-C stops it")
    if storage.azure is not None:
        websockets = " over WebSockets" if storage.azure.uses_websockets else ""
        note(f"azure   {storage.azure.host}{websockets}, port {storage.azure.port}")
    else:
        note(f"data    {storage.data or 'in memory; lost when this process ends'}")
    if storage.key_file is not None:
        note(f"key     {storage.key_file}")
    if storage.azure is None:
        names = ", ".join(found.name for found in broker.list_queues().result())
        hint = (
            "created when a message is sent to them"
            if options.auto_create
            else "none yet; create one with azsession queue create NAME"
        )
        note(f"queues  {names or hint}")


def _print_address_warnings(options: ServeOptions, url: str) -> None:
    if options.host in WILDCARDS and not options.hostnames and is_loopback(urlsplit(url).hostname or ""):
        note("the connection string works on this machine only; for other machines give --hostname NAME")
    if url.startswith("http:") and not is_loopback(options.host):
        note("warning: without TLS, anyone who can read the network can read tokens and messages")


def _print_connection_strings(url: str, key: AccessKey, amqp: str | None, storage: Storage, *, as_json: bool) -> None:
    """Print the only output on stdout."""
    string = f"Endpoint={url}/;SharedAccessKeyName={key.name};SharedAccessKey={key.key}"
    if as_json:
        # `data` is null if no file keeps the messages: in memory and with Azure.
        line = {"connection_string": string, "url": url, "data": None if storage.data is None else str(storage.data)}
        if amqp is not None:
            line["amqp_connection_string"] = amqp
        click.echo(json.dumps(line if storage.azure is None else {**line, "azure": storage.azure.host}))
        return
    note(f"connection string, for {ENV_CONNECTION_STRING} (put it in quotes):")
    click.echo(string)
    if amqp is not None:
        note("connection string for Azure's SDKs:")
        click.echo(amqp)
