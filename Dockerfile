# bnfuse for ONNX models; with EXTRAS for Keras models, too:
#
#     docker build -t bnfuse .
#     docker build -t bnfuse:tensorflow --build-arg EXTRAS='[tensorflow]' .
#     docker run --rm --network none -u "$(id -u):$(id -g)" -v "$PWD:/models" bnfuse optimize model.onnx
#
# The first stage has pip and the sources; the second nothing but Python and what was installed.
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS build
ARG EXTRAS=""
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY bnfuse ./bnfuse
RUN python -m venv --without-pip /opt/bnfuse
RUN python -m pip --python /opt/bnfuse/bin/python install --no-cache-dir --disable-pip-version-check ".${EXTRAS}"

FROM python:${PYTHON}-slim
COPY --from=build /opt/bnfuse /opt/bnfuse
# Not root; whoever mounts a folder of models gives the number of their own user (-u), so that results are theirs.
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin bnfuse
ENV PATH=/opt/bnfuse/bin:$PATH PYTHONUTF8=1 HOME=/tmp
USER 10001:10001
WORKDIR /models
ENTRYPOINT ["bnfuse"]
CMD ["--help"]
