"""Memory and turns that processes share."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sidecar.errors import Misuse
from sidecar.plane.shared import KEY, RATES, Shared, SharedTable, Turn, nonce_key
from tests.test_config import settings


def test_two_attached_see_the_same_memory() -> None:
    shared = Shared()
    one, two = (SharedTable.attach(os.dup(shared.rates), shared.key) for _ in range(2))
    assert len(one.memory) == RATES
    assert one.memory[:16] == bytes(16)
    one.memory[0:4] = b"seen"
    assert two.memory[0:4] == b"seen"
    assert (len(one.key), one.key) == (KEY, shared.key)
    assert Shared().key != shared.key
    shared.close()


WRITER = """
import os, sys
from sidecar.plane.shared import Turn
turn = Turn(int(sys.argv[1]))
for _ in range(100):
    with turn:
        for _ in range(4):  # as a pipe takes a long line, in pieces
            os.write(1, sys.argv[2].encode() * 2000)
        os.write(1, b"\\n")
"""


def test_long_lines_of_several_processes_stay_whole() -> None:
    shared = Shared()
    read, write = os.pipe()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(shared.turn), name],
            stdout=write, pass_fds=(shared.turn,),
        )
        for name in "abc"
    ]  # fmt: skip
    os.close(write)
    with open(read, "rb") as file:
        lines = file.read().splitlines()
    assert [process.wait(timeout=30) for process in processes] == [0, 0, 0]
    assert sorted(lines) == sorted(name.encode() * 8000 for name in "abc" for _ in range(100))
    shared.close()


def test_a_turn_ends_with_its_process() -> None:
    shared = Shared()
    code = "import os, sys; from sidecar.plane.shared import Turn; Turn(int(sys.argv[1])).__enter__(); os.kill(os.getpid(), 9)"
    subprocess.run(
        [sys.executable, "-c", code, str(shared.turn)], pass_fds=(shared.turn,), check=False
    )
    with Turn(shared.turn):
        pass
    shared.close()


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
