#!/bin/sh
# Programs that some tests need beyond PyPI: installed where that is possible (root on Debian);
# elsewhere those tests skip with a line that says so, except in CI, where nothing may be skipped.
set -eu
wanted=""
command -v nginx >/dev/null 2>&1 || [ -x /usr/sbin/nginx ] || wanted="$wanted nginx-light"
command -v curl >/dev/null 2>&1 || wanted="$wanted curl"
command -v openssl >/dev/null 2>&1 || wanted="$wanted openssl"
command -v wrk >/dev/null 2>&1 || wanted="$wanted wrk"
[ -n "$wanted" ] || exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq && apt-get install -y -qq --no-install-recommends $wanted >/dev/null && exit 0
fi
echo "not installed here, so the tests that need them are skipped:$wanted"
[ -z "${CI:-}" ] || { echo "with CI set nothing may be skipped"; exit 1; }
