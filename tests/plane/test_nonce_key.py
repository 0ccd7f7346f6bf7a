"""What the traffic side is built with."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidecar.errors import Misuse
from tests.test_config import settings


def test_nonces_are_of_one_key_where_they_must_be(tmp_path: Path) -> None:
    base = ["--policies", str(tmp_path), "--upstream", "http://h:1"]
    alone = settings(base)
    assert nonce_key(alone, b"") != nonce_key(alone, b""), "of each start"
    assert nonce_key(alone, b"k" * 16) == nonce_key(alone, b"k" * 16) != b"k" * 16, "of workers"
    (tmp_path / "key").write_bytes(b"x" * 32)
    replica = settings([*base, "--dpop-nonce-key", str(tmp_path / "key")])
    assert nonce_key(replica, b"a" * 16) == nonce_key(replica, b"b" * 16), "of replicas"
    (tmp_path / "key").write_bytes(b"x" * 31)
    with pytest.raises(Misuse, match=r"--dpop-nonce-key: .* holds less than 32 bytes"):
        nonce_key(replica, b"")
