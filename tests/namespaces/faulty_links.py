"""The links of the AMQP endpoint with faults: attaches, sends, settlements and requests that are refused or not answered.

They are subclasses of the product's links. `faulty` returns the one for a link.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from azsession import amqp
from azsession.amqp import Disposition, Flow, Request, Transfer
from azsession.server.amqp.attaching import ManagementResponses, RefusedLink
from azsession.server.amqp.cbs import TokenRequests
from azsession.server.amqp.conditions import RefusedError
from azsession.server.amqp.dead_letter_receiver import DeadLetterReceiver
from azsession.server.amqp.link import Link
from azsession.server.amqp.management import ManagementRequests
from azsession.server.amqp.requests import Answer, RequestLink, Responses
from azsession.server.amqp.sender import Sender
from azsession.server.amqp.session_receiver import SessionReceiver
from azsession.server.amqp.states import LinkState
from tests.namespaces.faults import Faults


def faults_of(link: Link) -> Faults:
    """Return the faults of the server that has a link."""
    connection: Any = link.channel.connection
    faults: Faults = connection.faults
    return faults


class _Faulty(Link):
    """A link whose attach can stay without an answer, although it has its effect."""

    def grant(self) -> None:
        if faults_of(self).swallows("attach"):
            self.state = LinkState.ATTACHED
        else:
            super().grant()


class FaultyResponses(_Faulty, Responses):
    pass


class FaultyManagementResponses(_Faulty, ManagementResponses):
    pass


class FaultyDeadLetterReceiver(_Faulty, DeadLetterReceiver):
    pass


class FaultySender(_Faulty, Sender):
    async def prepare(self) -> None:
        await super().prepare()
        self.max_message_size = faults_of(self).sizes.get(self.entity, self.max_message_size)

    def take(self, first: Transfer, payload: bytes, *, is_settled: bool) -> None:
        refusal = faults_of(self).refusal_of("send", throttled=True)
        if refusal is not None:
            self.answered(first, len(payload), refusal, is_settled=is_settled)
        else:
            super().take(first, payload, is_settled=is_settled)

    def answered(self, first: Transfer, size: int, refusal: RefusedError | None, *, is_settled: bool) -> None:
        is_swallowed = refusal is None and faults_of(self).swallows("send")
        super().answered(first, size, refusal, is_settled=is_settled or is_swallowed)


class FaultySessionReceiver(_Faulty, SessionReceiver):
    def on_flow(self, flow: Flow) -> None:
        super().on_flow(flow._replace(drain=False) if flow.drain and faults_of(self).swallows("drain") else flow)

    def on_disposition(self, deliveries: Sequence[tuple[int, str]], disposition: Disposition) -> None:
        faults = faults_of(self)
        refusal = faults.refusal_of("disposition")
        if refusal is not None:
            if not disposition.settled:
                self.channel.settle_outgoing([number for number, _ in deliveries], amqp.rejected(refusal.error))
        elif not disposition.settled and faults.swallows("disposition"):
            super().on_disposition(deliveries, disposition._replace(settled=True))
        else:
            super().on_disposition(deliveries, disposition)


class _FaultyRequests(_Faulty, RequestLink):
    """Requests that can be refused, or stay without a response, although they have their effect."""

    async def _respond(self, request: Request) -> None:
        operation = _operation_of(request)
        faults_of(self).log[operation] += 1
        if faults_of(self).swallows(operation):
            await self.perform(request)
            self.responded()
        else:
            await super()._respond(request)


class FaultyTokenRequests(_FaultyRequests, TokenRequests):
    async def perform(self, request: Request) -> Answer:
        refusal = faults_of(self).refusal_of("put-token")
        if refusal is None:
            return await super().perform(request)
        status = {"status-code": refusal.status, "status-description": refusal.description}
        return {**status, "error-condition": refusal.condition}, None


class FaultyManagementRequests(_FaultyRequests, ManagementRequests):
    async def perform(self, request: Request) -> Answer:
        refusal = faults_of(self).refusal_of(_operation_of(request), throttled=True)
        if refusal is None:
            return await super().perform(request)
        status = {"statusCode": refusal.status, "statusDescription": refusal.description}
        return {**status, "errorCondition": amqp.Symbol(refusal.condition)}, None


def _operation_of(request: Request) -> str:
    return str(request.properties.get("operation", "")).removeprefix("com.microsoft:")


_KINDS: dict[type[Link], type[Link]] = {
    Responses: FaultyResponses,
    ManagementResponses: FaultyManagementResponses,
    TokenRequests: FaultyTokenRequests,
    ManagementRequests: FaultyManagementRequests,
    DeadLetterReceiver: FaultyDeadLetterReceiver,
    Sender: FaultySender,
}


def faulty(link: Link) -> Link:
    """Return a link with faults in the place of a link that is not open yet."""
    faults, place = faults_of(link), (link.channel, link.attach, link.path)
    if isinstance(link, RefusedLink) or link.path == "$cbs":
        refusal = None
    else:
        refusal = faults.refusal_of("attach", throttled=True) or _disabled(faults, link)
    if refusal is not None:
        return RefusedLink(*place, refusal)
    if isinstance(link, SessionReceiver):
        return FaultySessionReceiver(*place, link.entity, link.session_id)
    kind = _KINDS.get(type(link))
    return link if kind is None else kind(*place, link.entity)


def _disabled(faults: Faults, link: Link) -> RefusedError | None:
    if link.entity.lower() not in faults.disabled:
        return None
    return RefusedError("com.microsoft:entity-disabled", f"Messaging entity '{link.path}' is disabled.")
