"""The check for installed optional dependencies. Code that needs an extra calls it."""

from __future__ import annotations

from importlib.util import find_spec

from .errors import ConfigurationError


def need(module: str, extra: str) -> None:
    """Check that a module is installed.

    Raises:
        ConfigurationError: It is not. The error says how to install it.
    """
    if find_spec(module) is None:
        raise ConfigurationError(
            f'{module} is not installed. Install it with: pip install "azsession[{extra}]", '
            f'or pip install ".[{extra}]" in a clone'
        )
