# The image of a consumer, from the image of the Dockerfile in the root of the repository. In this folder:
#
#     docker build --tag orders-consumer --file consumer.Dockerfile .
#     docker run --env SERVICEBUS_CONNECTION_STRING --stop-timeout 45 orders-consumer

FROM azsession
COPY handlers.py /app/
WORKDIR /app
ENV AZSESSION_PROBE_URL=http://127.0.0.1:8080/readyz
CMD ["consume", "orders", "handlers:handle_order", "--grace-period", "30", "--health-port", "8080"]
