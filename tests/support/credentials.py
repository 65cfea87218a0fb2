"""A credential whose tokens, failures and delays a test sets."""

from __future__ import annotations

import threading

from azure.core.credentials import AccessToken
from azure.core.exceptions import ClientAuthenticationError

from azsession.token_cache import TokenCache
from azsession.tokens import EntraCredential


class Credential:
    """A credential that does not accept claims."""

    def __init__(self, *, lifetime: float = 3600.0) -> None:
        self.lifetime = lifetime
        self.now = 1_000_000.0
        self.fetched: list[tuple[str, ...]] = []
        self.fails = False
        self.gate = threading.Event()
        self.gate.set()

    def clock(self) -> float:
        return self.now

    def get_token(self, *scopes: str) -> AccessToken:
        self.fetched.append(scopes)
        number = len(self.fetched)
        self.gate.wait(20)
        if self.fails:
            raise ClientAuthenticationError("the password was hunter2")
        return AccessToken(f"own-secret-{number}", int(self.now + self.lifetime))

    def cache(self) -> TokenCache:
        return TokenCache(EntraCredential(self), self.clock)  # type: ignore[arg-type]
