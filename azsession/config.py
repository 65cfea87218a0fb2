"""Where the session routes live and with which key: connection strings, namespaces, URLs and the environment.

`ServiceBusProvider` and `SessionClient` take a `ServiceBusConfig`; `tokens` takes the key from it, `transport` the rest.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import attrs

from .errors import ConfigurationError, ValidationError
from .validation import as_seconds, check_queue_name, seconds

#: Environment variables that `ServiceBusConfig.from_env` reads.
ENV_CONNECTION_STRING = "SERVICEBUS_CONNECTION_STRING"
ENV_NAMESPACE = "SERVICEBUS_FULLY_QUALIFIED_NAMESPACE"
ENV_GATEWAY_URL = "AZSESSION_GATEWAY_URL"

#: Host suffixes of Azure Service Bus: public, China, US government, Germany.
AZURE_SUFFIXES = (
    ".servicebus.windows.net",
    ".servicebus.chinacloudapi.cn",
    ".servicebus.usgovcloudapi.net",
    ".servicebus.cloudapi.de",
)

_TRANSPORTS = ("auto", "http")
_KNOWN_KEYS = {
    "endpoint": "endpoint",
    "sharedaccesskeyname": "key_name",
    "sharedaccesskey": "key",
    "sharedaccesssignature": "signature",
    "entitypath": "entity_path",
    "usedevelopmentemulator": "emulator",
}


@attrs.frozen(kw_only=True)
class ConnectionString:
    """The fields of an Azure Service Bus connection string.

    Attributes:
        endpoint: Its ``Endpoint``, a URL with the scheme ``sb``, ``http`` or ``https``.
        key_name: The name of the shared access key.
        key: The shared access key.
        signature: A ready ``SharedAccessSignature``, instead of a key.
        entity_path: The one entity that it is for, where it names one.
        emulator: It says ``UseDevelopmentEmulator=true``.
    """

    endpoint: str
    key_name: str | None = None
    key: str | None = attrs.field(default=None, repr=False)
    signature: str | None = attrs.field(default=None, repr=False)
    entity_path: str | None = None
    emulator: bool = False

    @classmethod
    def parse(cls, text: str) -> ConnectionString:
        """Return the fields of ``Endpoint=..;SharedAccessKeyName=..;SharedAccessKey=..``, keys in any case.

        Raises:
            ConfigurationError: A part is missing, doubled or malformed. The message holds no part of a key.
        """
        if not isinstance(text, str) or not text.strip():
            raise ConfigurationError("the connection string is empty")
        fields: dict[str, str] = {}
        for part in text.strip().strip(";").split(";"):
            name, equals, value = part.partition("=")
            field = _KNOWN_KEYS.get(name.strip().lower())
            if not equals:
                raise ConfigurationError("a connection string is a list of Name=Value, divided by ';': one has no '='")
            if field is None:
                continue
            if field in fields:
                raise ConfigurationError(f"the connection string has {name.strip()} twice")
            fields[field] = value.strip()
        endpoint = fields.get("endpoint")
        if not endpoint:
            raise ConfigurationError("the connection string has no Endpoint, such as Endpoint=sb://host/")
        _split_url(endpoint, "the connection string's Endpoint", ("sb", "http", "https"))
        if ("key_name" in fields) != ("key" in fields):
            raise ConfigurationError("SharedAccessKeyName and SharedAccessKey need each other in a connection string")
        if "key" in fields and "signature" in fields:
            raise ConfigurationError("a connection string has a SharedAccessKey or a SharedAccessSignature, not both")
        if any(not fields.get(name, "-") for name in ("key_name", "key", "signature")):
            raise ConfigurationError("the connection string names a key or signature but leaves it empty")
        try:
            if fields.get("entity_path"):
                check_queue_name(fields["entity_path"])
        except ValidationError as error:
            raise ConfigurationError(f"the connection string's EntityPath: {error}") from None
        return cls(
            endpoint=endpoint,
            key_name=fields.get("key_name"),
            key=fields.get("key"),
            signature=fields.get("signature"),
            entity_path=fields.get("entity_path") or None,
            emulator=fields.get("emulator", "").lower() == "true",
        )


def _split_url(url: str, what: str, schemes: tuple[str, ...]) -> tuple[str, str, int | None, str]:
    """Return scheme, host, port and path of `url`."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, None
    if parts is None or not host or parts.scheme.lower() not in schemes or re.search(r"[\s\x00-\x1f\\]", url):
        raise ConfigurationError(f"{what} is not a URL such as {schemes[-1]}://host/")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ConfigurationError(f"{what} is scheme, host, port and path only")
    return parts.scheme.lower(), host.lower(), port, parts.path.rstrip("/")


def is_loopback(host: str) -> bool:
    """Tell whether `host`, a name or an address, is this machine's loopback."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost" or host.lower().endswith(".localhost")


def _check_seconds(_: Any, field: attrs.Attribute[Any], value: Any) -> None:
    try:
        seconds(value, field.name, positive=field.name == "session_timeout")
    except ValidationError as error:
        raise ConfigurationError(str(error)) from None


def _check_number(lowest: int) -> Any:
    def check(_: Any, field: attrs.Attribute[Any], value: Any) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or value < lowest:
            raise ConfigurationError(f"{field.name} is a whole number, {lowest} or more, not {value!r}")

    return check


@attrs.frozen(kw_only=True)
class ServiceBusConfig:
    """How to reach the session routes.

    Args:
        connection_string: Azure's form, also as printed by a gateway.
        namespace: ``"myns"`` or ``"myns.servicebus.windows.net"``, instead of a connection string.
        gateway_url: Where the session routes live, if elsewhere than at the endpoint or namespace.
        session_timeout: Seconds (or a timedelta) for which a server's session lock is expected to last where the server
            does not tell.
        request_timeout: Seconds to wait for an answer, on top of the time that a receive may wait.
        retry_attempts: How often a failed request is sent again.
        retry_deadline: Seconds after the first failure in which it is sent again.
        pool_connections: Connections kept open for reuse.
        ca_bundle: A file or folder with the certificates to trust, instead of the usual ones.
        allow_insecure_http: Allow ``http://`` to a host other than loopback, although requests carry tokens.
        transport: ``"auto"`` goes by the endpoint; ``"http"`` sends the session routes to it, whatever it is.

    Raises:
        ConfigurationError: A field is wrong, or they contradict each other.
    """

    connection_string: str | None = attrs.field(default=None, repr=False)
    namespace: str | None = None
    gateway_url: str | None = None
    session_timeout: float = attrs.field(default=60.0, converter=as_seconds, validator=_check_seconds)
    request_timeout: float = attrs.field(default=30.0, converter=as_seconds, validator=_check_seconds)
    retry_attempts: int = attrs.field(default=4, validator=_check_number(0))
    retry_deadline: float = attrs.field(default=30.0, converter=as_seconds, validator=_check_seconds)
    pool_connections: int = attrs.field(default=32, validator=_check_number(1))
    ca_bundle: str | None = None
    allow_insecure_http: bool = False
    transport: str = "auto"
    _parsed: ConnectionString | None = attrs.field(init=False, repr=False, eq=False)
    _url: str = attrs.field(init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        if self.transport not in _TRANSPORTS:
            raise ConfigurationError(f"transport is one of {', '.join(_TRANSPORTS)}, not {self.transport!r}")
        if self.connection_string is not None and self.namespace is not None:
            raise ConfigurationError("give a connection_string or a namespace, not both")
        parsed = None if self.connection_string is None else ConnectionString.parse(self.connection_string)
        object.__setattr__(self, "_parsed", parsed)
        object.__setattr__(self, "_url", self._find_url(parsed))

    def _find_url(self, parsed: ConnectionString | None) -> str:
        if self.gateway_url is not None:
            scheme, host, port, path = _split_url(self.gateway_url, "gateway_url", ("http", "https"))
        elif parsed is not None:
            scheme, host, port, path = _split_url(parsed.endpoint, "Endpoint", ("sb", "http", "https"))
            if scheme == "sb":
                self._refuse_azure(host, emulator=parsed.emulator)
                scheme = "https"
        elif self.namespace is not None:
            if not re.fullmatch(r"[A-Za-z0-9.-]+(:[0-9]+)?", self.namespace):
                raise ConfigurationError("namespace is a name such as 'myns' or 'myns.servicebus.windows.net'")
            name = self.namespace if "." in self.namespace else self.namespace + AZURE_SUFFIXES[0]
            scheme, host, port, path = _split_url(f"https://{name}", "namespace", ("https",))
            self._refuse_azure(host)
        else:
            raise ConfigurationError(
                "nothing says where the session routes live: give connection_string, namespace or gateway_url, or set "
                f"{ENV_CONNECTION_STRING}, {ENV_NAMESPACE} or {ENV_GATEWAY_URL}"
            )
        if scheme == "http" and not self.allow_insecure_http and not is_loopback(host):
            raise ConfigurationError(
                f"http://{host} would carry tokens in the clear: use https, or set allow_insecure_http=True"
            )
        host = f"[{host}]" if ":" in host else host
        return f"{scheme}://{host}{'' if port is None else f':{port}'}{path}"

    def _refuse_azure(self, host: str, *, emulator: bool = False) -> None:
        if self.transport == "auto" and (emulator or host.endswith(AZURE_SUFFIXES)):
            raise ConfigurationError(
                f"{host} serves message sessions over AMQP only, not over HTTP: give the gateway_url of an azsession "
                "gateway, or transport='http' if this host does have the session routes"
            )

    @property
    def namespace_url(self) -> str:
        """The base of all session routes, without a slash at the end."""
        return self._url

    @property
    def credentials(self) -> ConnectionString | None:
        """The connection string's fields, where there is one."""
        return self._parsed

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ, **fields: Any) -> ServiceBusConfig:
        """Return the configuration that the environment describes; `fields` go before it.

        Reads SERVICEBUS_CONNECTION_STRING, else SERVICEBUS_FULLY_QUALIFIED_NAMESPACE, and AZSESSION_GATEWAY_URL.
        """
        if fields.get("connection_string") is None and fields.get("namespace") is None:
            if environ.get(ENV_CONNECTION_STRING):
                fields["connection_string"] = environ[ENV_CONNECTION_STRING]
            elif environ.get(ENV_NAMESPACE):
                fields["namespace"] = environ[ENV_NAMESPACE]
        if fields.get("gateway_url") is None and environ.get(ENV_GATEWAY_URL):
            fields["gateway_url"] = environ[ENV_GATEWAY_URL]
        return cls(**fields)
