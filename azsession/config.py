"""The configuration of a client: connection strings, namespaces, URLs and environment variables.

`ServiceBusProvider` and `SessionClient` take a `ServiceBusConfig`. Token caches read its key, transports its other fields.
"""

from __future__ import annotations

import copy
import os
import re
import ssl
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypedDict

import attrs

from .azure_names import counterpart
from .connection_string import AMQP, WEBSOCKETS, split_url
from .connection_string import ConnectionString as ConnectionString
from .connection_string import is_loopback as is_loopback
from .display import html_table, short_repr
from .errors import ConfigurationError, ValidationError
from .validation import as_seconds, check_count, check_flag, did_you_mean, seconds, shown

if TYPE_CHECKING:
    from typing_extensions import Unpack

#: The environment variables of `ServiceBusConfig.from_env`.
ENV_CONNECTION_STRING = "SERVICEBUS_CONNECTION_STRING"
ENV_NAMESPACE = "SERVICEBUS_FULLY_QUALIFIED_NAMESPACE"
ENV_GATEWAY_URL = "AZSESSION_GATEWAY_URL"

#: The host suffixes of Azure Service Bus: public, China, US government, Germany.
AZURE_SUFFIXES = (
    ".servicebus.windows.net",
    ".servicebus.chinacloudapi.cn",
    ".servicebus.usgovcloudapi.net",
    ".servicebus.cloudapi.de",
)

#: The ports of AMQP with TLS, without TLS (the emulator) and over WebSockets.
AMQPS_PORT, AMQP_PORT, WEBSOCKETS_PORT = 5671, 5672, 443

#: The most retries, and the most connections to keep open. The connection pool allocates memory for each.
MAX_RETRIES, MAX_POOL = 1_000_000, 65_536

_TRANSPORTS = ("auto", "http", AMQP, WEBSOCKETS)


def _checked(check: Callable[..., object], *arguments: object, **options: Any) -> None:
    """Call a check of `validation`. Its error is one of the configuration here."""
    try:
        check(*arguments, **options)
    except ValidationError as error:
        raise ConfigurationError(str(error)) from None


def _check_seconds(_: object, field: attrs.Attribute[Any], value: object) -> None:
    _checked(seconds, value, field.name, positive=field.name == "session_timeout")


def _count(lowest: int, highest: int) -> Callable[[object, attrs.Attribute[Any], int], None]:
    def check(_: object, field: attrs.Attribute[Any], value: int) -> None:
        _checked(check_count, value, field.name, highest, lowest=lowest)

    return check


def _check_text(_: object, field: attrs.Attribute[Any], value: str | None) -> None:
    # A text is checked in more detail later. The type comes first: URL functions accept bytes, for example.
    if value is not None and not isinstance(value, str):
        raise ConfigurationError(f"{field.name} must be a str, not {type(value).__name__}")
    if value == "" and field.name == "ca_bundle":
        raise ConfigurationError("ca_bundle must be the path of a file or folder, or None, not an empty text")


def _check_flag(_: object, field: attrs.Attribute[Any], value: bool) -> None:
    _checked(check_flag, value, field.name)


def check_ca_bundle(path: str | None) -> None:
    """Check that certificates can be read from a `ca_bundle`. A client calls this before its first connection.

    Args:
        path: The file or folder. `None` means the default certificates.

    Raises:
        ConfigurationError: There is no such file or folder, or it is a file without certificates.
    """
    if path is None or os.path.isdir(path):
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError:
        raise ConfigurationError(f"ca_bundle {path!r} has no certificates: give a file in the format PEM") from None
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"ca_bundle {path!r} cannot be read ({error}): give an existing file or folder") from error


@attrs.frozen(eq=False, repr=False)
class _Address:
    """The base URL of the session routes, and the host that the client connects to."""

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
    telemetry: bool
    transport: str


class ConfigFields(ConfigOptions, total=False):
    """All fields of `ServiceBusConfig`, as keyword arguments."""

    connection_string: str | None
    namespace: str | None


@attrs.frozen(kw_only=True, init=False)
class ServiceBusConfig:
    """The configuration of a `ServiceBusProvider`: where to connect, and how long to wait and retry.

    Give `connection_string`, `namespace` or `gateway_url`. A duration is a number of seconds or a timedelta; the attribute
    is always seconds.

    Args:
        connection_string: A connection string of Azure Service Bus, or one that a gateway printed.
        namespace: ``"myns"`` or ``"myns.servicebus.windows.net"``, instead of a connection string.
        gateway_url: The URL of a gateway, ``http`` or ``https``, if the session routes are not at the endpoint.
        session_timeout: How long a session lock is expected to last if the server does not say, more than 0 seconds.
        request_timeout: How long to wait for a response, 0 seconds or more, in addition to the time that a receive waits.
        retry_attempts: How many times to retry a failed request, 0 to 1,000,000.
        retry_deadline: How long after the first failure to retry, 0 seconds or more.
        pool_connections: How many connections to keep open, 1 to 65,536.
        ca_bundle: A file or directory of trusted CA certificates, instead of the default ones.
        allow_insecure_http: Allow ``http://`` to hosts other than loopback. Requests carry tokens.
        telemetry: Make spans and measurements with OpenTelemetry, if the extra ``otel`` is installed.
        transport: How to reach the endpoint. ``"auto"``: AMQP for hosts of Azure and for its emulator, HTTP for all others.
            ``"http"``: HTTP for every host. ``"amqp"``: AMQP. ``"amqp-websockets"``: AMQP over WebSockets, which needs only
            port 443.

    Raises:
        ConfigurationError: A field is unknown, has a wrong type or is out of its range, or two fields exclude each other.

    Example:
        >>> from azsession import ServiceBusConfig
        >>> config = ServiceBusConfig(namespace="myns", request_timeout=10)
        >>> config.host, config.uses_amqp, config.retry_attempts
        ('myns.servicebus.windows.net', True, 4)
    """

    connection_string: str | None = attrs.field(default=None, repr=False, validator=_check_text)
    namespace: str | None = attrs.field(default=None, validator=_check_text)
    gateway_url: str | None = attrs.field(default=None, validator=_check_text)
    session_timeout: float = attrs.field(default=60.0, converter=as_seconds, validator=_check_seconds)
    request_timeout: float = attrs.field(default=30.0, converter=as_seconds, validator=_check_seconds)
    retry_attempts: int = attrs.field(default=4, validator=_count(0, MAX_RETRIES))
    retry_deadline: float = attrs.field(default=30.0, converter=as_seconds, validator=_check_seconds)
    pool_connections: int = attrs.field(default=32, validator=_count(1, MAX_POOL))
    ca_bundle: str | None = attrs.field(default=None, validator=_check_text)
    allow_insecure_http: bool = attrs.field(default=False, validator=_check_flag)
    telemetry: bool = attrs.field(default=True, validator=_check_flag)
    transport: str = "auto"
    _parsed: ConnectionString | None = attrs.field(init=False, repr=False, eq=False)
    _address: _Address = attrs.field(init=False, repr=False, eq=False)

    def __init__(self, **fields: Unpack[ConfigFields]) -> None:
        for name in fields:
            if name not in ConfigFields.__annotations__:
                instead = counterpart("ServiceBusConfig()", name)
                raise ConfigurationError(
                    "there is no configuration field "
                    + (f"{name!r}: {instead}" if instead else did_you_mean(name, ConfigFields.__annotations__))
                )
        self.__attrs_init__(**fields)

    _repr_html_ = html_table

    def __repr__(self) -> str:
        if self.connection_string is None:
            return short_repr(self)
        # The connection string has a key: its place is shown instead.
        return short_repr(self).replace("(", f"(at={self.namespace_url!r}, ", 1).replace(", )", ")")

    def __attrs_post_init__(self) -> None:
        if self.transport not in _TRANSPORTS:
            raise ConfigurationError(f"transport must be {' or '.join(_TRANSPORTS)}, not {shown(self.transport)}")
        if self.connection_string is not None and self.namespace is not None:
            raise ConfigurationError("connection_string and namespace are both given: give one, not both")
        if self.gateway_url is not None and self.transport in (AMQP, WEBSOCKETS):
            raise ConfigurationError(f"gateway_url is for HTTP and transport is {self.transport!r}: remove one")
        parsed = None if self.connection_string is None else ConnectionString.parse(self.connection_string)
        object.__setattr__(self, "_parsed", parsed)
        object.__setattr__(self, "_address", self._find_address(parsed))

    def _find_address(self, parsed: ConnectionString | None) -> _Address:
        if self.gateway_url is not None:
            return self._address_at(self.gateway_url, "gateway_url", ("http", "https"))
        if parsed is not None:
            return self._address_at(parsed.endpoint, "Endpoint", ("sb", "http", "https"))
        if self.namespace is not None:
            if not re.fullmatch(r"[A-Za-z0-9.-]+(:[0-9]+)?", self.namespace):
                # A connection string in the place of a namespace contains a key.
                shown = "text with '='" if "=" in self.namespace else repr(self.namespace[:80])
                raise ConfigurationError(
                    f"namespace must be a name such as 'myns' or 'myns.servicebus.windows.net', not {shown}"
                )
            name = self.namespace if "." in self.namespace else self.namespace + AZURE_SUFFIXES[0]
            return self._address_at(f"sb://{name}", "namespace", ("sb",))
        raise ConfigurationError(
            "there is nothing to connect to: give connection_string, namespace or gateway_url, or set the environment "
            f"variable {ENV_CONNECTION_STRING}, {ENV_NAMESPACE} or {ENV_GATEWAY_URL}"
        )

    def _address_at(self, url: str, name: str, schemes: tuple[str, ...], *, azure: bool = False) -> _Address:
        """Return the address that `url` means. `azure`: an ``https`` URL of a host of Azure means AMQP."""
        scheme, host, port, path = split_url(url, name, schemes)
        is_azure = host.endswith(AZURE_SUFFIXES)
        is_emulator = self._parsed is not None and self._parsed.emulator and not is_azure
        transport = self.transport
        if transport == "auto" and (scheme == "sb" or (azure and is_azure)) and self.gateway_url is None:
            named = None if self._parsed is None else self._parsed.transport
            transport = named or (AMQP if is_azure or is_emulator else "auto")
        amqp, websockets = transport in (AMQP, WEBSOCKETS), transport == WEBSOCKETS
        if amqp and scheme == "http":
            raise ConfigurationError(f"{name} is an http:// URL, which cannot be used with AMQP: use sb://{host}")
        # UseDevelopmentEmulator means no TLS for any host, because containers reach the emulator by its name.
        tls = scheme == "https" or (scheme == "sb" and not (amqp and is_emulator))
        if not tls and not amqp and not self.allow_insecure_http and not is_loopback(host):
            raise ConfigurationError(
                f"http://{host} would carry tokens in the clear: use https, or allow it with "
                "allow_insecure_http=True (--allow-insecure-http)"
            )
        shown = f"[{host}]" if ":" in host else host
        base = f"{'https' if tls else 'http'}://{shown}{'' if port is None else f':{port}'}"
        if port is None and amqp:
            port = WEBSOCKETS_PORT if websockets else AMQPS_PORT if tls else AMQP_PORT
        return _Address(base if amqp else base + path, host, port, tls, amqp, websockets)

    def at(self, url: str) -> ServiceBusConfig:
        """Return this configuration with another endpoint, `url`: ``sb``, ``http`` or ``https``.

        Raises:
            ConfigurationError: It is not such a URL, or ``http`` is not allowed for its host.
        """
        name, schemes, own = "namespace_url", ("sb", "http", "https"), self._address
        _, host, port, _ = split_url(url, name, schemes)
        if own.amqp and host == own.host and port in (None, own.port):
            return self
        changed = copy.copy(self)
        object.__setattr__(changed, "_address", self._address_at(url, name, schemes, azure=True))
        return changed

    @property
    def namespace_url(self) -> str:
        """The base URL of the session routes, without a slash at the end. With AMQP, this process serves them."""
        return self._address.url

    @property
    def uses_amqp(self) -> bool:
        """True if the client uses AMQP, through a gateway in this process."""
        return self._address.amqp

    @property
    def uses_websockets(self) -> bool:
        """True if it uses AMQP over WebSockets."""
        return self._address.websockets

    @property
    def host(self) -> str:
        """The host that the client connects to. An IPv6 address has no brackets."""
        return self._address.host

    @property
    def port(self) -> int:
        """The port that the client connects to."""
        return self._address.port or (443 if self._address.tls else 80)

    @property
    def tls(self) -> bool:
        """True if connections use TLS."""
        return self._address.tls

    @property
    def credentials(self) -> ConnectionString | None:
        """The fields of the connection string, or `None` without one."""
        return self._parsed

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ, **fields: Unpack[ConfigFields]) -> ServiceBusConfig:
        """Return the configuration that environment variables describe.

        It reads SERVICEBUS_CONNECTION_STRING or else SERVICEBUS_FULLY_QUALIFIED_NAMESPACE, and AZSESSION_GATEWAY_URL.

        Args:
            environ: The environment variables.
            fields: Fields of `ServiceBusConfig`. They override the environment.

        Raises:
            ConfigurationError: As for the class itself, or the environment does not say where to connect.
        """
        if fields.get("connection_string") is None and fields.get("namespace") is None:
            if environ.get(ENV_CONNECTION_STRING):
                fields["connection_string"] = environ[ENV_CONNECTION_STRING]
            elif environ.get(ENV_NAMESPACE):
                fields["namespace"] = environ[ENV_NAMESPACE]
        if fields.get("gateway_url") is None and environ.get(ENV_GATEWAY_URL):
            fields["gateway_url"] = environ[ENV_GATEWAY_URL]
        return cls(**fields)
