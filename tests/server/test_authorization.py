"""Access keys, and the check of tokens by `Guard`, without a server."""

from __future__ import annotations

import time
from contextlib import suppress

import pytest
from azure.servicebus._pyamqp.utils import generate_sas_token
from hypothesis import example, given
from hypothesis import strategies as st

from azsession.errors import AuthenticationFailedError, ConfigurationError, PermissionDeniedError
from azsession.protocol.routes import Operation
from azsession.protocol.sas import MAX_TOKEN_LENGTH
from azsession.server import AccessKey, Right, authorization
from azsession.server.authorization import Guard

KEY = AccessKey("key", "c2VjcmV0", frozenset({Right.LISTEN}))
GUARD = Guard([KEY], ["known.example"])


def token(resource: str, key: AccessKey = KEY) -> str:
    text: str = generate_sas_token(resource, key.name, key.key)
    return text


def test_parse_reads_name_secret_and_rights() -> None:
    key = AccessKey.parse("app:se:cr:et==:Send, listen")
    assert (key.name, key.key) == ("app", "se:cr:et==")
    assert key.rights == {Right.SEND, Right.LISTEN}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "app",
        "app:hidden",
        "app:hidden:",
        "app::Send",
        ":hidden:Send",
        "app:hidden:Read",
        "a b:hidden:Send",
        "a" * 65 + ":hidden:Send",
    ],
)
def test_parse_refuses_a_malformed_key_without_showing_the_secret(text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        AccessKey.parse(text)
    assert "hidden" not in str(caught.value)


@given(st.text())
def test_parse_returns_a_key_or_raises_configuration_error_for_any_text(text: str) -> None:
    with suppress(ConfigurationError):
        assert AccessKey.parse(text).rights


def test_the_repr_of_a_key_does_not_show_the_secret() -> None:
    assert KEY.key not in repr(KEY)
    assert KEY.key not in repr([KEY])
    assert KEY.key not in repr(GUARD)


def test_generated_keys_differ_and_have_all_rights() -> None:
    one, two = AccessKey.generate(), AccessKey.generate()
    assert one.key != two.key
    assert all(one.allows(right) for right in Right)


def test_a_valid_token_is_accepted() -> None:
    GUARD.check(token("sb://here/q"), "here:80", ("q",), Operation.RECEIVE)
    GUARD.check(token("sb://known.example/q"), "here", ("q", "sessions", "a/b"), Operation.RECEIVE)
    GUARD.check(token("sb://here/q/sessions/a%2Fb"), "here", ("q", "sessions", "a/b"), Operation.RECEIVE)


def test_a_key_name_with_special_characters_is_found() -> None:
    key = AccessKey("a+b c%/é", "c2VjcmV0")
    Guard([key]).check(token("sb://here/", key), "here", ("q",), Operation.GET_QUEUE)


def test_a_missing_right_and_a_wrong_token_are_different_errors() -> None:
    with pytest.raises(PermissionDeniedError, match="Send"):
        GUARD.check(token("sb://here/q"), "here", ("q",), Operation.SEND)
    with pytest.raises(AuthenticationFailedError):
        GUARD.check(token("sb://here/q2"), "here", ("q",), Operation.SEND)


def test_a_slash_in_a_session_id_does_not_separate_segments() -> None:
    with pytest.raises(AuthenticationFailedError):
        GUARD.check(token("sb://here/q/sessions/a/b"), "here", ("q", "sessions", "a/b"), Operation.RECEIVE)


def test_a_guard_without_keys_refuses_every_token() -> None:
    with pytest.raises(AuthenticationFailedError):
        Guard([]).check(token("sb://here/q"), "here", ("q",), Operation.RECEIVE)


pieces = st.sampled_from(
    [
        "SharedAccessSignature ",
        "Bearer ",
        "sr=",
        "sig=",
        "se=",
        "skn=key",
        "&",
        "=",
        "%",
        "%2F",
        "%FF",
        "sb://here/",
        "[",
        "]",
        "\xff",
        "9",
    ]
)


@given(st.text() | st.lists(pieces | st.text(max_size=5)).map("".join), st.text() | pieces)
@example("SharedAccessSignature sr=//[&sig=&se=1&skn=key", "[")
@example("SharedAccessSignature sr=%00&sig=%FF&se=99999999999&skn=%FF", "\x00")
@example("SharedAccessSignature sr=" + "x" * MAX_TOKEN_LENGTH, "here")
@example("SharedAccessSignature sr=\ud800&sig=x&se=9&skn=key", "\ud800")
def test_any_unsigned_header_is_refused(authorization: str, host: str) -> None:
    with pytest.raises(AuthenticationFailedError):
        GUARD.check(authorization, host, ("q",), Operation.RECEIVE)


hosts = st.text() | st.lists(st.sampled_from(["[", "]", ":", "/", "@", "here", "\u2100", "%", "..", "//", "?", "#"])).map(
    "".join
)


@given(hosts, hosts)
@example("here\u2100", "here")
def test_any_signed_resource_is_accepted_or_refused(resource: str, host: str) -> None:
    with suppress(AuthenticationFailedError):
        GUARD.check(token(f"sb://{resource}/q"), host, ("q",), Operation.RECEIVE)


@given(st.integers(0, 9), st.data())
def test_a_changed_token_is_refused(which: int, data: st.DataObject) -> None:
    # A fixed expiry, so that hypothesis makes the same token for the same example.
    good = generate_sas_token("sb://here/q", "key", KEY.key, 4_000_000_000 + which)
    at = data.draw(st.integers(0, len(good) - 1))
    changed = good[:at] + data.draw(st.characters(min_codepoint=33, max_codepoint=126)) + good[at + 1 :]
    if changed.replace("%2f", "%2F").replace("%3d", "%3D").replace("%3a", "%3A").replace("%2b", "%2B") == good:
        return
    with suppress(AuthenticationFailedError):
        GUARD.check(changed, "here", ("q",), Operation.RECEIVE)
        # The last character of the signature in base64 has unused bits. All other characters count.
        assert "sig=" in good[: at + 1], (good, changed)


# Tokens that are remembered


def accepts(guard: Guard, text: str) -> bool:
    with suppress(AuthenticationFailedError):
        guard.check(text, "here", ("q",), Operation.RECEIVE)
        return True
    return False


def test_a_token_expires_although_it_was_accepted_before(monkeypatch: pytest.MonkeyPatch) -> None:
    guard, until = Guard([KEY]), int(time.time()) + 60
    text = generate_sas_token("https://here/q", KEY.name, KEY.key, until)
    assert accepts(guard, text)
    monkeypatch.setattr(time, "time", lambda: until - 0.5)
    assert accepts(guard, text)
    monkeypatch.setattr(time, "time", lambda: float(until))
    assert not accepts(guard, text)


def test_a_token_ends_with_its_key_although_it_was_accepted_before() -> None:
    guard, text = Guard([KEY]), token("https://here/q")
    assert accepts(guard, text)
    guard._keys[KEY.name] = AccessKey(KEY.name, "b3RoZXI=")
    assert not accepts(guard, text)
    del guard._keys[KEY.name]
    assert not accepts(guard, text)


def test_the_number_of_remembered_tokens_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authorization, "MAX_KNOWN", 3)
    guard, until = Guard([KEY]), int(time.time()) + 60
    texts = [generate_sas_token("https://here/q", KEY.name, KEY.key, until + number) for number in range(5)]
    for _ in range(2):
        for text in texts:
            assert accepts(guard, text)
            assert len(guard._known) <= 3


def test_a_token_that_was_refused_is_not_remembered() -> None:
    guard = Guard([KEY])
    for resource in ("https://here/other", "https://elsewhere/q", "https://here/q/sessions/s"):
        assert not accepts(guard, token(resource))
    assert not accepts(guard, token("https://here/q", AccessKey(KEY.name, "b3RoZXI=")))
    assert guard._known == {}
