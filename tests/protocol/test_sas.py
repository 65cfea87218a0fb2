"""Shared access signatures: made as azure-servicebus makes them, and checked."""

from __future__ import annotations

import time

import pytest
from azure.servicebus._pyamqp.utils import generate_sas_token as reference_sas_token
from hypothesis import example, given, settings
from hypothesis import strategies as st

from azsession.protocol.sas import MAX_TOKEN_LENGTH, generate_sas_token, verify_token

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)


@given(resource=TEXT, name=TEXT, key=TEXT, expires_on=st.integers(1, 2**33))
@example("https://myns.servicebus.windows.net/orders", "RootManageSharedAccessKey", "k+/=", 1_700_000_000)
@example("http://127.0.0.1:5672/events/subscriptions/é", "a b+c/d%", "ключ==", 1)
@settings(max_examples=300, deadline=None)
def test_a_signature_is_byte_for_byte_that_of_azure_servicebus(resource: str, name: str, key: str, expires_on: int) -> None:
    assert generate_sas_token(resource, name, key, expires_on) == reference_sas_token(resource, name, key, expires_on)


def test_a_signature_is_the_hmac_of_the_keys_text() -> None:
    # Made with: printf 'https%%3A%%2F%%2Fns%%2Fq\n1700000000' | openssl dgst -sha256 -hmac 'c2VjcmV0' -binary | base64
    signature = "Y2vu6e2%2BPdT5WAwg3emyL%2F7Fuv1o4%2Fw5I5hlqFC5zsQ%3D"
    made = generate_sas_token("https://ns/q", "reader", "c2VjcmV0", 1_700_000_000)
    assert made == f"SharedAccessSignature sr=https%3A%2F%2Fns%2Fq&sig={signature}&se=1700000000&skn=reader"


@given(resource=TEXT, name=TEXT, key=TEXT)
@settings(max_examples=100, deadline=None)
def test_a_generated_token_is_valid_with_its_key_only(resource: str, name: str, key: str) -> None:
    token = generate_sas_token(resource, name, key, int(time.time()) + 60)
    verified = verify_token(token, {name: key}.get)
    assert (verified.is_valid, verified.key_name) == (True, name)
    assert not verify_token(token, {name: key + "x"}.get).is_valid
    assert not verify_token(token, {}.get).is_valid


def test_a_token_is_valid_until_it_expires() -> None:
    now = int(time.time())
    assert verify_token(generate_sas_token("https://ns/q", "k", "key", now + 60), {"k": "key"}.get).is_valid
    assert not verify_token(generate_sas_token("https://ns/q", "k", "key", now - 1), {"k": "key"}.get).is_valid


def test_the_key_name_is_read_whether_it_was_encoded_once_or_twice() -> None:
    for name in ("a%20b", "a%2520b"):
        assert verify_token(f"SharedAccessSignature sr=x&sig=y&se=1&skn={name}", {}.get).key_name == "a b"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Bearer x",
        "SharedAccessSignature ",
        "SharedAccessSignature sr=x&sig=y&se=1",
        "SharedAccessSignature sr=x&sig=y&se=1&skn=k&skn=k",
        "SharedAccessSignature sr=x&sig=y&se=1&skn=k&more=1",
        "SharedAccessSignature sr=x&sig=y&se=1&skn=" + "k" * MAX_TOKEN_LENGTH,
    ],
)
def test_a_malformed_token_is_invalid_and_has_no_fields(text: str) -> None:
    verified = verify_token(text, lambda name: "key")
    assert (verified.is_valid, verified.resource, verified.key_name) == (False, "", "")
