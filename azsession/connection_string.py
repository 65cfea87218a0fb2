"""Connection strings of Azure Service Bus, and the URLs in them. `azsession.config` reads them."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from urllib.parse import urlsplit

import attrs

from .errors import ConfigurationError, ValidationError
from .validation import check_queue_name, check_text

#: The transports that speak AMQP, as `ServiceBusConfig` names them.
AMQP, WEBSOCKETS = "amqp", "amqp-websockets"
_KNOWN_KEYS = {
    "endpoint": "endpoint",
    "sharedaccesskeyname": "key_name",
    "sharedaccesskey": "key",
    "sharedaccesssignature": "signature",
    "entitypath": "entity_path",
    "usedevelopmentemulator": "emulator",
    "transporttype": "transport",
}
#: Characters that are not allowed in a URL: spaces, control characters, backslashes, lone surrogates.
_NOT_IN_URL = r"[\s\x00-\x1f\\\ud800-\udfff]"
#: The values of ``TransportType`` in lower case, as .NET's `ServiceBusTransportType` and its predecessor name them.
_TRANSPORT_TYPES = {"amqp": AMQP, "amqptcp": AMQP, "amqpwebsockets": WEBSOCKETS}


@attrs.frozen(kw_only=True)
class ConnectionString:
    """The fields of a connection string of Azure Service Bus.

    Attributes:
        endpoint: ``Endpoint``, a URL with the scheme ``sb``, ``http`` or ``https``.
        key_name: ``SharedAccessKeyName``, the name of the key.
        key: ``SharedAccessKey``.
        signature: ``SharedAccessSignature``, a ready token instead of a key.
        entity_path: ``EntityPath``: the connection string is for this entity only.
        emulator: ``UseDevelopmentEmulator`` is true.
        transport: The transport that ``TransportType`` names: ``"amqp"`` or ``"amqp-websockets"``.
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
        """Return the fields of ``Endpoint=..;SharedAccessKeyName=..;SharedAccessKey=..``.

        Names are case-insensitive, unknown names are ignored, and values may contain ``=``.

        Raises:
            ConfigurationError: A part is missing, repeated or malformed. The error does not show keys.
        """
        fields = _split_connection_string(text)
        endpoint = fields.get("endpoint")
        if not endpoint:
            raise ConfigurationError("the connection string has no Endpoint, for example Endpoint=sb://host/")
        split_url(endpoint, "the connection string's Endpoint", ("sb", "http", "https"))
        _check_key(fields)
        transport = fields.get("transport", "").lower()
        if "transport" in fields and transport not in _TRANSPORT_TYPES:
            named = fields["transport"]
            # Without its ';' the next part, which can be a key, is in the value.
            shown = repr(named) if named.isalpha() and len(named) < 30 else f"a text of {len(named)} characters"
            raise ConfigurationError(f"the connection string's TransportType must be Amqp or AmqpWebSockets, not {shown}")
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
            transport=_TRANSPORT_TYPES.get(transport),
        )


def _split_connection_string(text: object) -> dict[str, str]:
    """Return the values of the known names."""
    if not isinstance(text, str) or not text.strip():
        raise ConfigurationError("the connection string is empty")
    try:
        check_text(text, "the connection string")
    except ValidationError as error:
        # Python decodes bytes of an environment variable that are not UTF-8 as lone surrogates.
        raise ConfigurationError(str(error)) from None
    fields: dict[str, str] = {}
    parts = text.strip().strip(";").split(";")
    for number, part in enumerate(parts, 1):
        name, equals, value = part.partition("=")
        if not equals:
            # The part is not shown: it can be a piece of a key.
            raise ConfigurationError(
                f"a connection string is a list of Name=Value separated by ';', but part {number} of {len(parts)} has no '='"
            )
        field = _KNOWN_KEYS.get(name.strip().lower())
        if field is None:
            continue
        if field in fields:
            raise ConfigurationError(f"the connection string has {name.strip()} twice")
        fields[field] = value.strip()
    return fields


def _check_key(fields: Mapping[str, str]) -> None:
    if ("key_name" in fields) != ("key" in fields):
        raise ConfigurationError("the connection string needs both SharedAccessKeyName and SharedAccessKey, or neither")
    if "key" in fields and "signature" in fields:
        raise ConfigurationError("the connection string has a SharedAccessKey and a SharedAccessSignature: remove one")
    if any(not fields.get(name, "-") for name in ("key_name", "key", "signature")):
        raise ConfigurationError("the connection string has an empty key name, key or signature")
    signature = fields.get("signature", "")
    if not (signature.isascii() and signature.isprintable()):
        raise ConfigurationError(
            "the connection string's SharedAccessSignature is sent as a header: it must be one line of ASCII characters"
        )


def split_url(url: str, name: str, schemes: tuple[str, ...]) -> tuple[str, str, int | None, str]:
    """Return scheme, host, port and path of `url`. Errors call it `name`."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
        if host and len(host) < 256:
            # Sockets encode the host the same way. It fails for an empty label and for one that is too long.
            host.encode("idna")
        else:
            host = None
    except ValueError:
        host, port, parts = None, None, None
    if parts is None or not host or parts.scheme.lower() not in schemes or re.search(_NOT_IN_URL, url):
        raise ConfigurationError(f"{name} is not a URL such as {schemes[-1]}://host/: {_url_mistake(url, schemes)}")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ConfigurationError(
            f"{name} has more than scheme, host, port and path: remove user, password, query and fragment"
        )
    return parts.scheme.lower(), host.lower(), port, parts.path.rstrip("/")


def _url_mistake(url: str, schemes: tuple[str, ...]) -> str:
    """Say what is wrong with a URL. Its text is not shown, because it can contain a password or a key."""
    scheme, found, rest = url.partition("://")
    if not found or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]{0,20}", scheme):
        return f"it does not begin with {' or '.join(f'{each}://' for each in schemes)}"
    if scheme.lower() not in schemes:
        return f"its scheme is {scheme!r}"
    unusable = re.search(_NOT_IN_URL, url)
    if unusable:
        return f"it contains {unusable[0]!r}"
    authority = re.split("[/?#]", rest)[0]
    if not authority.rpartition("@")[2].partition(":")[0]:
        return "it has no host"
    return "its host or its port is malformed"


def is_loopback(host: str) -> bool:
    """Return True if `host`, a name or an address, is the loopback interface."""
    try:
        address = ipaddress.ip_address(host.strip("[]"))
        # Before Python 3.13 an IPv4-mapped IPv6 address is never loopback.
        return (getattr(address, "ipv4_mapped", None) or address).is_loopback
    except ValueError:
        return host.lower() == "localhost" or host.lower().endswith(".localhost")
