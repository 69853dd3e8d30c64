#!/bin/sh
# Virtual environments of the peers that benchmarks compare with, below .peers/ in the repository's root.
#
#   benchmarks/install_peers.sh                    sentence-transformers: .peers/
#   benchmarks/install_peers.sh late-interaction   fast-plaid and xtr-warp-rs: .peers/fast-plaid/; PyLate: .peers/pylate/
#   benchmarks/install_peers.sh parsing            pymupdf4llm, kreuzberg, opendataloader-pdf, ...: .peers/parsing/
#   benchmarks/install_peers.sh evaluation         lm-evaluation-harness: .peers/evaluation/
#
# torch comes first and pinned: to the project's own build, or to the only release that a peer was compiled for. That
# release is on PyPI with CUDA only, so each late-interaction environment takes about 5.5 GB.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}

# install FOLDER PACKAGE...: an environment with these packages, each install with the pins given first
install() {
    folder=$1
    shift
    [ -x "$folder/bin/python" ] || "$python" -m venv "$folder"
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check "$1"
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check "$@"
}

case ${1:-encoders} in
encoders)
    install .peers torch==2.13.0 transformers==5.23.0 sentence-transformers==6.2.0
    .peers/bin/python -c 'import sentence_transformers as s; print("peers: sentence-transformers", s.__version__)'
    ;;
late-interaction)
    # fast-plaid and xtr-warp-rs are compiled against libtorch 2.11 and crash over others; PyLate pins an older fast-plaid.
    install .peers/fast-plaid torch==2.11.0 fast-plaid==1.7.0.2110 xtr-warp-rs==2.1.0.2110
    install .peers/pylate torch==2.11.0 pylate==1.6.0 fast-plaid==1.4.6.2110
    .peers/fast-plaid/bin/python -c 'import fast_plaid, xtr_warp; print("peers: fast-plaid, xtr-warp-rs")'
    .peers/pylate/bin/python -c 'import pylate; print("peers: pylate", pylate.__version__)'
    ;;
parsing)
    # docling, marker and MinerU are left out: they fetch models at run time. opendataloader-pdf needs a Java runtime.
    install .peers/parsing pymupdf==2.0 pymupdf4llm==2.0 pymupdf-layout==2.0 pypdf==7.1.0 \
        pdfminer.six==20260107 pdfplumber==0.11.10 "markitdown[pdf]==0.1.8" \
        kreuzberg==4.10.4 opendataloader-pdf==2.5.16
    .peers/parsing/bin/python -c 'import importlib.metadata as m; print("peers: pymupdf4llm", m.version("pymupdf4llm"))'
    ;;
evaluation)
    install .peers/evaluation torch==2.13.0 transformers==5.23.0 datasets==5.2.0 lm-eval==0.4.13
    .peers/evaluation/bin/python -c 'import importlib.metadata as m; print("peers: lm-eval", m.version("lm-eval"))'
    ;;
*)
    echo "usage: $0 [encoders|late-interaction|parsing|evaluation]" >&2
    exit 2
    ;;
esac
