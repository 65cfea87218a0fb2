"""The metrics of a gateway in front of Azure: what Azure tells, and what the gateway sees."""

from __future__ import annotations

import requests
from prometheus_client.parser import text_string_to_metric_families

from azsession import Message, ServiceBusConfig, ServiceBusProvider
from azsession.broker.azure import AzureBroker
from azsession.server import AccessKey, GatewayMetrics, GatewayService

from ..namespaces import OwnNamespace


def samples(service: GatewayService) -> dict[str, float]:
    assert service.metrics_url is not None
    text = requests.get(service.metrics_url, timeout=30).text
    found = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {" ".join((one.name, *one.labels.values())): one.value for one in found if one.name.startswith("azsession_")}


def test_the_sessions_of_the_queues_that_clients_use_are_counted() -> None:
    with OwnNamespace() as namespace:
        namespace.create_queue("orders")
        namespace.create_queue("unused")
        broker = AzureBroker(ServiceBusConfig(connection_string=namespace.connection_string))
        with (
            GatewayService(broker, [AccessKey.generate()], metrics=GatewayMetrics(), metrics_port=0) as service,
            ServiceBusProvider.from_connection_string(service.connection_string()) as provider,
        ):
            provider.send_messages("orders", [Message("x", session_id=str(number)) for number in range(4)])
            with provider.create_session_client("orders", "1") as session:
                message = session.receive_message(timeout=10)
                assert message is not None
                session.dead_letter_message(message, "TTLExpiredException")
                with provider.create_session_client("orders", "2") as other:
                    assert other.receive_message(timeout=10) is not None
                    found = samples(service)
    assert found["azsession_broker_up"] == 1
    assert found["azsession_queue_sessions orders"] == 3
    assert found["azsession_queue_sessions_locked orders"] == 2
    assert found["azsession_messages_dead_lettered_total TTLExpiredException"] == 1
    assert found["azsession_messages_sent_total"] == 4
    assert not [
        name for name in found if "unused" in name or name.startswith(("azsession_queue_messages", "azsession_queue_age"))
    ]
