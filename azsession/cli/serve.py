"""`azsession serve`: the gateway as a process of its own, with the embedded broker or in front of Azure."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click

from .. import __version__
from ..client.server_connection import AZURE_BODY_SIZE, AZURE_MESSAGE_SIZE
from ..config import ENV_CONNECTION_STRING, ServiceBusConfig, is_loopback
from ..errors import ConfigurationError
from .address import WILDCARDS, public_url
from .common import note
from .serve_azure import Lookout, azure_broker, azure_options, chosen_azure, refuse_local

if TYPE_CHECKING:
    from ..broker.base import Broker
    from ..server import AccessKey

DEFAULT_PORT = 8720


def default_data() -> Path:
    """Return where the data lies if nothing else is said: the user's own folder for data."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA", "")
        standard = Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base, standard = "", Path.home() / "Library" / "Application Support"
    else:
        base, standard = os.environ.get("XDG_DATA_HOME", ""), Path.home() / ".local" / "share"
    # The XDG specification has relative paths ignored.
    return (Path(base) if os.path.isabs(base) else standard) / "azsession" / "azsession.db"


_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command(short_help="Serve message sessions over HTTP, from a file or memory.")
@click.option(
    "--data",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The data file, made if it is not there; by default azsession/azsession.db in your folder for data "
    "(XDG_DATA_HOME, ~/.local/share).",
)
@click.option("--memory", is_flag=True, help="Keep everything in memory, until the end of the process.")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=DEFAULT_PORT, show_default=True, help="The port; 0 takes a free one."
)
@click.option(
    "--hostname",
    "hostnames",
    multiple=True,
    metavar="NAME",
    help="A name by which clients reach the gateway, where it differs from the address: behind a proxy, or on 0.0.0.0. The "
    "first is in the connection string. Repeat it for more.",
)
@click.option("--queue", "queues", multiple=True, metavar="NAME", help="A queue to make. Repeat it for more.")
@click.option("--auto-create", is_flag=True, help="Make a queue when it is first used.")
@click.option(
    "--key",
    "keys",
    multiple=True,
    metavar="NAME:KEY:RIGHTS",
    help="A key to accept, with rights of Send, Listen and Manage, divided by commas. Repeat it for more; the connection "
    "string is for the first. By default a key with all rights is made, and kept in a file beside the data.",
)
@click.option(
    "--key-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A file of such keys, one a line, that only its owner can read; made with one key if it is not there. Gateways "
    "behind one balancer need the same.",
)
@click.option("--tls-cert", type=_FILE, help="The certificate chain, to serve https.")
@click.option("--tls-key", type=_FILE, help="The certificate's private key.")
@click.option("--insecure", is_flag=True, help="Allow plain http on an address that is not loopback.")
@click.option(
    "--max-waiting",
    type=click.IntRange(1),
    help="Receives that may wait at once, each with a thread; more are answered 429. By default 1024.",
)
@click.option(
    "--max-connections",
    type=click.IntRange(1),
    help="Connections at once. Past them the one that has been idle longest is closed, or the new one is answered 503. By "
    "default as many as the process may open files, less some, and at most 16384.",
)
@azure_options
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print one JSON line: connection_string, url, data; with Azure also azure, its host.",
)
def serve(
    data: Path | None,
    memory: bool,
    host: str,
    port: int,
    hostnames: Sequence[str],
    queues: Sequence[str],
    auto_create: bool,
    keys: Sequence[str],
    key_file: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    insecure: bool,
    max_waiting: int | None,
    max_connections: int | None,
    azure_string: str | None,
    azure_namespace: str | None,
    azure_websockets: bool,
    as_json: bool,
) -> None:
    """Serve message sessions over HTTP, kept in one file, in memory, or by an Azure Service Bus namespace.

    Prints the connection string to use on standard output, and nothing else there. SIGTERM and Ctrl-C finish what is running
    and end it; a second one ends it at once.
    """
    from ..server import MAX_WAITING, AccessKey, GatewayService
    from .keyfile import stored_keys

    azure = chosen_azure(azure_string, azure_namespace, azure_websockets)
    if azure is not None:
        refuse_local(azure, data=data, memory=memory, queues=bool(queues), auto_create=auto_create)
    if memory and data is not None:
        raise click.UsageError("give --data or --memory, not both")
    if keys and key_file is not None:
        raise click.UsageError("give --key or --key-file, not both")
    if (tls_cert is None) != (tls_key is None):
        raise click.UsageError("TLS needs both --tls-cert and --tls-key")
    accepted = [AccessKey.parse(text) for text in keys]
    if len({key.name for key in accepted}) != len(accepted):
        raise click.UsageError("two keys have the same name")
    config = None if azure is None else azure.config()
    path = None if memory or config is not None else _data_file(data)
    if not keys and key_file is None:
        key_file = _key_file(path, config)
    _allow_open_files()
    # Messages and keys are the owner's alone, whatever the umask was.
    os.umask(0o077)
    broker: Broker
    lookout: Lookout | None = None
    limits: dict[str, int] = {}
    if config is not None:
        broker = fronted = azure_broker(config)
        lookout = Lookout(fronted, config)
        limits = {"max_body_size": AZURE_BODY_SIZE, "max_message_size": AZURE_MESSAGE_SIZE}
    else:
        from ..broker.embedded import EmbeddedBroker

        broker = EmbeddedBroker(path, queues=queues, auto_create=auto_create)
    try:
        if not accepted:
            accepted = [AccessKey.generate()] if key_file is None else stored_keys(key_file)
        service = GatewayService(
            broker,
            accepted,
            host=host,
            port=port,
            hosts=hostnames,
            tls_cert=tls_cert,
            tls_key=tls_key,
            insecure=insecure,
            max_waiting=max_waiting or MAX_WAITING,
            max_connections=max_connections,
            **limits,
        )
        signals = _Signals()
        service.start()
    except BaseException:
        broker.close()
        raise
    try:
        url = public_url(service.url, hostnames, tls_cert)
        note(f"azsession {__version__} listens on {service.url}; Ctrl-C ends it")
        if config is not None:
            note(f"azure   {config.host}{' over WebSockets' if config.uses_websockets else ''}, port {config.port}")
        else:
            note("data    in memory, gone at the end" if path is None else f"data    {path}")
        if key_file is not None:
            note(f"key     {key_file}")
        if config is None:
            names = ", ".join(found.name for found in broker.list_queues())
            note(f"queues  {names or ('made when first used' if auto_create else 'none yet: azsession queue create')}")
        _warn_of_address(host, url, hostnames)
        if lookout is not None:
            lookout.start()
        _announce(url, accepted[0], path, config, as_json=as_json)
        signals.wait()
        note("stopping: finishing what is running; once more ends it at once")
    finally:
        if lookout is not None:
            lookout.end()
        service.stop()


def _allow_open_files() -> None:
    """Let this process open as many files as it may: each connection is one, and the usual limit is 1024."""
    try:
        import resource
    except ImportError:
        return  # Windows has no such limit.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    # macOS says that there is no limit, and refuses that as one.
    for wanted in (most, 10240):
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
            return


def _key_file(path: Path | None, config: ServiceBusConfig | None) -> Path | None:
    """Return where the key is kept: beside the data, or for Azure in the user's folder, by namespace."""
    if config is None:
        return None if path is None else path.with_name(path.name + ".key")
    folder = _own_folder()
    return folder / f"{config.host.replace(':', '-')}.key"


def _data_file(data: Path | None) -> Path:
    if data is None:
        data = _own_folder() / default_data().name
    elif not data.parent.is_dir():
        raise ConfigurationError(f"the data file {data} needs its folder to be there")
    return data.absolute()


def _own_folder() -> Path:
    folder = default_data().parent
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _announce(url: str, key: AccessKey, path: Path | None, config: ServiceBusConfig | None, *, as_json: bool) -> None:
    """Print what clients connect with: all that goes to standard output."""
    string = f"Endpoint={url}/;SharedAccessKeyName={key.name};SharedAccessKey={key.key}"
    if as_json:
        # `data` is null where nothing is kept here: in memory, and on Azure.
        told = {"connection_string": string, "url": url, "data": None if path is None else str(path)}
        click.echo(json.dumps(told if config is None else {**told, "azure": config.host}))
        return
    note(f"the connection string, in quotes for {ENV_CONNECTION_STRING}:")
    click.echo(string)


def _warn_of_address(host: str, url: str, hostnames: Sequence[str]) -> None:
    if host in WILDCARDS and not hostnames and is_loopback(urlsplit(url).hostname or ""):
        note("other machines need this one's name in the connection string: --hostname NAME")
    if url.startswith("http:") and not is_loopback(host):
        note("warning: without TLS, whoever can read the network reads tokens and messages")


class _Signals:
    """Waits for SIGTERM or SIGINT; the second one ends the process at once, as it does by default."""

    def __init__(self) -> None:
        # Python runs a handler between two steps of the main thread; one that is about to block would sleep on. What comes
        # through a socket cannot be missed.
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        signal.set_wakeup_fd(self._writer.fileno())
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, _: object) -> None:
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, signal.SIG_DFL)

    def wait(self) -> None:
        """Return once one came. Blocks."""
        self._reader.recv(1)
