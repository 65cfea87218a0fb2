"""Runs nginx with the documented configuration on a free port of loopback, as the load balancer of the tests."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import pytest
import requests

from ..support.paths import ROOT
from ..support.ports import free_port

CONFIG = ROOT / "docs" / "nginx.conf"
#: If this variable is set, the tests with nginx fail without nginx instead of being skipped.
REQUIRED = "AZSESSION_REQUIRE_NGINX"

_MAIN = """
daemon off;
pid nginx.pid;
error_log stderr warn;
worker_processes 2;
events { worker_connections 1024; }
http {
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path unused;
    uwsgi_temp_path unused;
    scgi_temp_path unused;
    include azsession.conf;
}
"""


def require_nginx() -> str:
    """Return the path of nginx. Without nginx, skip the test, or fail if the test must not be skipped."""
    found = shutil.which("nginx", path=os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin")))
    if found is None:
        text = "needs nginx, such as Debian's package nginx-light"
        if os.environ.get(REQUIRED):
            pytest.fail(f"{REQUIRED} is set, and this {text}", pytrace=False)
        pytest.skip(text)
    return found


class Nginx:
    """nginx in front of gateways, for the duration of a ``with`` block.

    The addresses and certificates of the documented file are replaced. The rest of the file is used as it is.

    Args:
        place: A new folder for its files.
        gateways: The ``host:port`` of each gateway.
        normalizing: Decode and normalize each path before it is passed on, against the advice of the documented file.
    """

    def __init__(self, place: Path, gateways: Sequence[str], *, normalizing: bool = False) -> None:
        nginx = require_nginx()
        self.place = place
        place.mkdir()
        # If root starts nginx, its workers run as the user nobody, which cannot write here.
        (place / "nginx.conf").write_text(("user root;\n" if os.geteuid() == 0 else "") + _MAIN)
        self.port = free_port()
        config = adapted(CONFIG.read_text(encoding="utf-8"), self.port, gateways)
        if normalizing:
            assert "proxy_pass http://azsession;" in config
            config = config.replace("proxy_pass http://azsession;", "proxy_pass http://azsession/;")
        (place / "azsession.conf").write_text(config)
        self._log = (place / "log").open("wb")
        self.process = subprocess.Popen(
            [nginx, "-p", f"{place}/", "-c", "nginx.conf", "-e", "stderr"],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def log(self) -> str:
        return (self.place / "log").read_text(errors="replace")

    def is_up(self) -> bool:
        assert self.process.poll() is None, self.log()
        try:
            return requests.get(f"{self.url}/healthz", timeout=10).status_code == 200
        except requests.ConnectionError:
            return False

    def __enter__(self) -> Nginx:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.process.terminate()
        self.process.wait(30)
        self._log.close()


def adapted(text: str, port: int, gateways: Sequence[str]) -> str:
    """Return the documented configuration for gateways at these ``host:port``, without TLS, on a port of loopback."""
    (options,) = set(re.findall(r"^ *server [0-9.]+:[0-9]+( .*);$", text, re.MULTILINE))
    servers = "\n".join(f"    server {gateway}{options};" for gateway in gateways)
    text, changed = re.subn(r"(^ *server [0-9.]+:[0-9]+ .*;\n)+", lambda _: servers + "\n", text, flags=re.MULTILINE)
    assert changed == 1
    text, changed = re.subn(r"listen 443 ssl;", f"listen 127.0.0.1:{port};", text)
    assert changed == 1
    text, changed = re.subn(r"^ *ssl_certificate(_key)? .*;\n", "", text, flags=re.MULTILINE)
    assert changed == 2
    return text
