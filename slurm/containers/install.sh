#!/bin/sh
# What an image holds beyond Debian and its Python: run as root in the folder of the sources.
set -eu
apt-get update
# Triton compiles what launches its kernels, with Python's headers.
apt-get install -y --no-install-recommends ca-certificates gcc libc6-dev python3-dev python3-venv
rm -rf /var/lib/apt/lists/*
python3 -m venv /opt/venv
/opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check -c constraints.txt ".[search]"
