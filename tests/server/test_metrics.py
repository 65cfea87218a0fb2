"""The metrics of a gateway: what is counted, who may read it, and the bounds of the labels."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from azsession import ConfigurationError, Message, QueueSettings, ValidationError
from azsession.broker.embedded import EmbeddedBroker
from azsession.server import AccessKey, GatewayMetrics, GatewayService, Right
from azsession.server import metrics as metrics_module

from ..broker.embedded.helpers import HandClock
from ..conftest import eventually
from .raw import KEYS, LISTEN, MANAGE, SEND, Gateway, SteppedClock, acceptors, fresh_id, in_thread, tokens

PROMETHEUS = AccessKey("prometheus", "c2Ny:YXBl", frozenset({Right.METRICS}))
OTHER = AccessKey("other-queues", "b3RoZXI=", queues=frozenset({"orders"}))

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    clock = SteppedClock()
    keys = [*KEYS, PROMETHEUS, OTHER]
    with GatewayService(EmbeddedBroker(clock=clock), keys, metrics=GatewayMetrics()) as service:
        yield Gateway(service, clock)


def parsed(text: str) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def scrape(gateway: Gateway) -> Samples:
    gateway.service._metrics._scrape = None  # type: ignore[union-attr]  # A result of this moment.
    reply = gateway.ask("GET", "/metrics", key=PROMETHEUS)
    assert reply.status == 200, reply
    return parsed(reply.body.decode())


def value(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((f"azsession_{name}", tuple(sorted(labels.items()))))


def basic(name: str, secret: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{secret}".encode()).decode()


# The rights to read them


def test_only_keys_with_the_right_may_read_them(gateway: Gateway) -> None:
    for key, status in ((PROMETHEUS, 200), (MANAGE, 200), (SEND, 403), (LISTEN, 403), (OTHER, 403)):
        for authorization in (basic(key.name, key.key), gateway.token("metrics", key=key), gateway.token(key=key)):
            assert gateway.ask("GET", "/metrics", token=authorization).status == status, (key, authorization)
        text = gateway.token(key=key).removeprefix("SharedAccessSignature ")
        assert gateway.ask("GET", "/metrics", token=f"Bearer {text}").status == status


def test_their_right_allows_nothing_else(gateway: Gateway) -> None:
    queue = gateway.queue()
    for method, path in (("GET", "/"), ("GET", f"/{queue}"), ("GET", f"/{queue}/sessions"), ("GET", f"/{queue}/$statistics")):
        assert gateway.ask(method, path, key=PROMETHEUS).status == 403


def test_name_and_secret_are_accepted_for_the_metrics_only(gateway: Gateway) -> None:
    queue = gateway.queue()
    assert gateway.ask("GET", f"/{queue}", token=basic(MANAGE.name, MANAGE.key)).status == 401
    bearer = f"Bearer {gateway.token().removeprefix('SharedAccessSignature ')}"
    assert gateway.ask("GET", f"/{queue}", token=bearer).status == 401


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Basic",
        "Basic !",
        "Basic " + base64.b64encode(b"prometheus").decode(),
        "Basic " + base64.b64encode(b"\xff:\xff").decode(),
        basic("prometheus", ""),
        basic("prometheus", "c2Ny"),
        basic("nobody", PROMETHEUS.key),
        basic("", ""),
        "Bearer ",
        f"Bearer {PROMETHEUS.key}",
    ],
)
def test_other_credentials_are_refused_and_not_shown(gateway: Gateway, authorization: str) -> None:
    refused = gateway.ask("GET", "/metrics", token=authorization)
    assert refused.status == 401
    if "Basic" not in authorization:
        assert refused.body == gateway.ask("GET", "/metrics", token="Bearer sr=x&sig=x&se=x&skn=prometheus").body
    assert PROMETHEUS.key.encode() not in refused.body


def test_a_refusal_says_what_is_needed(gateway: Gateway) -> None:
    def refusal(authorization: str) -> str:
        return str(gateway.ask("GET", "/metrics", token=authorization).json["error"]["message"])

    needed = refusal("")
    assert "the name and the secret of a key with the right Metrics as user and password (Authorization: Basic)" in needed
    assert "SharedAccessSignature that is not expired" in needed
    for nameless in ("Basic", "Basic !", basic("", PROMETHEUS.key)):
        assert refusal(nameless) == "Authorization: Basic has no name of a key: send a key's name as the user"
    for wrong in (basic("nobody", "x"), basic("prometheus", "x")):
        assert refusal(wrong) == "the gateway has no key with this name and this secret"


def test_a_queue_called_metrics_is_used_with_a_tilde(gateway: Gateway) -> None:
    assert gateway.ask("PUT", "/metrics", {}).status == 405
    assert gateway.ask("PUT", "/~metrics", {}).status == 201
    gateway.send("metrics", "s", "a")
    assert value(scrape(gateway), "queue_messages", queue="metrics", state="active") == 1


def test_a_gateway_without_metrics_says_so() -> None:
    with GatewayService(EmbeddedBroker(), KEYS) as service:
        reply = Gateway(service, SteppedClock()).ask("GET", "/metrics")
    assert (reply.status, reply.code) == (405, "NotSupported")
    assert "no metrics" in reply.json["error"]["message"]


# Their contents


def test_messages_are_counted(gateway: Gateway) -> None:
    queue = gateway.queue(max_delivery_count=2)
    gateway.send(queue, "s", *"abcdefgh")
    holder = gateway.holder(queue, "s", fresh_id())
    received = tokens(holder.receive("timeout=0&max=8"))
    holder.complete(received[0])
    holder.complete("00000000-0000-0000-0000-000000000000")
    holder.defer(received[1])
    holder.dead_letter(received[2], DeadLetterReason="text of a user")
    holder.dead_letter(received[3], DeadLetterReason="TTLExpiredException")
    holder.ask("POST", "/messages/$settle", {"complete": received[4:6], "release": received[6:7]})
    holder.abandon(received[7])
    holder.receive("timeout=0&max=8")
    samples = scrape(gateway)
    assert value(samples, "messages_sent_total") == 8
    assert value(samples, "messages_delivered_total") == 10
    settled = {name: value(samples, "messages_settled_total", disposition=name) for name in ("complete", "defer", "abandon")}
    assert settled == {"complete": 3, "defer": 1, "abandon": 1}
    assert value(samples, "messages_settled_total", disposition="dead_letter") == 2
    reasons = {labels for name, labels in samples if name == "azsession_messages_dead_lettered_total"}
    assert reasons == {(("reason", name),) for name in ("MaxDeliveryCountExceeded", "TTLExpiredException", "other")}
    assert value(samples, "messages_dead_lettered_total", reason="other") == 1
    assert value(samples, "messages_dead_lettered_total", reason="TTLExpiredException") == 1


def test_messages_that_the_broker_dead_letters_are_counted(gateway: Gateway) -> None:
    queue = gateway.queue(max_delivery_count=1, dead_letter_on_expiration=True, lock_duration=5)
    gateway.send(queue, "failing", "a")
    gateway.send(queue, "expiring", "a", "b", TimeToLive=1)
    gateway.holder(queue, "failing", fresh_id()).receive()
    gateway.clock.forward(6)
    gateway.send(queue, "whole", "a", "b", "c")
    holder = gateway.holder(queue, "whole", fresh_id())
    holder.receive()
    assert holder.ask("POST", "/$deadletter", {"DeadLetterReason": "all"}).json == {"count": 3}
    samples = scrape(gateway)
    counted = {dict(labels)["reason"]: count for (name, labels), count in samples.items() if "dead_lettered_total" in name}
    assert counted == {"MaxDeliveryCountExceeded": 1, "TTLExpiredException": 2, "other": 3}
    assert value(samples, "messages_settled_total", disposition="dead_letter") == 3


def test_requests_waits_and_connections_are_counted(gateway: Gateway) -> None:
    queue = gateway.queue()
    before = scrape(gateway)
    holder = gateway.holder(queue, "s", fresh_id())
    began = time.monotonic()
    assert holder.receive("timeout=0.2").status == 204
    elapsed = time.monotonic() - began
    answer = in_thread(lambda: gateway.ask("POST", f"/{queue}/sessions?timeout=30", {}, {"Azsession-Lock-Id": fresh_id()}))
    eventually(lambda: acceptors(gateway, queue))
    while_waiting = scrape(gateway)
    assert value(while_waiting, "gateway_waiting_requests", operation="accept") == 1
    assert (value(while_waiting, "gateway_connections") or 0) >= 2
    gateway.send(queue, "t", "x")
    assert answer().status == 201
    assert gateway.ask("GET", "/nowhere", token="").status == 401
    samples = scrape(gateway)
    requests = {labels: count for (name, labels), count in samples.items() if name == "azsession_gateway_requests_total"}
    for operation, status, count in (("receive", "204", 1), ("accept", "201", 1), ("send", "201", 1), ("refused", "401", 1)):
        assert requests[("operation", operation), ("status", status)] == count
    assert value(samples, "gateway_waiting_requests", operation="accept") == 0
    waited, took = (
        value(samples, f"gateway_{name}_duration_seconds_sum", operation="receive") or 0.0 for name in ("wait", "request")
    )
    # The wait is not part of the duration.
    assert 0.2 <= waited + took <= elapsed
    assert waited > 0.1
    assert took > 0
    assert value(samples, "gateway_request_duration_seconds_count", operation="receive") == 1
    assert value(before, "gateway_requests_total", operation="receive", status="204") is None


def test_making_a_backup_is_no_wait_for_a_message(gateway: Gateway) -> None:
    assert gateway.ask("GET", "/$backup").status == 200
    # The client can have the whole answer before the gateway has counted it.
    eventually(lambda: (value(scrape(gateway), "gateway_request_duration_seconds_sum", operation="backup") or 0.0) > 0)
    samples = scrape(gateway)
    assert value(samples, "gateway_wait_duration_seconds_count", operation="backup") is None
    assert value(samples, "gateway_waiting_requests", operation="backup") is None


def test_the_numbers_of_queues_are_reported(gateway: Gateway) -> None:
    queue, empty = gateway.queue(), gateway.queue()
    gateway.send(queue, "held", "a", "b")
    gateway.clock.forward(30)
    gateway.send(queue, "free", "c")
    later = datetime.now(timezone.utc) + timedelta(hours=1)
    gateway.service.broker.schedule(queue, [Message("x", session_id="free", scheduled_enqueue_time=later)]).result()
    holder = gateway.holder(queue, "held", fresh_id())
    holder.defer(holder.receive().token)
    samples = scrape(gateway)
    states = {
        state: value(samples, "queue_messages", queue=queue, state=state) for state in ("active", "scheduled", "deferred")
    }
    assert states == {"active": 2, "scheduled": 1, "deferred": 1}
    assert value(samples, "queue_messages", queue=queue, state="dead_lettered") == 0
    sessions = [value(samples, f"queue_sessions{kind}", queue=queue) for kind in ("", "_waiting", "_locked")]
    assert sessions == [2, 1, 1]
    assert value(samples, "queues") == 2
    assert value(samples, "broker_up") == 1
    assert value(samples, "queue_oldest_message_age_seconds", queue=empty) == 0


def test_the_age_of_the_oldest_message_is_in_seconds() -> None:
    clock = HandClock(now=time.time() - 100)
    broker = EmbeddedBroker(queues=["q"], clock=clock)
    broker.send("q", [Message("x", session_id="s")]).result()
    with GatewayService(broker, [PROMETHEUS], metrics=GatewayMetrics()) as service:
        samples = scrape(Gateway(service, SteppedClock()))
    assert 100 <= (value(samples, "queue_oldest_message_age_seconds", queue="q") or 0) < 300


def test_a_broker_that_fails_is_down_and_the_rest_is_reported(gateway: Gateway) -> None:
    gateway.queue()
    gateway.service.broker.close()
    samples = scrape(gateway)
    assert value(samples, "broker_up") == 0
    assert value(samples, "queues") is None
    assert value(samples, "messages_sent_total") == 0


# Bounds


def test_sessions_and_texts_of_users_are_no_labels(gateway: Gateway) -> None:
    queue = gateway.queue()
    for number in range(30):
        gateway.send(queue, f"session-{number}", "body")
        holder = gateway.holder(queue, f"session-{number}", fresh_id())
        holder.dead_letter(holder.receive().token, DeadLetterReason=f"reason-{number}")
        gateway.ask("GET", f"/queue-{number}-nowhere/sessions")
        gateway.ask(f"METHOD{number}", f"/path-{number}/x/y")
    text = gateway.ask("GET", "/metrics", key=PROMETHEUS).body.decode()
    for secret in ("session-", "reason-", "nowhere", "METHOD", "path-", *(key.key for key in KEYS)):
        assert secret not in text
    assert len(parsed(text)) < 300


def test_many_queues_are_summed_up() -> None:
    broker = EmbeddedBroker()
    for number in range(7):
        broker.create_queue(f"q{number}", QueueSettings()).result()
        broker.send(f"q{number}", [Message("x", session_id=str(each)) for each in range(number)]).result()
    with GatewayService(broker, [PROMETHEUS], metrics=GatewayMetrics(max_queues=4)) as service:
        samples = scrape(Gateway(service, SteppedClock()))
    queues = {dict(labels)["queue"] for name, labels in samples if name == "azsession_queue_sessions"}
    assert queues == {"q0", "q1", "q2", "q3", "~other"}
    assert value(samples, "queue_messages", queue="~other", state="active") == 4 + 5 + 6
    assert value(samples, "queue_sessions_waiting", queue="~other") == 15
    assert value(samples, "queues") == 7


@pytest.mark.parametrize("number", [0, -1, "5", 1.5])
def test_the_number_of_queues_is_checked(number: Any) -> None:
    with pytest.raises(ValidationError, match="max_queues"):
        GatewayMetrics(max_queues=number)


def test_two_gateways_of_a_process_have_their_own_metrics() -> None:
    with (
        GatewayService(EmbeddedBroker(queues=["a"]), [MANAGE, PROMETHEUS], metrics=GatewayMetrics()) as one,
        GatewayService(EmbeddedBroker(queues=["b"]), [MANAGE, PROMETHEUS], metrics=GatewayMetrics()) as two,
    ):
        first, second = Gateway(one, SteppedClock()), Gateway(two, SteppedClock())
        first.send("a", "s", "x")
        assert value(scrape(first), "messages_sent_total") == 1
        assert value(scrape(second), "messages_sent_total") == 0
        assert value(scrape(second), "queue_messages", queue="a", state="active") is None
        with pytest.raises(ConfigurationError, match="another gateway"):
            GatewayService(EmbeddedBroker(), [MANAGE], metrics=one._metrics)


def test_scrapes_at_one_time_count_once(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = gateway.service._metrics
    assert metrics is not None
    monkeypatch.setattr(metrics_module, "SCRAPE_SECONDS", 60.0)
    with ThreadPoolExecutor(8) as threads:
        futures = {id(future) for future in threads.map(lambda _: metrics.scrape(), range(32))}
    assert len(futures) == 1


# Other ways to serve them


def test_a_port_of_its_own_needs_no_key() -> None:
    with GatewayService(EmbeddedBroker(queues=["q"]), [MANAGE], metrics=GatewayMetrics(), metrics_port=0) as service:
        assert service.metrics_url is not None
        text = requests.get(service.metrics_url, timeout=10).text
        assert value(parsed(text), "queue_sessions", queue="q") == 0


def test_a_port_without_metrics_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="metrics=GatewayMetrics"):
        GatewayService(EmbeddedBroker(), [MANAGE], metrics_port=0)
