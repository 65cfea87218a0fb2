"""Backends that run in this process: Azure Service Bus over AMQP, and the embedded broker.

`ServerConnection` calls these functions. This is the only module of the client that loads a broker or the server's code, and
it does so only when a provider needs one: `import azsession` stays fast.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import requests

from .._extras import need
from ..config import ServiceBusConfig
from ..errors import ConfigurationError

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential
    from requests.adapters import BaseAdapter

    from .inprocess import InProcessAdapter

#: The base URL of an embedded broker's routes. No request leaves the process.
EMBEDDED_URL = "http://embedded.localhost"
#: The largest message and the largest request body for Azure, in bytes. Azure has its own limits, up to 100 MB a message.
AZURE_MESSAGE_SIZE, AZURE_BODY_SIZE = 100 * 1024 * 1024, 150 * 1024 * 1024


def azure_backend(
    config: ServiceBusConfig, credential: TokenCredential | None, http: requests.Session | None
) -> InProcessAdapter:
    """Return the adapter that answers requests from Azure Service Bus over AMQP.

    Clients that share a `requests.Session` share the adapter that is mounted on it.

    Args:
        config: The namespace, and how to reach it.
        credential: A `TokenCredential`, instead of the configuration's key.
        http: The caller's `requests.Session`, if any.

    Raises:
        ConfigurationError: The extra for WebSockets is not installed, the configuration has no credentials, or `http` already
            has an adapter with other credentials for this namespace.
    """
    if config.uses_websockets:
        need("websocket", "websockets")
    from ..broker.azure import AzureBroker
    from .inprocess import InProcessAdapter

    endpoint = (config.host, config.port, config.tls, config.uses_websockets, config.ca_bundle)
    identity = (*endpoint, config.credentials, credential)
    mounted = None if http is None else http.adapters.get(_prefix(config.namespace_url))
    if isinstance(mounted, InProcessAdapter) and not mounted.closed:
        if mounted.identity != identity:
            raise ConfigurationError(
                f"this requests.Session is already connected to {config.host} with other credentials: use another one"
            )
        return mounted
    return InProcessAdapter(
        AzureBroker(config, credential),
        config.namespace_url,
        identity=identity,
        max_body_size=AZURE_BODY_SIZE,
        max_message_size=AZURE_MESSAGE_SIZE,
    )


def embedded_backend(path: str | Path | None, *, queues: Iterable[str], auto_create: bool) -> InProcessAdapter:
    """Return the adapter that answers requests from a new embedded broker.

    Args:
        path: The data file. `None` keeps everything in memory.
        queues: Names of queues to create if they do not exist.
        auto_create: Create a queue when the first message is sent to it. Reading creates none.

    Raises:
        ConfigurationError: The file cannot be opened.
    """
    from ..broker.embedded import EmbeddedBroker
    from .inprocess import InProcessAdapter

    broker = EmbeddedBroker(path, queues=queues, auto_create=auto_create)
    where = "in memory" if path is None else f"on {path}"
    error_in_child = (
        f"the embedded broker {where} belongs to the process that opened it, and this process was forked from that one: open "
        "the broker after the fork, or connect all processes to one `azsession serve`"
    )
    return InProcessAdapter(broker, EMBEDDED_URL, error_in_child=error_in_child)


def check_data_file(path: Path) -> None:
    """Check that a file is a data file of the embedded broker, and not damaged. Reads all of it.

    Raises:
        ConfigurationError: It is not.
    """
    from ..broker.embedded import check_data_file

    check_data_file(path, "the file")


def mount(http: requests.Session, adapter: InProcessAdapter) -> None:
    """Have `http` use `adapter` for the adapter's URL. Other threads may be using `http`."""
    prefix = _prefix(adapter.url)
    if http.adapters.get(prefix) is not adapter:
        others: list[tuple[str, BaseAdapter]] = [item for item in http.adapters.items() if item[0] != prefix]
        # requests uses the first prefix that matches, so the longest come first. One assignment replaces all adapters,
        # because `Session.mount` changes the dictionary step by step.
        http.adapters = OrderedDict(sorted([*others, (prefix, adapter)], key=lambda item: -len(item[0])))


def _prefix(url: str) -> str:
    """Return the prefix to mount an adapter for `url`. Without the slash it would also match longer host names."""
    return f"{url}/"
