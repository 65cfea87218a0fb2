"""One provider for each process: made when it is first asked for, anew after a fork, closed at the end.

What the integrations have in common; applications use theirs.
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import attrs

from .. import forks
from ..client.provider import ServiceBusProvider
from ..config import ServiceBusConfig
from ..errors import ConfigurationError

#: What ``embedded`` is for a broker that keeps nothing on disk.
MEMORY = "memory"
#: The fields of `ServiceBusConfig`, those of them that say where to connect to, and those that are text.
FIELDS = tuple(field.name for field in attrs.fields(ServiceBusConfig) if field.init)
PLACES = ("connection_string", "namespace", "gateway_url")
TEXTS = (*PLACES, "ca_bundle", "transport")


@attrs.frozen
class ProviderSetting:
    """What a framework's configuration says of the provider.

    Attributes:
        fields: Those of `ServiceBusConfig`. Where they name no place, the environment does.
        credential: A `TokenCredential`, or what makes one.
        embedded: Where the embedded broker keeps its messages, `MEMORY` or a file; `None` for another server.
    """

    fields: Mapping[str, Any] = attrs.field(repr=False)
    credential: Any = attrs.field(repr=False)
    embedded: str | None

    def provider(self) -> ServiceBusProvider:
        """Return a new provider.

        Raises:
            ConfigurationError: Nothing says where to connect to, or it is wrong.
        """
        if self.embedded is not None:
            return embedded_provider(self.embedded)
        names_a_place = any(name in self.fields for name in PLACES)
        config = ServiceBusConfig(**self.fields) if names_a_place else ServiceBusConfig.from_env(**self.fields)
        return provider_with(config, self.credential)


class KeptProvider:
    """A process's provider: made by one thread while the others wait for it.

    Args:
        read: Returns what to make it from; raises `ConfigurationError` where that is wrong.
        nowhere: Returns the error to raise where nothing says where to connect to, given what the environment lacks.
    """

    def __init__(
        self, read: Callable[[], ProviderSetting], nowhere: Callable[[ConfigurationError], ConfigurationError]
    ) -> None:
        self._read = read
        self._nowhere = nowhere
        self._lock = threading.Lock()  # Guards all that follows.
        self._making: Future[ServiceBusProvider] | None = None
        self._provider: ServiceBusProvider | None = None
        self._is_embedded = False
        forks.register(self)

    def get(self) -> ServiceBusProvider:
        """Return the provider.

        Raises:
            ConfigurationError: It cannot be made; the next use tries again.
        """
        with self._lock:
            if self._provider is not None:
                return self._provider
            others, making = self._making, Future[ServiceBusProvider]()
            if others is None:
                self._making = making
        if others is not None:
            return others.result()
        try:
            setting = self._read()
            provider = self._make(setting)
        except BaseException as error:
            with self._lock:
                self._making = None
            making.set_exception(error)
            raise
        with self._lock:
            self._making, self._provider, self._is_embedded = None, provider, setting.embedded is not None
        # Not earlier: what was registered last is called first, and connection pools see to their own end.
        atexit.register(provider.close)
        making.set_result(provider)
        return provider

    def _make(self, setting: ProviderSetting) -> ServiceBusProvider:
        try:
            return setting.provider()
        except ConfigurationError as error:
            if setting.embedded is None and not any(name in setting.fields for name in PLACES):
                raise self._nowhere(error) from None
            raise

    def close(self) -> None:
        """Close it, if there is one, and thereby its sessions. The next use makes another. Idempotent."""
        with self._lock:
            provider, self._provider = self._provider, None
        if provider is not None:
            atexit.unregister(provider.close)
            provider.close()

    def after_fork(self) -> None:
        """In a forked child: another provider, at the next use. An embedded broker stays the parent's, and its provider
        says so where it is used here: a second broker would quietly miss what the first one has."""
        self._lock = threading.Lock()
        self._making = None
        if self._provider is not None and not self._is_embedded:
            atexit.unregister(self._provider.close)
            self._provider = None


def embedded_provider(place: str | Path) -> ServiceBusProvider:
    """Return a provider with a broker of its own, in `MEMORY` or a file."""
    return ServiceBusProvider.embedded(None if place == MEMORY else place)


def provider_with(config: ServiceBusConfig, credential: Any) -> ServiceBusProvider:
    """Return a provider with a credential, or one made by what makes one."""
    if credential is not None and (isinstance(credential, type) or not hasattr(credential, "get_token")):
        credential = credential()
    return ServiceBusProvider(config, credential=credential)


def kind_of(value: object) -> str:
    """Return what to call a value that is of the wrong kind: it may be a secret itself."""
    return f"a {type(value).__name__}"
