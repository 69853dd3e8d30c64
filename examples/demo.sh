#!/usr/bin/env bash
# Index the sample papers and answer three questions; `make demo` runs this in the project's environment.
set -euo pipefail
cd "$(dirname "$0")/.."
collection=${1:-demo-collection}

say() { printf '\n\033[1m$ %s\033[0m\n' "$*"; }

say "hiperrag index examples/papers --to $collection"
hiperrag index examples/papers --to "$collection"

python - <<'PY' |
import json
for line in open("examples/questions.jsonl", encoding="utf-8"):
    question = json.loads(line)
    if question.get("demo"):
        print(question["question"])
PY
while IFS= read -r question; do
    say "hiperrag ask $collection \"$question\""
    hiperrag ask "$collection" "$question" < /dev/null
done

say "hiperrag info $collection"
hiperrag info "$collection"
