"""Access keys: their text, their rights, and the queues that they are limited to."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from azsession.errors import ConfigurationError
from azsession.server import AccessKey, Guard, Right

KEY = AccessKey("key", "c2VjcmV0", frozenset({Right.LISTEN}))
GUARD = Guard([KEY])


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
        "app:hidden:@orders",
        "app:hidden:Send@",
        "app:hidden:Send@orders,",
        "app:hidden:Send@orders@payments",
        "app:hidden:Send@a:b",
        "app:hidden:Send@../orders",
        "app:hidden:Metrics@orders",
        "app:hidden:Manage,Metrics@orders",
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


@pytest.mark.parametrize(
    ("text", "queues"),
    [
        ("app:SECRET:Send", None),
        ("app:SE@CR:ET@orders:Send", None),
        ("app:SECRET:Send,Listen@orders", {"orders"}),
        ("app:SE@CRET:Send, Listen @ orders, site1/pay-ments_2.x", {"orders", "site1/pay-ments_2.x"}),
        ("app:SECRET:Listen@site1/events/subscriptions/audit", {"site1/events/subscriptions/audit"}),
    ],
)
def test_parse_reads_the_queues_behind_the_rights(text: str, queues: set[str] | None) -> None:
    assert AccessKey.parse(text).queues == queues


names = st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True)
secrets = st.from_regex(r"[!-:<-~]{1,40}", fullmatch=True)
rights = st.frozensets(st.sampled_from([Right.SEND, Right.LISTEN, Right.MANAGE]), min_size=1)
queue_sets = st.none() | st.frozensets(
    st.sampled_from(["orders", "site1/orders", "a.b-c_d", "t/subscriptions/s"]), min_size=1
)


@given(names, secrets, rights, queue_sets)
def test_the_text_of_a_key_parses_to_the_same_key(
    name: str, secret: str, rights: frozenset[Right], queues: frozenset[str] | None
) -> None:
    key = AccessKey(name, secret, rights, queues=queues)
    assert AccessKey.parse(key.to_text()) == key


def test_a_generated_key_can_be_limited() -> None:
    key = AccessKey.generate("app", frozenset({Right.SEND}), queues=frozenset({"orders"}))
    assert (key.name, key.rights, key.queues) == ("app", {Right.SEND}, {"orders"})


@pytest.mark.parametrize(
    ("queues", "covered", "others"),
    [
        (None, ["orders", "events/subscriptions/audit"], []),
        ({"orders"}, ["orders"], ["ORDERS", "orders2", "order", "site1/orders", "orders/x", "orders/queues/x"]),
        (
            {"events"},
            ["events", "events/subscriptions/audit", "events/Subscriptions/audit"],
            ["audit", "a/events/subscriptions/x"],
        ),
        ({"events/subscriptions/audit"}, ["events/subscriptions/audit"], ["events", "events/subscriptions/other"]),
        ({"subscriptions"}, ["subscriptions"], ["subscriptions/subscriptions", "x/subscriptions/subscriptions"]),
    ],
)
def test_a_limited_key_covers_its_queues_and_the_subscriptions_of_its_topics(
    queues: set[str] | None, covered: list[str], others: list[str]
) -> None:
    key = AccessKey("app", "c2VjcmV0", queues=None if queues is None else frozenset(queues))
    assert [name for name in covered + others if key.covers(name)] == covered


def test_metrics_is_a_right_of_the_whole_gateway() -> None:
    reader = AccessKey.parse("prometheus:SECRET:Metrics")
    assert [right for right in Right if reader.allows(right)] == [Right.METRICS]
    assert AccessKey.parse("root:SECRET:Manage").allows(Right.METRICS)
    assert not AccessKey.parse("root:SECRET:Manage@orders").allows(Right.METRICS)
    with pytest.raises(ConfigurationError, match="Metrics"):
        AccessKey("reader", "c2VjcmV0", frozenset({Right.METRICS}), queues=frozenset({"orders"}))


@pytest.mark.parametrize("queues", [frozenset(), frozenset({""}), frozenset({"a b"}), "orders", 5])
def test_a_key_refuses_queues_that_are_not_a_set_of_names(queues: object) -> None:
    with pytest.raises(ConfigurationError) as caught:
        AccessKey("app", "hidden", queues=queues)  # type: ignore[arg-type]
    assert "hidden" not in str(caught.value)
