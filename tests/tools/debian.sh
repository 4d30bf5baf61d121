#!/usr/bin/env bash
# Get Debian's Redis 7, luac5.1 and luacheck into .tools/, without root and without touching the
# system: apt downloads into a cache of our own and dpkg only unpacks. What is installed already is
# used as it is. Never fails: where apt is not to be had, one line says what will not be run.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 0

tools=$PWD/.tools
missing=() packages=()
runs() { command -v "$1" >/dev/null || [ -x "$tools/bin/$1" ]; }
if ! redis-server --version 2>/dev/null | grep -q 'v=7\.' && ! [ -x "$tools/bin/redis-server" ]; then
  missing+=("Redis 7")
  packages+=(redis-tools libatomic1 libjemalloc2 liblzf1) # redis-server itself is but a link
fi
if ! runs luac5.1; then
  missing+=(luac5.1)
  packages+=(lua5.1)
fi
if ! runs luacheck; then
  missing+=(luacheck)
  packages+=(lua-check lua-argparse lua-filesystem lua5.1 libreadline8)
fi
[ ${#missing[@]} -gt 0 ] || exit 0

give_up() {
  echo "tools: $1, so not run: ${missing[*]}"
  exit 0
}
command -v apt-get >/dev/null && command -v dpkg >/dev/null || give_up "no apt here"

cache=$PWD/.cache/apt
mkdir -p "$cache/state/lists/partial" "$cache/archives/partial" "$cache/debs" "$tools/debian" "$tools/bin"
limited() { timeout --kill-after=5 "$@"; }
fetch() (
  cd "$cache/debs" && limited 90 apt-get -qq -o APT::Sandbox::User=root -o Acquire::Retries=1 \
    -o Acquire::http::Timeout=10 -o Acquire::https::Timeout=10 "$@" >"$cache/log" 2>&1
)
own=(-o Dir::State="$cache/state" -o Dir::State::status=/var/lib/dpkg/status -o Dir::Cache="$cache")
echo "tools: getting ${missing[*]} with apt into .tools/"
# The system's package lists do if they are there and fresh; else we get lists of our own. Sources
# beside Debian's may be out of reach, so whether the download works decides, not the update.
fetch -o Dir::Cache="$cache" download "${packages[@]}" || {
  fetch "${own[@]}" update
  fetch "${own[@]}" download "${packages[@]}"
} || give_up "apt cannot download ($(grep -m1 -E '^(E|W):' "$cache/log" || echo 'out of time'))"
for deb in "$cache/debs"/*.deb; do
  dpkg -x "$deb" "$tools/debian" || give_up "dpkg cannot unpack"
done

# Wrappers, because the libraries are not where the loader looks; exec keeps the pid of the caller.
wrap() {
  printf '#!/bin/sh\nhere=$(cd "$(dirname "$0")/.." && pwd)\nr=$here/debian/usr\n%s\n' "$2" >"$tools/bin/$1"
  chmod +x "$tools/bin/$1"
}
libraries='export LD_LIBRARY_PATH="$(echo "$r"/lib/*-linux-*):$(echo "$here"/debian/lib/*-linux-*)"
export LUA_PATH="$r/share/lua/5.1/?.lua;$r/share/lua/5.1/?/init.lua;;"
export LUA_CPATH="$(echo "$r"/lib/*-linux-*/lua/5.1)/?.so;;"
exec'
for name in "${missing[@]}"; do
  case $name in
    "Redis 7")
      ln -sf redis-check-rdb "$tools/debian/usr/bin/redis-server" # what its package would do
      wrap redis-server "$libraries \"\$r/bin/redis-server\" \"\$@\""
      wrap redis-cli "$libraries \"\$r/bin/redis-cli\" \"\$@\""
      ;;
    luac5.1) wrap luac5.1 "$libraries \"\$r/bin/luac5.1\" \"\$@\"" ;;
    luacheck) wrap luacheck "$libraries \"\$r/bin/lua5.1\" \"\$r/bin/luacheck\" \"\$@\"" ;;
  esac
done
rm -rf "$cache"
for tool in redis-server luac5.1 luacheck; do
  [ ! -e "$tools/bin/$tool" ] || "$tools/bin/$tool" -v >/dev/null 2>&1 || {
    rm -f "$tools/bin/$tool"
    echo "tools: Debian's $tool does not run here, so it is not used"
  }
done
exit 0
