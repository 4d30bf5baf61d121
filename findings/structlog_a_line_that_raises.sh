#!/usr/bin/env bash
# structlog: a line of the log raises in the program, where one of logging never does
#
# Guess: as with logging, a fault in a call for the log is reported on stderr at most, and the program goes on; a
# keyword of one's own stands in the line.
#
# Seen: structlog 26.1.0: an argument too many, a level between two names, `event=` and, with JSONRenderer, a dict key
# that JSON has not, raise where the line is written. `level=` of the caller is overwritten without a word by
# add_log_level.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  structlog==26.1.0 2>/dev/null
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - 2>/dev/null <<'EOF'
import logging, structlog

structlog.configure(
    processors=[structlog.processors.add_log_level, structlog.processors.JSONRenderer()],
    wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
)
log, plain = structlog.get_logger(), logging.getLogger("plain")

def tried(name, call):
    try:
        call()
    except Exception as error:
        print(name, "raises", type(error).__name__)

for side, logger in (("structlog", log), ("logging", plain)):
    tried(f"{side}, an argument too many,", lambda: logger.warning("done", 5))
    tried(f"{side}, level 35,", lambda: logger.log(35, "odd level"))
tried("structlog, event=,", lambda: log.info("user came", event="login"))
tried("structlog, a tuple as a key,", lambda: log.info("counts", counts={("a", 1): 2}))
log.info("bought", level="gold")
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
structlog, an argument too many, raises TypeError
structlog, level 35, raises KeyError
structlog, event=, raises TypeError
structlog, a tuple as a key, raises TypeError
{"level": "info", "event": "bought"}
EOF
