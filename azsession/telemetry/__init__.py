"""Spans and metrics of OpenTelemetry for the operations on messages. `create` returns a `Telemetry`.

Without the package opentelemetry-api, or if telemetry is turned off, a `Telemetry` does nothing. Otherwise it is an
`OpenTelemetry`, which follows the semantic conventions for messaging (https://opentelemetry.io/docs/specs/semconv/messaging/).
"""

from .operations import NO_OPERATION, Operation, SendOperation, Telemetry
from .switch import create, gateway_telemetry

__all__ = ["NO_OPERATION", "Operation", "SendOperation", "Telemetry", "create", "gateway_telemetry"]
