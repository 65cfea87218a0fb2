"""Fixtures for `azsession serve` in front of an Azure namespace, which azsession's own AMQP endpoint serves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from azsession.cli.serve_azure import ENV_AZURE

from ..namespaces import OwnNamespace
from ..support.processes import Served

QUEUE = "orders"


@pytest.fixture
def namespace() -> Iterator[OwnNamespace]:
    with OwnNamespace() as namespace:
        namespace.create_queue(QUEUE)
        yield namespace


@pytest.fixture
def serve(namespace: OwnNamespace, tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Start gateways in front of the namespace, with one key file for all of them."""
    with ExitStack() as stack:

        def start(*arguments: str | Path, azure: str = namespace.connection_string, **popen: Any) -> Served:
            key_file = ("--key-file", tmp_path / "gateway.key")
            return stack.enter_context(Served(*key_file, *arguments, env={ENV_AZURE: azure}, **popen))

        yield start
