"""Chooses the URL in the connection string that `azsession serve` prints."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from ..config import is_loopback

#: Addresses that mean "all addresses of this machine", each with a loopback address that always works.
WILDCARDS = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared with, never listened on


def public_url(url: str, hostnames: Sequence[str], certificate: Path | None) -> str:
    """Return the URL for the connection string. Clients can connect to its host, and the certificate is valid for it.

    Args:
        url: The URL that the gateway listens on.
        hostnames: Names given by the user. The first one is always chosen.
        certificate: The TLS certificate file, if there is one.
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
    """Return the first candidate that the certificate covers, else the certificate's first name, else the first candidate."""
    exact = [name for name in names if not name.startswith("*.")]
    for candidate in candidates:
        wildcard = "*." + candidate.partition(".")[2]
        if candidate.lower() in exact or ("." in candidate and wildcard.lower() in names):
            return candidate
    return (exact or candidates)[0]


def certified_names(certificate: Path) -> list[str]:
    """Return the host names and addresses of the first certificate in a PEM file; an unreadable certificate has none."""
    # cryptography is installed with azure-identity.
    from cryptography import x509

    try:
        found = x509.load_pem_x509_certificate(certificate.read_bytes())
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, x509.ExtensionNotFound):
        return []
    dns = [name.lower() for name in names.get_values_for_type(x509.DNSName)]
    addresses = names.get_values_for_type(x509.IPAddress)
    return dns + [str(a) for a in addresses if isinstance(a, (ipaddress.IPv4Address, ipaddress.IPv6Address))]
