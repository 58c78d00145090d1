# The command, and all that `make demo` and `make test` need. One image serves CPUs and NVIDIA GPUs, because the wheels
# of PyTorch contain the CUDA libraries; a GPU needs the NVIDIA Container Toolkit on the host.
#   docker build --tag synrep-bench .
#   docker run --rm synrep-bench                          # make demo
#   docker run --rm --gpus all synrep-bench synrep list   # any other command
FROM python:3.11-slim-bookworm AS tools

# g++ compiles what torch.compile generates; Chromium opens the leaderboard in tests.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends chromium g++ git make \
    && rm --recursive --force /var/lib/apt/lists/*
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility

FROM tools
WORKDIR /synrep-bench
ENV PATH=/synrep-bench/.venv/bin:$PATH
COPY . .
RUN make .venv/installed
CMD ["make", "demo"]
