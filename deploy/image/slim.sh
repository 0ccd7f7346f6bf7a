#!/bin/sh
# Take out of an installed environment what never runs: symbols of extension modules, tests, sources
# of C code. `sh slim.sh PREFIX`; the image and `make image-check` both do.
set -eu
prefix="$1"
find "$prefix" -type f -name '*.so*' -exec strip --strip-unneeded {} +
find "$prefix" -type f \( -name '*.c' -o -name '*.h' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.pyi' \) -delete
find "$prefix"/lib/python3*/site-packages -mindepth 1 -maxdepth 2 -type d -name tests -prune -exec rm -rf {} +
