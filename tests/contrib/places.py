"""Connection strings and a credential for the tests of settings. None of them is ever connected to."""

from __future__ import annotations

from typing import Any

from azure.core.credentials import AccessToken

#: The key in all connection strings. No error message may hold it.
SECRET = "c2VjcmV0IG9mIGEgdGVzdA=="
#: A gateway on this machine.
GATEWAY = f"Endpoint=http://127.0.0.1:1/;SharedAccessKeyName=k;SharedAccessKey={SECRET}"
#: A namespace of Azure.
AZURE = f"Endpoint=sb://myns.servicebus.windows.net/;SharedAccessKeyName=k;SharedAccessKey={SECRET}"


class Credential:
    """A `TokenCredential` that fails the test if anything asks it for a token."""

    def get_token(self, *scopes: str, **kwargs: Any) -> AccessToken:
        raise AssertionError("no check and no new provider asks for a token")


CREDENTIAL = Credential()


def make_credential() -> Credential:
    """Return a credential, as a function that the settings can name."""
    return CREDENTIAL
