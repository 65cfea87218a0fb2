"""Where the session routes live and with which key: connection strings, namespaces, URLs and the environment.

`ServiceBusProvider` and `SessionClient` take a `ServiceBusConfig`; `tokens` takes the key from it, `transport` the rest.
"""

from __future__ import annotations

import copy
import ipaddress
import os
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypedDict
from urllib.parse import urlsplit

import attrs

from .errors import ConfigurationError, ValidationError
from .validation import as_seconds, check_queue_name, check_text, did_you_mean, seconds

if TYPE_CHECKING:
    from typing_extensions import Unpack

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

#: The ports of AMQP: in TLS, bare as the emulator has it, and over WebSockets.
AMQPS_PORT, AMQP_PORT, WEBSOCKETS_PORT = 5671, 5672, 443

_AMQP, _WEBSOCKETS = "amqp", "amqp-websockets"
_TRANSPORTS = ("auto", "http", _AMQP, _WEBSOCKETS)
_KNOWN_KEYS = {
    "endpoint": "endpoint",
    "sharedaccesskeyname": "key_name",
    "sharedaccesskey": "key",
    "sharedaccesssignature": "signature",
    "entitypath": "entity_path",
    "usedevelopmentemulator": "emulator",
    "transporttype": "transport",
}
#: What no URL has: spaces, control characters, backslashes, lone surrogates.
_NO_URL = re.compile(r"[\s\x00-\x1f\\\ud800-\udfff]")
#: What .NET calls the transports, in lower case.
_TRANSPORT_TYPES = {"amqp": _AMQP, "amqptcp": _AMQP, "amqpwebsockets": _WEBSOCKETS}


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
        transport: What its ``TransportType`` means: ``"amqp"`` or ``"amqp-websockets"``.
    """

    endpoint: str
    key_name: str | None = None
    key: str | None = attrs.field(default=None, repr=False)
    signature: str | None = attrs.field(default=None, repr=False)
    entity_path: str | None = None
    emulator: bool = False
    transport: str | None = None

    @classmethod
    def parse(cls, text: str) -> ConnectionString:
        """Return the fields of ``Endpoint=..;SharedAccessKeyName=..;SharedAccessKey=..``, keys in any case.

        Raises:
            ConfigurationError: A part is missing, doubled or malformed. The message holds no part of a key.
        """
        if not isinstance(text, str) or not text.strip():
            raise ConfigurationError("the connection string is empty")
        try:
            check_text(text, "the connection string")
        except ValidationError as error:
            # The environment has these for bytes that are no UTF-8.
            raise ConfigurationError(str(error)) from None
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
        if not (fields.get("signature", "").isascii() and fields.get("signature", "").isprintable()):
            raise ConfigurationError(
                "a SharedAccessSignature goes into a header: the connection string's is not ASCII in one line"
            )
        if "transport" in fields and fields["transport"].lower() not in _TRANSPORT_TYPES:
            raise ConfigurationError("the connection string's TransportType is Amqp or AmqpWebSockets")
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
            transport=_TRANSPORT_TYPES.get(fields.get("transport", "").lower()),
        )


def _split_url(url: str, what: str, schemes: tuple[str, ...]) -> tuple[str, str, int | None, str]:
    """Return scheme, host, port and path of `url`."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
        if host and len(host) < 256:
            # As sockets do it: a part of the name may be empty, or too long.
            host.encode("idna")
        else:
            host = None
    except ValueError:
        host, port, parts = None, None, None
    if parts is None or not host or parts.scheme.lower() not in schemes or _NO_URL.search(url):
        raise ConfigurationError(f"{what} is not a URL such as {schemes[-1]}://host/")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ConfigurationError(f"{what} is scheme, host, port and path only")
    return parts.scheme.lower(), host.lower(), port, parts.path.rstrip("/")


def is_loopback(host: str) -> bool:
    """Tell whether `host`, a name or an address, is this machine's loopback."""
    try:
        address = ipaddress.ip_address(host.strip("[]"))
        # Python itself says so of mapped ones since 3.13.
        return (getattr(address, "ipv4_mapped", None) or address).is_loopback
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


@attrs.frozen
class _Place:
    """What a configuration leads to: the base of the routes, and what is connected to."""

    url: str
    host: str
    port: int | None
    tls: bool
    amqp: bool
    websockets: bool


class ConfigOptions(TypedDict, total=False):
    """The fields of `ServiceBusConfig` that do not name the namespace: keyword arguments beside a connection string."""

    gateway_url: str | None
    session_timeout: float | timedelta
    request_timeout: float | timedelta
    retry_attempts: int
    retry_deadline: float | timedelta
    pool_connections: int
    ca_bundle: str | None
    allow_insecure_http: bool
    transport: str


class ConfigFields(ConfigOptions, total=False):
    """All fields of `ServiceBusConfig`, as keyword arguments."""

    connection_string: str | None
    namespace: str | None


@attrs.frozen(kw_only=True, init=False)
class ServiceBusConfig:
    """How to reach the session routes, or Azure itself.

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
        transport: ``"auto"`` goes by the endpoint: Azure's hosts and its emulator are spoken to in AMQP, by a gateway in this
            process, and all others have the session routes. ``"http"`` sends the routes to the endpoint, whatever it is;
            ``"amqp"`` speaks AMQP with it, ``"amqp-websockets"`` AMQP over WebSockets, where only port 443 is open.

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
    _place: _Place = attrs.field(init=False, repr=False, eq=False)

    def __init__(self, **fields: Unpack[ConfigFields]) -> None:
        for name in fields:
            if name not in ConfigFields.__annotations__:
                raise ConfigurationError(
                    f"there is no configuration field {did_you_mean(name, ConfigFields.__annotations__)}"
                )
        self.__attrs_init__(**fields)

    def __attrs_post_init__(self) -> None:
        if self.transport not in _TRANSPORTS:
            raise ConfigurationError(f"transport is one of {', '.join(_TRANSPORTS)}, not {self.transport!r}")
        if self.connection_string is not None and self.namespace is not None:
            raise ConfigurationError("give a connection_string or a namespace, not both")
        if self.gateway_url is not None and self.transport in (_AMQP, _WEBSOCKETS):
            raise ConfigurationError(f"a gateway is spoken to in HTTP: give gateway_url or transport={self.transport!r}")
        parsed = None if self.connection_string is None else ConnectionString.parse(self.connection_string)
        object.__setattr__(self, "_parsed", parsed)
        object.__setattr__(self, "_place", self._find_place(parsed))

    def _find_place(self, parsed: ConnectionString | None) -> _Place:
        if self.gateway_url is not None:
            return self._place_at(self.gateway_url, "gateway_url", ("http", "https"))
        if parsed is not None:
            return self._place_at(parsed.endpoint, "Endpoint", ("sb", "http", "https"))
        if self.namespace is not None:
            if not re.fullmatch(r"[A-Za-z0-9.-]+(:[0-9]+)?", self.namespace):
                raise ConfigurationError("namespace is a name such as 'myns' or 'myns.servicebus.windows.net'")
            name = self.namespace if "." in self.namespace else self.namespace + AZURE_SUFFIXES[0]
            return self._place_at(f"sb://{name}", "namespace", ("sb",))
        raise ConfigurationError(
            "nothing says where the session routes live: give connection_string, namespace or gateway_url, or set "
            f"{ENV_CONNECTION_STRING}, {ENV_NAMESPACE} or {ENV_GATEWAY_URL}"
        )

    def _place_at(self, url: str, what: str, schemes: tuple[str, ...], *, azure: bool = False) -> _Place:
        """Return what is at a URL; `azure` says that an ``https`` one may be Azure's."""
        scheme, host, port, path = _split_url(url, what, schemes)
        is_azure, parsed = host.endswith(AZURE_SUFFIXES), self._parsed
        emulator = parsed is not None and parsed.emulator and not is_azure
        transport = self.transport
        if transport == "auto" and (scheme == "sb" or (azure and is_azure)) and self.gateway_url is None:
            transport = parsed.transport if parsed is not None and parsed.transport is not None else "auto"
            if transport == "auto" and (is_azure or emulator):
                transport = _AMQP
        amqp, websockets = transport in (_AMQP, _WEBSOCKETS), transport == _WEBSOCKETS
        if amqp and scheme == "http":
            raise ConfigurationError(f"{what} is the http:// of a gateway, which does not speak AMQP: sb:// would")
        tls = scheme == "https" or (scheme == "sb" and not (amqp and emulator))
        # Who says UseDevelopmentEmulator says that there is no TLS: containers reach the emulator by its name.
        if not tls and not amqp and not self.allow_insecure_http and not is_loopback(host):
            raise ConfigurationError(
                f"http://{host} would carry tokens in the clear: use https, or set allow_insecure_http=True"
            )
        shown = f"[{host}]" if ":" in host else host
        base = f"{'https' if tls else 'http'}://{shown}{'' if port is None else f':{port}'}"
        if port is None and amqp:
            port = WEBSOCKETS_PORT if websockets else AMQPS_PORT if tls else AMQP_PORT
        return _Place(base if amqp else base + path, host, port, tls, amqp, websockets)

    def at(self, url: str) -> ServiceBusConfig:
        """Return this configuration with the routes at `url`, as `SessionClient` is given it."""
        what, schemes, own = "namespace_url", ("sb", "http", "https"), self._place
        _, host, port, _ = _split_url(url, what, schemes)
        if own.amqp and host == own.host and port in (None, own.port):
            return self
        again = copy.copy(self)
        object.__setattr__(again, "_place", self._place_at(url, what, schemes, azure=True))
        return again

    @property
    def namespace_url(self) -> str:
        """The base of all session routes, without a slash at the end. With AMQP they are this process's own."""
        return self._place.url

    @property
    def uses_amqp(self) -> bool:
        """Whether Azure's AMQP is spoken, by a gateway in this process."""
        return self._place.amqp

    @property
    def uses_websockets(self) -> bool:
        """Whether AMQP goes over WebSockets."""
        return self._place.websockets

    @property
    def host(self) -> str:
        """The host that is connected to, without brackets."""
        return self._place.host

    @property
    def port(self) -> int:
        """The port that is connected to."""
        return self._place.port or (443 if self._place.tls else 80)

    @property
    def tls(self) -> bool:
        """Whether connections are in TLS."""
        return self._place.tls

    @property
    def credentials(self) -> ConnectionString | None:
        """The connection string's fields, where there is one."""
        return self._parsed

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ, **fields: Unpack[ConfigFields]) -> ServiceBusConfig:
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
