# The toolkit with its page, its REST service and Visdom; compose.yaml starts them.
FROM python:3.12-slim AS wheel
WORKDIR /source
COPY *.py pyproject.toml requirements*.txt README.md LICENSE ./
COPY options options
COPY cyclegan_age cyclegan_age
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.12-slim
# PyTorch's releases for processors; for GPUs https://download.pytorch.org/whl/cu130
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PYTHONUNBUFFERED=1 PIP_CACHE_DIR=/cache
# torch.compile needs a compiler
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
COPY --from=wheel /wheels /wheels
COPY requirements-visdom.txt /wheels/
# hadolint ignore=DL3013,DL3042
RUN --mount=type=cache,target=/cache \
    pip install --extra-index-url "$TORCH_INDEX" "$(echo /wheels/*.whl)[web,heif]" "setuptools<81" wheel \
    && pip install --no-build-isolation -r /wheels/requirements-visdom.txt \
    && python -c "from cyclegan_age.visdom_server import build_assets; build_assets()" \
    && useradd --create-home --uid 1000 user
USER 1000
WORKDIR /home/user
ENTRYPOINT ["cyclegan-age"]
CMD ["--help"]
