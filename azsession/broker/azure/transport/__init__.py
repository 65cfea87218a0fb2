"""The AMQP 1.0 client of the broker on Azure: one loop thread, streams, connections, channels and links.

Imports go one way: request_response -> connection -> channel -> links, and connection -> loop, stream.
"""
