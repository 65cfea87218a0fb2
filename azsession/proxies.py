"""The URLs of HTTP proxies, from the environment and from a `requests.Session`: their check, and their names in messages."""

from __future__ import annotations

import os
from collections.abc import Collection

from requests.utils import prepend_scheme_if_needed
from urllib3.exceptions import LocationParseError
from urllib3.util import parse_url

from .errors import ConfigurationError

#: The schemes that requests knows.
HTTP_SCHEMES = frozenset({"http", "https", "socks4", "socks4a", "socks5", "socks5h"})


def check_proxy(proxy: object, source: str, schemes: Collection[str] = HTTP_SCHEMES, *, default: str = "http") -> None:
    """Return if the URL of a proxy can be used. The error does not show the URL, which can have a password at any place.

    Args:
        proxy: The URL.
        source: Where it is from, for example ``"HTTPS_PROXY"``.
        schemes: The schemes that the caller can use.
        default: The scheme of a URL without one. ``""`` if the URL needs one.

    Raises:
        ConfigurationError: It is not a URL with such a scheme and a host, or its port is not a number up to 65535.
    """
    if not isinstance(proxy, str):
        raise ConfigurationError(f"the proxy in {source} must be a URL, not {type(proxy).__name__}")
    try:
        url = parse_url(prepend_scheme_if_needed(proxy, default) if default else proxy)
    except (LocationParseError, TypeError):  # requests raises TypeError for a user without a host.
        fault = "has no valid host and port"
    else:
        if url.scheme not in schemes:
            fault = f"does not begin with one of {', '.join(f'{each}://' for each in sorted(schemes))}"
        elif not url.host:
            fault = "has no host"
        else:
            return
    # An exception of urllib3 shows the URL in a traceback.
    raise ConfigurationError(f"the proxy in {source} {fault}: use a URL like http://proxy.example:3128") from None


def variable_of(proxy: str, scheme: str) -> str | None:
    """Return the environment variable that has the proxy for a scheme, or `None`.

    Args:
        proxy: The proxy, as the variable has it.
        scheme: ``"http"`` or ``"https"``.
    """
    names = [f"{scheme}_proxy", f"{scheme}_proxy".upper(), "all_proxy", "ALL_PROXY"]
    return next((name for name in names if os.environ.get(name) == proxy), None)


def without_password(proxy: str) -> str:
    """Return the URL of a proxy without user and password."""
    scheme, separator, rest = proxy.rpartition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"
