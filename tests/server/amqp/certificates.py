"""Certificates for servers with TLS."""

from __future__ import annotations

from pathlib import Path

import attrs
import trustme


@attrs.frozen
class Certificate:
    """The files of a certificate: its chain, its private key, and the certificate of its authority."""

    cert: Path
    key: Path
    authority: Path


def issue_certificate(folder: Path, host: str = "127.0.0.1") -> Certificate:
    """Write a certificate for a host to a folder."""
    authority = trustme.CA()
    issued = authority.issue_cert(host)
    files = Certificate(folder / "cert.pem", folder / "key.pem", folder / "ca.pem")
    issued.cert_chain_pems[0].write_to_path(files.cert)
    issued.private_key_pem.write_to_path(files.key)
    authority.cert_pem.write_to_path(files.authority)
    return files
