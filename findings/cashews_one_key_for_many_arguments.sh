#!/usr/bin/env bash
# cashews: a cached function gets for `[1]` what it gave for 1, and for "" what it gave for None
#
# Guess: arguments that differ have results of their own; at worst 1 and "1" share one, as keys are text.
#
# Seen: cashews 7.6.0: without a `key` of one's own, 1, "1", [1] and (1,) are one key; so are None, "", [] and ();
# "a", b"a" and ["a"]; and "1:2", [1, 2] and [[1], 2]. A dict has one of its own, and so have 1.0 and True.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  cashews==7.6.0 2>/dev/null
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - 2>/dev/null <<'EOF'
import asyncio
from cashews import cache

cache.setup("mem://")

@cache(ttl="1m")
async def given(value):
    return value

async def main():
    for group in ((1, "1", [1], (1,), 1.0, True), (None, "", [], (), 0, False), ("a", b"a", ["a"], {"a": 1}, "A"), ([1, 2], "1:2", (1, 2), [[1], 2])):
        await cache.clear()
        print(*[f"{value!r} gets {await given(value)!r};" for value in group])

asyncio.run(main())
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
1 gets 1; '1' gets 1; [1] gets 1; (1,) gets 1; 1.0 gets 1.0; True gets True;
None gets None; '' gets None; [] gets None; () gets None; 0 gets 0; False gets False;
'a' gets 'a'; b'a' gets 'a'; ['a'] gets 'a'; {'a': 1} gets {'a': 1}; 'A' gets 'A';
[1, 2] gets [1, 2]; '1:2' gets [1, 2]; (1, 2) gets [1, 2]; [[1], 2] gets [1, 2];
EOF
