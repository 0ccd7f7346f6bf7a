#!/bin/sh
# Generates the Python messages, services and type stubs of proto/sidecar/v1 into a directory.
#
#     proto/generate.sh sidecar/wire      # what `make proto` does; the result is committed
#
# PYTHON names the interpreter that has grpcio-tools and mypy-protobuf (default: python).
set -eu

out=${1:?usage: proto/generate.sh OUTPUT_DIRECTORY}
here=$(dirname "$0")
python=$(command -v "${PYTHON:-python}")
# protoc looks for its plugins on the PATH; those of mypy-protobuf live beside the interpreter.
PATH=$(dirname "$python"):$PATH
export PATH

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

"$python" -m grpc_tools.protoc --proto_path="$here" \
    --python_out="$scratch" --grpc_python_out="$scratch" \
    --mypy_out="$scratch" --mypy_grpc_out="$scratch" \
    --include_source_info --descriptor_set_out="$scratch/described" \
    sidecar/v1/subject.proto sidecar/v1/discovery.proto sidecar/v1/admin.proto

# The protobuf package is sidecar.v1, the Python package is sidecar.wire: only imports differ.
for file in "$scratch"/sidecar/v1/*_pb2*.py*; do
    sed -e 's/^from sidecar\.v1 import /from sidecar.wire import /' \
        -e 's/^import sidecar\.v1\./import sidecar.wire./' "$file" >"$out/$(basename "$file")"
done

# What the API's OpenAPI document says of fields.
"$python" "$here/comments.py" "$scratch/described" >"$out/comments.json"
