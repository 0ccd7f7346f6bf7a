#!/bin/sh
# Installs the Autobahn test suite below the folder $1, for the Python 2.7 that is found; its path is
# left in $1/python. Name another one with PYTHON2=/path/to/python2.7.
set -eu
into="$1"
found=""
for python in ${PYTHON2:+"$PYTHON2"} python2.7 python2 \
  "$(pyenv root 2>/dev/null || echo "$HOME/.pyenv")"/versions/2.7*/bin/python2.7; do
  if "$python" -c 'import sys; sys.exit(sys.version_info[:2] != (2, 7))' >/dev/null 2>&1; then
    found="$("$python" -c 'import sys; print(sys.executable)')"
    break
  fi
done
if [ -z "$found" ]; then
  echo "the Autobahn test suite needs Python 2.7, which is not on PATH nor among pyenv's versions;"
  echo "install one (pyenv install 2.7.18) or name it with make autobahn PYTHON2=/path/to/python2.7"
  exit 1
fi
if ! "$found" -m pip --version >/dev/null 2>&1; then
  echo "$found has no pip; $found -m ensurepip brings it"
  exit 1
fi
rm -rf "$into"
"$found" -m pip install --quiet --disable-pip-version-check --no-compile --target "$into/packages" \
  --requirement "$(dirname "$0")/requirements.txt" 2>"$into.log" \
  || { cat "$into.log"; exit 1; }
# With it, which is built from source, the compression cases take a third of the time.
"$found" -m pip install --quiet --disable-pip-version-check --no-compile --no-deps \
  --target "$into/packages" wsaccel==0.6.2 >>"$into.log" 2>&1 \
  || echo "wsaccel cannot be built here: the suite will take longer"
printf '%s\n' "$found" > "$into/python"
