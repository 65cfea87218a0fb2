"""Session queues for Microsoft's tests of queues without sessions: one session takes the place of the queue."""

from __future__ import annotations

from typing import Any

from azure.servicebus import ServiceBusClient, ServiceBusReceiver
from azure.servicebus._common import utils

#: The session that the messages of a test belong to.
SESSION = "queue"


def client_of_one_session(kind: type[ServiceBusClient]) -> type[ServiceBusClient]:
    """Return a kind of client whose receivers hold the session, except those of the dead-letter queue."""

    class Client(kind):  # type: ignore[misc, valid-type]
        def get_queue_receiver(self, queue_name: str, **options: Any) -> ServiceBusReceiver:
            if options.get("sub_queue") is None:
                options.setdefault("session_id", SESSION)
            return super().get_queue_receiver(queue_name, **options)

    return Client


def give_messages_a_session() -> None:
    """Let the SDK put the session's id on each message that it sends without one. This holds for the whole process."""
    convert = utils._convert_to_single_service_bus_message

    def convert_with_session(message: Any, message_type: Any, to_outgoing: Any) -> Any:
        made = convert(message, message_type, to_outgoing)
        if made.session_id is None:
            made.session_id = SESSION
            made._message = to_outgoing(made.raw_amqp_message)
        return made

    utils._convert_to_single_service_bus_message = convert_with_session
