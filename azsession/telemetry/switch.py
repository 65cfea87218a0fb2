"""Decides whether telemetry is on, and makes the `Telemetry` of a provider and of a gateway."""

from __future__ import annotations

import os
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING

from .. import forks
from .operations import Telemetry

if TYPE_CHECKING:
    from .gateway import GatewayTelemetry

#: The variable of the Azure SDKs that turns spans off (https://learn.microsoft.com/python/api/overview/azure/core-readme).
ENV_TRACING = "AZURE_TRACING_ENABLED"
_OFF = frozenset({"0", "no", "off", "false"})


def create(host: str | None, port: int | None, *, enabled: bool = True) -> Telemetry:
    """Return the telemetry of a provider.

    Args:
        host: The server, or `None` for a broker in this process.
        port: Its port.
        enabled: `False` turns spans and metrics off.
    """
    if not enabled or not is_installed():
        return Telemetry()
    with forks.import_lock:
        from .tracing import OpenTelemetry

        return OpenTelemetry(host, port, traces=is_tracing_enabled())


def gateway_telemetry() -> GatewayTelemetry | None:
    """Return the telemetry of a gateway, or `None` if it is off."""
    if not is_installed() or not is_tracing_enabled():
        return None
    with forks.import_lock:
        from .gateway import GatewayTelemetry

        return GatewayTelemetry()


def is_tracing_enabled() -> bool:
    """Return whether the environment allows spans."""
    return os.environ.get(ENV_TRACING, "").strip().lower() not in _OFF


@cache
def is_installed() -> bool:
    """Return whether opentelemetry-api is installed."""
    try:
        return find_spec("opentelemetry.trace") is not None
    except ModuleNotFoundError:  # There is no package opentelemetry at all.
        return False
