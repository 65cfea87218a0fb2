"""The sources of tokens: keys, signatures and credentials."""

from __future__ import annotations

import functools
import time
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Any

import pytest
from azure.core.credentials import AccessToken
from azure.core.exceptions import ClientAuthenticationError

from azsession import (
    AuthenticationFailedError,
    ConfigurationError,
    ServiceBusConfig,
    ServiceBusProvider,
)
from azsession.tokens import EntraCredential, SasKey, SasSignature, source_of

from .support.credentials import Credential
from .support.plain_server import KEY, PlainServer, answer


def renew(provider: ServiceBusProvider, queue_name: str) -> None:
    """Make one request."""
    with provider.create_session_client(queue_name, "s1", auto_renew=False) as session:
        session.renew_session_lock()


# Shared access signatures


def test_the_signature_of_a_connection_string_is_sent_unchanged() -> None:
    signature = "SharedAccessSignature sr=x&sig=y&se=1&skn=z"
    with PlainServer() as server:
        text = f"Endpoint={server.url}/;SharedAccessSignature={signature}"
        with ServiceBusProvider.from_connection_string(text) as provider:
            renew(provider, "orders")
            assert server.seen[0].headers["Authorization"] == signature
            server.next(answer(401), answer(401))
            with pytest.raises(AuthenticationFailedError, match=r"Unauthorized|401|refused") as caught:
                renew(provider, "orders")
        # The server would refuse the same signature again.
        assert len(server.seen) == 2
    assert "sig=" not in str(caught.value)


def test_a_refusal_of_a_signature_is_not_final() -> None:
    with PlainServer() as server:
        text = f"Endpoint={server.url}/;SharedAccessSignature=SharedAccessSignature sr=x&sig=y&se=1&skn=z"
        with ServiceBusProvider.from_connection_string(text) as provider:
            server.next(answer(401))
            with pytest.raises(AuthenticationFailedError):
                renew(provider, "orders")
            renew(provider, "bills")
            renew(provider, "orders")
        assert sum("renewlock" in request for request in server.requests()) == 3


# The choice of a source


def test_a_credential_is_used_instead_of_a_key() -> None:
    config = ServiceBusConfig(connection_string=f"Endpoint=http://127.0.0.1:1/;SharedAccessKeyName=n;SharedAccessKey={KEY}")
    assert isinstance(source_of(config, Credential()), EntraCredential)
    assert isinstance(source_of(config, None), SasKey)


def test_a_signature_is_used_if_there_is_no_key() -> None:
    config = ServiceBusConfig(connection_string="Endpoint=http://127.0.0.1:1/;SharedAccessSignature=SharedAccessSignature x")
    assert isinstance(source_of(config, None), SasSignature)


def test_a_connection_string_without_a_key_needs_a_credential() -> None:
    config = ServiceBusConfig(connection_string="Endpoint=http://127.0.0.1:1/")
    with pytest.raises(ConfigurationError, match="credential"):
        source_of(config, None)
    assert isinstance(source_of(config, Credential()), EntraCredential)


def test_a_credential_without_get_token_is_refused() -> None:
    config = ServiceBusConfig(connection_string="Endpoint=http://127.0.0.1:1/")
    with pytest.raises(ConfigurationError, match="get_token"):
        ServiceBusProvider(config, credential="secret")  # type: ignore[arg-type]


# Credentials that break the protocol


class _Odd:
    """A credential that returns or raises anything."""

    def __init__(self, result: Any) -> None:
        self._result = result

    def get_token(self, *scopes: str, **options: Any) -> Any:
        if isinstance(self._result, BaseException):
            raise self._result
        return self._result


def entra_provider(server: PlainServer, credential: Any, **fields: Any) -> ServiceBusProvider:
    return ServiceBusProvider.from_connection_string(f"Endpoint={server.url}/", credential=credential, **fields)


LATER = time.time() + 3600


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (None, "_Odd.get_token returned NoneType, which has no token"),
        ("text", "returned str"),
        (AccessToken("", 1), "no token"),
        (AccessToken(b"x", 1), "no token"),  # type: ignore[arg-type]
        (AccessToken("x", None), "expires_on is NoneType: it must be a number"),  # type: ignore[arg-type]
        (AccessToken("x", "soon"), "expires_on is str"),  # type: ignore[arg-type]
        (AccessToken("x", datetime.now()), "expires_on is datetime"),  # type: ignore[arg-type]
        (AccessToken("x", True), "expires_on is bool"),
        (AccessToken("x", float("nan")), "expires_on is float"),  # type: ignore[arg-type]
        (AccessToken("x\r\nHost: evil", int(LATER)), "no header can carry"),
        (RuntimeError("the password was hunter2"), "_Odd gave no token: RuntimeError$"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (SystemExit(1), "SystemExit"),
    ],
)
def test_a_credential_that_breaks_the_protocol_is_an_authentication_error(result: Any, words: str) -> None:
    with PlainServer() as server, entra_provider(server, _Odd(result)) as provider:
        for _ in range(2):
            with pytest.raises(AuthenticationFailedError, match=words) as caught:
                renew(provider, "orders")
            assert "hunter2" not in str(caught.value)
        assert server.seen == []


def test_the_reason_of_microsoft_entra_is_in_the_message() -> None:
    text = (
        "Authentication failed: AADSTS7000215: Invalid client secret provided. Ensure the secret is the value.\r\n"
        "Trace ID: 1234 Correlation ID: 5678 Timestamp: 2026-01-01 00:00:00Z\nContent: hunter2"
    )
    with (
        PlainServer() as server,
        entra_provider(server, _Odd(ClientAuthenticationError(text))) as provider,
        pytest.raises(AuthenticationFailedError) as caught,
    ):
        renew(provider, "orders")
    reason = "AADSTS7000215: Invalid client secret provided. Ensure the secret is the value."
    assert str(caught.value) == f"_Odd gave no token: ClientAuthenticationError: {reason}"


async def _get_token(self: object, *scopes: str, **options: Any) -> AccessToken:
    return AccessToken("x", int(LATER))


class _Asynchronous:
    get_token = _get_token


class _AsynchronousCall:
    class _Callable:
        async def __call__(self, *scopes: str, **options: Any) -> AccessToken:
            return AccessToken("x", int(LATER))

    get_token = _Callable()


class _AsynchronousPartial:
    get_token = staticmethod(functools.partial(_get_token, None))


class _AsynchronousGenerator:
    async def get_token(self, *scopes: str, **options: Any) -> AsyncIterator[AccessToken]:
        yield AccessToken("x", int(LATER))


@pytest.mark.parametrize("kind", [_Asynchronous, _AsynchronousCall, _AsynchronousPartial, _AsynchronousGenerator])
@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:1", "sb://myns.servicebus.windows.net"])
def test_an_asynchronous_credential_is_refused_when_the_provider_is_created(kind: Callable[[], Any], endpoint: str) -> None:
    with pytest.raises(ConfigurationError, match="is asynchronous: give a credential for synchronous code"):
        ServiceBusProvider.from_connection_string(f"Endpoint={endpoint}/", credential=kind())


def test_a_credential_that_returns_a_coroutine_is_an_authentication_error() -> None:
    credential = _Odd(_get_token(None))
    with (
        PlainServer() as server,
        entra_provider(server, credential) as provider,
        pytest.raises(AuthenticationFailedError, match="returned coroutine"),
    ):
        renew(provider, "orders")
