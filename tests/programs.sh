#!/bin/sh
# Programs that some tests need beyond PyPI, and those named as arguments: installed where that is
# possible (root on Debian); elsewhere what needs them says so and is left out, except in CI, where
# nothing may be skipped.
set -eu
PATH="$PATH:/usr/sbin"
wanted=""
for program in nginx curl node openssl wrk ip iptables promtool chromium chromedriver "$@"; do
  command -v "$program" >/dev/null 2>&1 && continue
  case "$program" in nginx) wanted="$wanted nginx-light" ;; node) wanted="$wanted nodejs" ;; promtool) wanted="$wanted prometheus" ;; chromedriver) wanted="$wanted chromium-driver" ;; strip) wanted="$wanted binutils" ;; setpriv|unshare) wanted="$wanted util-linux" ;; ip) wanted="$wanted iproute2" ;; *) wanted="$wanted $program" ;; esac
done
[ -n "$wanted" ] || exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq && apt-get install -y -qq --no-install-recommends $wanted >/dev/null && exit 0
fi
echo "not installed here, so what needs them is left out:$wanted"
[ -z "${CI:-}" ] || { echo "with CI set nothing may be skipped"; exit 1; }
