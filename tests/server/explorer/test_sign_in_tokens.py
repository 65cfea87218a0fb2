"""The texts of cookies: expiry, and the bound of those that are remembered."""

from __future__ import annotations

import pytest

from azsession.protocol.sas import generate_sas_token
from azsession.server import AccessKey, Guard
from azsession.server.explorer import sign_in_tokens
from azsession.server.explorer.sign_in_tokens import LIFETIME, SignInTokens

KEY = AccessKey("app", "c2VjcmV0")


class Now:
    time = 1_800_000_000.0

    def __call__(self) -> float:
        return self.time


def test_a_cookie_expires() -> None:
    now = Now()
    tokens = SignInTokens(Guard([KEY]), now)
    text = tokens.issue(KEY)
    now.time += LIFETIME - 1
    user = tokens.check(text)
    assert user is not None
    assert user.key == KEY
    now.time += 1
    assert tokens.check(text) is None


def test_the_expiry_cannot_be_changed() -> None:
    now = Now()
    tokens = SignInTokens(Guard([KEY]), now)
    name, expires, rest = tokens.issue(KEY).split(".", 2)
    assert tokens.check(f"{name}.{int(expires) + 1}.{rest}") is None


def test_the_token_of_forms_belongs_to_the_cookie_and_does_not_reveal_it() -> None:
    tokens = SignInTokens(Guard([KEY]), Now())
    first, second = tokens.issue(KEY), tokens.issue(KEY)
    users = [tokens.check(text) for text in (first, first, second)]
    csrf = [user.csrf_token for user in users if user is not None]
    assert csrf[0] == csrf[1] != csrf[2]
    assert csrf[0] not in first
    assert csrf[0] not in repr(users[0])


def test_a_token_of_the_protocol_is_no_cookie() -> None:
    tokens = SignInTokens(Guard([KEY]), Now())
    assert tokens.check(generate_sas_token("http://host/", KEY.name, KEY.key, 4_000_000_000)) is None


@pytest.mark.parametrize("name", ["app", "ä.ö", "a b", "x" * 64])
def test_a_key_can_have_any_name(name: str) -> None:
    key = AccessKey(name, "c2VjcmV0")
    tokens = SignInTokens(Guard([key]), Now())
    text = tokens.issue(key)
    assert text.isascii()
    assert tokens.check(text) is not None


def test_ended_cookies_are_forgotten_when_they_expire_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sign_in_tokens, "MAX_ENDED", 5)
    now = Now()
    tokens = SignInTokens(Guard([KEY]), now)
    texts = [tokens.issue(KEY) for _ in range(8)]
    for text in texts:
        tokens.end(text)
    assert len(tokens._ended) == 5
    assert tokens.check(texts[-1]) is None
    now.time += LIFETIME
    latest = tokens.issue(KEY)
    tokens.end(latest)
    assert len(tokens._ended) == 1
    tokens.end("no cookie")
    assert len(tokens._ended) == 1
