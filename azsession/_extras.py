"""Names the extra to install when a module of it is missing."""

from __future__ import annotations

from importlib.util import find_spec

from .errors import ConfigurationError


def need(module: str, extra: str) -> None:
    """Raise `ConfigurationError` where `module` is not installed, saying which extra of azsession brings it."""
    if find_spec(module) is None:
        raise ConfigurationError(f'{module} is not installed: pip install "azsession[{extra}]"')
