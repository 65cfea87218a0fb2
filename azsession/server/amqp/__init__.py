"""The AMQP 1.0 endpoint: Azure's SDKs, and any AMQP client that knows Service Bus, use message sessions of a broker.

`GatewayService` starts `endpoint.Endpoint` in its own event loop, beside the HTTP server. The bytes are those of
`azsession.amqp`, and the behaviour is that of Microsoft's "AMQP 1.0 in Azure Service Bus and Event Hubs protocol guide".
"""
