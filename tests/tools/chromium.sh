#!/usr/bin/env bash
# Get Debian's headless Chromium and its driver into .tools/, as debian.sh gets the rest: apt downloads, dpkg only
# unpacks, nothing of the system is touched. About 95 MB. Never fails: where it cannot be had, one line says so.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 0

tools=$PWD/.tools
there=$tools/chromium
shell=chromium-headless-shell
for program in $shell chromedriver; do
  command -v $program >/dev/null || [ -x "$tools/bin/$program" ] || missing=1
done
[ -n "${missing-}" ] || exit 0

give_up() {
  rm -rf "$there"
  echo "tools: $1, so no test in a browser"
  exit 0
}
command -v apt-get >/dev/null && command -v dpkg >/dev/null || give_up "no apt here"

cache=$PWD/.cache/chromium
rm -rf "$cache" "$there"
mkdir -p "$cache/state/lists/partial" "$cache/archives/partial" "$there" "$tools/bin"
fetch() (
  cd "$cache/archives" && timeout --kill-after=5 150 apt-get -qq -o APT::Sandbox::User=root -o Debug::NoLocking=1 \
    -o Dir::Cache="$cache" -o Dir::Cache::archives="$cache/archives" -o Acquire::Retries=1 \
    -o Acquire::http::Timeout=10 -o Acquire::https::Timeout=10 "$@" >>"$cache/log" 2>&1
)
# What the shell needs and is not installed; and, installed or not, its own files. The driver asks for a whole desktop.
both() {
  fetch "$@" install --download-only --no-install-recommends --yes $shell &&
    fetch "$@" download $shell chromium-common chromium-driver
}
own=(-o Dir::State="$cache/state" -o Dir::State::status=/var/lib/dpkg/status)
echo "tools: getting Chromium with apt into .tools/"
both || { fetch "${own[@]}" update; both "${own[@]}"; } ||
  give_up "apt cannot download Chromium ($(grep -m1 -E '^(E|W):' "$cache/log" || echo 'out of time'))"
for deb in "$cache/archives"/*.deb; do
  dpkg -x "$deb" "$there" || give_up "dpkg cannot unpack Chromium"
done
rm -rf "$cache"

wrap() {
  cat >"$tools/bin/$1" <<EOF
#!/bin/sh
here=\$(cd "\$(dirname "\$0")/../chromium" && pwd)
for each in "\$here"/usr/lib/*-linux-* "\$here"/usr/lib/*-linux-*/pulseaudio "\$here"/lib/*-linux-*; do
  [ ! -d "\$each" ] || LD_LIBRARY_PATH="\$each:\${LD_LIBRARY_PATH-}"
done
export LD_LIBRARY_PATH
exec "\$here/$2" "\$@"
EOF
  chmod +x "$tools/bin/$1"
}
wrap $shell usr/lib/chromium/$shell
wrap chromedriver usr/bin/chromedriver
if ! timeout 60 "$tools/bin/$shell" --no-sandbox --disable-gpu --dump-dom about:blank 2>/dev/null | grep -q '<html>' ||
  ! timeout 60 "$tools/bin/chromedriver" --version >/dev/null 2>&1; then
  rm -f "$tools/bin/$shell" "$tools/bin/chromedriver"
  give_up "Debian's Chromium does not run here"
fi
exit 0
