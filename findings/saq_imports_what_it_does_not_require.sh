#!/usr/bin/env bash
# saq: installed by itself it cannot be imported
#
# Guess: `pip install saq[redis]` brings all that `import saq` needs.
#
# Seen: saq 0.26.4, redis-py 7.4.1, Python 3.11: `saq/types.py` imports `typing_extensions`, which neither saq nor what it
# requires asks for. Where another package brings it, as in most applications, nobody notices.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'saq[redis]==0.26.4' redis==7.4.1 2>/dev/null
seen=$(
  "$dir/venv/bin/python" -c 'import saq' 2>&1 | tail -1
  "$dir/venv/bin/python" -m pip install --quiet --disable-pip-version-check typing_extensions 2>/dev/null
  "$dir/venv/bin/python" -c 'import saq; print("with typing_extensions:", saq.Queue.__name__)'
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
ModuleNotFoundError: No module named 'typing_extensions'
with typing_extensions: Queue
EOF
