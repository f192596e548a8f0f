# SR3 Lab in a container, as a Hugging Face Space runs it: not root, nothing written to the app,
# nothing downloaded at the start. A test executes these steps without Docker (tests/test_space.py).
#
#     docker build -t sr3-lab .                                        the default build of torch
#     docker build -t sr3-lab --build-arg TORCH_INDEX=ADDRESS .        the build at that address
#
# The default build for Linux on x86 holds CUDA (and runs without a GPU too). TORCH_INDEX is the
# address of a package index with another one, CPU alone (far smaller) or another CUDA: the selector
# on pytorch.org gives it, behind `--index-url`. A Space passes its Variables as build arguments.
FROM python:3.11-slim

ARG TORCH_INDEX=""

RUN useradd --create-home --uid 1000 user
ENV PATH=/opt/sr3/bin:$PATH \
    HF_HOME=/home/user/.cache/huggingface \
    TORCH_HOME=/home/user/.cache/torch \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PORT=7860

WORKDIR /app
COPY requirements.txt ./
RUN python3 -m venv /opt/sr3
RUN PIP_EXTRA_INDEX_URL="$TORCH_INDEX" pip install --no-cache-dir --disable-pip-version-check -r requirements.txt

COPY app.py LICENSE README.md pyproject.toml ./
COPY .streamlit ./.streamlit
COPY pages ./pages
COPY sr3 ./sr3
COPY checkpoints ./checkpoints

USER user
EXPOSE 7860
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s CMD python3 -c "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + os.environ['PORT'] + '/_stcore/health', timeout=4)"
CMD ["python3", "-m", "sr3.ui.space"]
