# Two images with everything that the recipes need, as recipes/setup.sh installs it:
#
#   docker build --target cuda --tag llama-ds:cuda .
#   docker build --target cpu --tag llama-ds:cpu .
#
#   docker run --rm --gpus all --ipc=host llama-ds:cuda bash recipes/quickstart.sh
#
# CUDA_IMAGE is a "devel" image, because DeepSpeed compiles its kernels when they are first used; its
# CUDA has to have the major version of the one that torch was built with. A build of torch without CUDA
# makes the second image small: --build-arg PIP_EXTRA_INDEX_URL=<PyTorch's index of CPU builds>, from
# which pip prefers it.
ARG CUDA_IMAGE=nvidia/cuda:13.0.2-devel-ubuntu24.04
ARG CPU_IMAGE=ubuntu:24.04

FROM ${CPU_IMAGE} AS cpu
ARG PIP_EXTRA_INDEX_URL
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home llama && mkdir /llama-ds && chown llama /llama-ds
USER llama
WORKDIR /llama-ds
COPY --chown=llama . .
RUN PIP_NO_CACHE_DIR=1 bash recipes/setup.sh
ENV PATH="/llama-ds/.venv/bin:${PATH}"
CMD ["bash"]

FROM ${CUDA_IMAGE} AS cuda
ARG PIP_EXTRA_INDEX_URL
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home llama && mkdir /llama-ds && chown llama /llama-ds
USER llama
WORKDIR /llama-ds
COPY --chown=llama . .
RUN PIP_NO_CACHE_DIR=1 bash recipes/setup.sh
ENV PATH="/llama-ds/.venv/bin:${PATH}"
CMD ["bash"]
