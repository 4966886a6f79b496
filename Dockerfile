# One image, different commands: see docker-compose.yml.
FROM python:3.13-slim-bookworm AS build
WORKDIR /src
COPY requirements.lock ./
RUN python -m venv /opt/broker \
 && /opt/broker/bin/pip install --no-cache-dir --require-hashes --only-binary :all: -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY broker ./broker
COPY workers ./workers
# hatchling builds the wheel here and does not travel into the image.
RUN pip install --no-cache-dir hatchling==1.33.0 \
 && pip wheel --no-cache-dir --no-deps --no-build-isolation -w /wheels . \
 && /opt/broker/bin/pip install --no-cache-dir --no-deps /wheels/*.whl

FROM python:3.13-slim-bookworm
# FriBidi orders right-to-left names on film; without it such a film is refused.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends libfribidi0 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --create-home --home-dir /var/lib/broker --shell /usr/sbin/nologin broker \
 && install -d -o broker -g broker -m 750 /data
COPY --from=build /opt/broker /opt/broker
COPY config /etc/broker
ENV PATH=/opt/broker/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    BROKER_CONFIG=/etc/broker/broker.yaml \
    BROKER_DATA_DIR=/data
USER 10001
VOLUME /data
EXPOSE 2575 11112 8080
ENTRYPOINT ["broker"]
CMD ["serve"]
