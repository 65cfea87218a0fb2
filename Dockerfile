# A gateway with its data in the volume /data. Build and run it:
#
#     docker build --tag azsession .
#     docker run --publish 127.0.0.1:8720:8720 --volume azsession:/data azsession
#
# docs/deployment.md says more. Also the base of a consumer's image, which adds the modules of its handlers.

ARG PYTHON=3.13

FROM python:${PYTHON}-slim AS build
# The extras of azsession that the image has.
ARG EXTRAS=server,websockets
COPY . /src
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels /src \
    && python -m venv /opt/azsession \
    && /opt/azsession/bin/pip install --no-cache-dir "$(echo /wheels/azsession-*.whl)[${EXTRAS}]"

FROM python:${PYTHON}-slim
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /data --shell /usr/sbin/nologin azsession \
    && install --directory --owner azsession --group azsession --mode 0700 /data
COPY --from=build /opt/azsession /opt/azsession
# AZSESSION_PROBE_URL is what HEALTHCHECK asks. A gateway with --tls-cert needs https here, a consumer its --health-port.
ENV PATH=/opt/azsession/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    AZSESSION_PROBE_URL=http://127.0.0.1:8720/readyz
# A number, so that Kubernetes can check that it is not root.
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8720
STOPSIGNAL SIGTERM
# Straight to this container, whatever proxy the environment names, and for any name in the certificate.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os, ssl; from urllib.request import HTTPSHandler, ProxyHandler, build_opener; build_opener(ProxyHandler({}), HTTPSHandler(context=ssl._create_unverified_context())).open(os.environ['AZSESSION_PROBE_URL'], timeout=4)"]
# The process gets the signals itself, because no shell is in between.
ENTRYPOINT ["azsession"]
# --insecure: another container or machine in front of it ends TLS. With a certificate: serve --tls-cert FILE --tls-key FILE.
# --hide-key: the key is in /data/azsession.db.key and not in the log of the container.
CMD ["serve", "--data", "/data/azsession.db", "--host", "0.0.0.0", "--insecure", "--hide-key"]
