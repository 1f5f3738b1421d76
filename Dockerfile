# The image of apptlock: the pages, then the dependencies, then the binary, then nothing but what the binary takes.
#
# Any BuildKit builds it; no "syntax" line is here, because that is one more fetch from a registry. Where a proxy
# signs the build's connections with an authority of its own, hand that over as a secret, which no layer keeps:
#   docker build --secret id=ca,src=/etc/ssl/certs/ca-certificates.crt --tag apptlock:local .
# `make check-image` builds it, runs it and looks at what is inside.

# Both are Debian 12, and the second one's C library is the image's. Local images can be given instead.
ARG NODE_IMAGE=docker.io/library/node:22-bookworm-slim
ARG RUST_IMAGE=docker.io/library/rust:1.95-slim-bookworm

# --- the pages ---------------------------------------------------------------------------------------

# They are the same on every platform, so they are built on the builder's own.
FROM --platform=$BUILDPLATFORM ${NODE_IMAGE} AS pages
WORKDIR /build/web
COPY web/package.json web/package-lock.json ./
RUN --mount=type=secret,id=ca \
    if [ -s /run/secrets/ca ]; then export NODE_EXTRA_CA_CERTS=/run/secrets/ca; fi; \
    npm ci --no-audit --no-fund
COPY web ./
RUN npm run build

# --- the binary --------------------------------------------------------------------------------------

FROM ${RUST_IMAGE} AS binary
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
WORKDIR /build
# An image carries no debugger. Names of functions are 4 MB; what a panic says has its file and line without them.
ENV CARGO_PROFILE_RELEASE_DEBUG=none \
    CARGO_PROFILE_RELEASE_STRIP=symbols \
    CARGO_TERM_PROGRESS_WHEN=never

# The dependencies alone, behind empty sources: this layer is built again when a manifest or the lock changes, and
# stays when only our code does.
COPY Cargo.toml Cargo.lock ./
COPY load/Cargo.toml load/
COPY support/Cargo.toml support/
RUN --mount=type=secret,id=ca \
    if [ -s /run/secrets/ca ]; then export CARGO_HTTP_CAINFO=/run/secrets/ca; fi; \
    mkdir -p src load/src support/src \
    && touch src/lib.rs support/src/lib.rs \
    && echo 'fn main() {}' >src/main.rs \
    && cp src/main.rs load/src/ \
    && cargo build --locked --release --bin apptlock

COPY migrations migrations
COPY src src
COPY --from=pages /build/web/dist web/dist
# Cargo goes by times, and the sources are older than the empty ones that were built.
RUN touch src/lib.rs src/main.rs \
    && cargo build --locked --offline --release --bin apptlock

# What the binary needs around it. It is linked to the C library as everywhere else, instead of a static one of
# another kind: names are resolved by the same code, with the same resolv.conf, hosts file and search domains, that
# the tests ran with. Resolving by files and DNS is inside glibc 2.34 and newer, so a few libraries are all.
WORKDIR /image
COPY LICENSE .
RUN mkdir -p etc/ssl/certs var/lib/dpkg/status.d \
    && ldd /build/target/release/apptlock | grep -o '/[^ ]*' | xargs cp -L --parents -t . \
    && cp -L /etc/ssl/certs/ca-certificates.crt etc/ssl/certs/ \
    && echo 'hosts: files dns' >etc/nsswitch.conf \
    && echo 'apptlock:x:65532:65532:apptlock:/:/sbin/nologin' >etc/passwd \
    && echo 'apptlock:x:65532:' >etc/group \
    # Whose they are, for people and for scanners of vulnerabilities.
    && for package in libc6 libgcc-s1 ca-certificates; do \
        cp --parents "/usr/share/doc/$package/copyright" . \
        && dpkg-query --status "$package" >"var/lib/dpkg/status.d/$package" || exit 1; \
    done

# --- the image ---------------------------------------------------------------------------------------

FROM scratch
COPY --from=binary /image /
COPY --from=binary /build/target/release/apptlock /apptlock

# By number, so that Kubernetes can see that it is not root. Nothing is written to the file system.
USER 65532:65532
# The public port, and the one with metrics and probes.
EXPOSE 3000 9090
# The replica stops in order: give it 25 s or more (`docker stop -t 30`).
STOPSIGNAL SIGTERM
# No HEALTHCHECK: it would take a program that asks, and there is none but apptlock itself. Ask /readyz on port 9090
# from outside, as balancers and Kubernetes do.
ENTRYPOINT ["/apptlock"]
CMD ["serve"]

# Last, because they change with every commit.
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="apptlock" \
      org.opencontainers.image.description="Edit locks on records, with live cursors, for web applications" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="scratch"
