#!/usr/bin/env bash
# CPython: a process forked in a ThreadPoolExecutor's thread ends with exit code 1
#
# Guess: multiprocessing's "fork", the default on Linux up to Python 3.13, may be used in any thread: a child whose target
# returns ends with 0.
#
# Seen: CPython 3.11: the child's main thread is the executor's worker, which the executor joins at the end of the
# interpreter: "cannot join current thread", and the exit code is 1. So every worker or framework that runs handlers in a
# ThreadPoolExecutor makes its users' multiprocessing look failed. In a plain threading.Thread it is 0.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  pip 2>/dev/null
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import multiprocessing, threading
from concurrent.futures import ThreadPoolExecutor

def child():
    process = multiprocessing.get_context("fork").Process(target=int)
    process.start()
    process.join()
    codes.append(process.exitcode)

codes = []
thread = threading.Thread(target=child)
thread.start()
thread.join()
with ThreadPoolExecutor(1) as pool:
    pool.submit(child).result()
print("exit codes: thread", codes[0], "| executor", codes[1])
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
exit codes: thread 0 | executor 1
EOF
