"""The check of tokens by `Guard`, without a server."""

from __future__ import annotations

import time
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

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


# Replacing keys


OTHER = AccessKey("other", "b3RoZXI=", frozenset({Right.SEND}))


def refused(guard: Guard, text: str, operation: Operation = Operation.RECEIVE) -> bool:
    try:
        guard.check(text, "here", ("q",), operation, "q")
    except AuthenticationFailedError:
        return True
    return False


def test_a_replaced_key_is_refused_although_its_token_was_accepted_before() -> None:
    guard = Guard([KEY, OTHER])
    text = token("sb://here/q")
    assert not refused(guard, text)
    guard.replace_keys([OTHER])
    assert refused(guard, text)
    assert not refused(guard, token("sb://here/q", OTHER), Operation.SEND)
    guard.replace_keys([AccessKey("key", "bmV3", KEY.rights)])
    assert refused(guard, text)
    guard.replace_keys([AccessKey("key", KEY.key, KEY.rights)])
    assert not refused(guard, text)


def test_new_rights_of_a_key_count_from_the_next_request_on() -> None:
    guard = Guard([KEY])
    text = token("sb://here/q")
    assert guard.check(text, "here", ("q",), Operation.RECEIVE, "q") is KEY
    guard.replace_keys([AccessKey("key", KEY.key, frozenset({Right.SEND}))])
    with pytest.raises(PermissionDeniedError, match="lacks the right Listen"):
        guard.check(text, "here", ("q",), Operation.RECEIVE, "q")


def test_the_token_of_a_key_that_stays_needs_no_new_check(monkeypatch: pytest.MonkeyPatch) -> None:
    guard = Guard([KEY])
    text = token("sb://here/q")
    guard.check(text, "here", ("q",), Operation.RECEIVE, "q")
    guard.replace_keys([AccessKey("key", KEY.key, KEY.rights), OTHER])
    monkeypatch.setattr(authorization, "verify_token", None)  # A check would fail.
    guard.check(text, "here", ("q",), Operation.RECEIVE, "q")


def test_two_keys_with_one_name_are_refused_and_change_nothing() -> None:
    guard = Guard([KEY])
    with pytest.raises(ConfigurationError, match="'other'"):
        guard.replace_keys([OTHER, AccessKey("other", "eA==")])
    assert guard.keys == [KEY]
    with pytest.raises(ConfigurationError):
        Guard([OTHER, AccessKey("other", "eA==")])


@pytest.mark.parametrize(
    ("replacement", "ends"),
    [
        (None, True),
        (AccessKey("key", "bmV3", KEY.rights), True),
        (AccessKey("key", KEY.key, frozenset({Right.SEND})), True),
        (AccessKey("key", KEY.key, KEY.rights, queues=frozenset({"q2"})), True),
        (AccessKey("key", KEY.key, KEY.rights, queues=frozenset({"q"})), False),
        (AccessKey("key", KEY.key, frozenset({Right.MANAGE})), False),
        (KEY, False),
    ],
)
@pytest.mark.parametrize("late", [False, True])
def test_a_wait_ends_if_its_key_lost_the_right_to_it(replacement: AccessKey | None, ends: bool, late: bool) -> None:
    guard, future = Guard([KEY]), Future[None]()
    keys = [OTHER] if replacement is None else [OTHER, replacement]
    if late:
        guard.replace_keys(keys)
    guard.end_when_revoked(future, KEY, Operation.RECEIVE, "q")
    if not late:
        guard.replace_keys(keys)
    assert future.cancelled() is ends


def test_waits_that_ended_are_forgotten() -> None:
    guard = Guard([KEY])
    before, after = Future[None](), Future[None]()
    before.set_result(None)
    for future in (before, after):
        guard.end_when_revoked(future, KEY, Operation.RECEIVE, "q")
    after.set_result(None)
    assert guard._waiting == {}


def test_sign_in_returns_the_key_with_this_name_and_secret() -> None:
    guard = Guard([KEY, OTHER])
    assert guard.sign_in("other", OTHER.key) is OTHER
    for name, secret in (("other", KEY.key), ("nobody", KEY.key), ("nobody", ""), ("key", ""), ("key", "\ud800")):
        with pytest.raises(AuthenticationFailedError):
            guard.sign_in(name, secret)


def test_a_key_is_current_until_it_is_revoked_or_has_another_secret() -> None:
    guard = Guard([KEY])
    assert guard.current(AccessKey("key", KEY.key)) is KEY
    limited = AccessKey("key", KEY.key, KEY.rights, queues=frozenset({"q"}))
    for keys, found in (([limited], limited), ([AccessKey("key", "other")], None), ([], None)):
        guard.replace_keys(keys)
        assert guard.current(KEY) is found


@pytest.mark.parametrize("host", ["https://known.example", "known.example:443", 5])
def test_a_malformed_host_name_is_refused(host: Any) -> None:
    with pytest.raises(ConfigurationError, match="is not the name of a host"):
        Guard([KEY], ["known.example", host])
