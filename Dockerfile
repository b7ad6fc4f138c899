# The same images as `make image`, for people who have Docker:
#
#   docker build --target sallyport-proxy -t ghcr.io/sallyport-dev/sallyport-proxy:0.1.0 .
#
# Targets: sallyport-operator, sallyport-proxy, kubectl-sallyport. Each is empty but for the tree that e2e-image unpacks: the
# program, the libraries that it needs from the builder, CA certificates, no shell. Not exercised by the tests, which have no
# Docker; what they install are the archives of `make image`, made of the same tree.
ARG BUILDER=docker.io/library/rust:1.95.0-bookworm
FROM ${BUILDER} AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --workspace --bins --locked --release \
 && for name in sallyport-operator sallyport-proxy kubectl-sallyport; do \
      target/release/e2e-image --programs target/release unpack "$name" "/trees/$name" || exit 1; \
    done

FROM scratch AS sallyport-operator
COPY --from=build /trees/sallyport-operator /
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/sallyport-operator"]

FROM scratch AS sallyport-proxy
COPY --from=build /trees/sallyport-proxy /
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/sallyport-proxy"]

FROM scratch AS kubectl-sallyport
COPY --from=build /trees/kubectl-sallyport /
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/kubectl-sallyport"]
