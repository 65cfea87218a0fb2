"""By which name clients reach the gateway that `azsession serve` runs."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from ..config import is_loopback

#: Addresses that stand for all of this machine's, and the one of these that this machine can always use.
WILDCARDS = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - to be told from those that can be used


def public_url(url: str, hostnames: Sequence[str], certificate: Path | None) -> str:
    """Return the URL for a connection string: with a host that clients can connect to, and that the certificate is for.

    Args:
        url: Where the gateway listens.
        hostnames: The names that it was told; the first goes before all else.
        certificate: The file with its certificate, where it has TLS.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if hostnames:
        chosen = hostnames[0]
    else:
        candidates = [WILDCARDS.get(host, host)]
        if is_loopback(candidates[0]):
            candidates.append("localhost")
        if host in WILDCARDS:
            candidates += [socket.getfqdn(), socket.gethostname()]
        chosen = candidates[0] if certificate is None else _certified(candidates, certified_names(certificate))
    shown = f"[{chosen}]" if ":" in chosen else chosen
    return f"{parts.scheme}://{shown}:{parts.port}"


def _certified(candidates: Sequence[str], names: Sequence[str]) -> str:
    """Return the first candidate that the certificate is for, else its own first name, else the first candidate."""
    exact = [name for name in names if not name.startswith("*.")]
    for candidate in candidates:
        starred = "*." + candidate.partition(".")[2]
        if candidate.lower() in exact or ("." in candidate and starred.lower() in names):
            return candidate
    return (exact or candidates)[0]


def certified_names(certificate: Path) -> list[str]:
    """Return the host names and addresses that a PEM file's first certificate is for; none where that cannot be told."""
    # cryptography comes with azure-identity.
    from cryptography import x509

    try:
        found = x509.load_pem_x509_certificate(certificate.read_bytes())
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, x509.ExtensionNotFound):
        return []
    dns = [name.lower() for name in names.get_values_for_type(x509.DNSName)]
    addresses = names.get_values_for_type(x509.IPAddress)
    return dns + [str(a) for a in addresses if isinstance(a, (ipaddress.IPv4Address, ipaddress.IPv6Address))]
