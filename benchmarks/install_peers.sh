#!/bin/sh
# Virtual environment of the peers that benchmarks compare with: .peers/ in the repository's root.
# torch comes first and pinned, so that it is the same build as the project's own.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
[ -x .peers/bin/python ] || "$python" -m venv .peers
.peers/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
.peers/bin/python -m pip install --quiet --disable-pip-version-check \
    torch==2.13.0 transformers==5.23.0 sentence-transformers==6.2.0
.peers/bin/python -c 'import sentence_transformers as s; print("peers: sentence-transformers", s.__version__)'
