# The build needs a C toolchain for librdkafka and OpenSSL; the image needs the binary alone.
FROM rust:1.95.0-slim-bookworm AS build
RUN apt-get update \
 && apt-get install -y --no-install-recommends build-essential perl \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY src src
COPY schemas schemas
COPY tests tests
RUN cargo build --release --locked --bin modelstream

FROM debian:12.12-slim
# Certificates of the public authorities, for brokers behind TLS.
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates \
 && rm -rf /var/lib/apt/lists/*
COPY --from=build /src/target/release/modelstream /usr/local/bin/modelstream
COPY tests/data /data
USER 65532:65532
ENTRYPOINT ["modelstream"]
CMD ["--help"]
