"""The state directory: what survives a crash, a torn file, another process."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from sidecar.decide.documents import Document
from sidecar.errors import StateUnusable
from sidecar.facts.releases import Assignment, verify_assignment
from sidecar.facts.signing import TrustedKeys, raw_public_key
from sidecar.facts.state import Saved, StateDirectory, default_state_dir
from tests.publishing import KEY, policy, release

TRUST = TrustedKeys(frozenset([raw_public_key(KEY)]))


def assignment(version: int, *documents: Document, floor: int = 0) -> Assignment:
    return verify_assignment(
        [
            release(documents, version=version, floor=floor),
            release(namespace="platform", version=0),
        ],
        documents,
        namespace="default",
        labels={"app": "a"},
        trust=TrustedKeys(first_use=True),
        floors={},
    )


def load(state: StateDirectory, generation: str = "release") -> Saved | None:
    return state.load(generation, namespace="default", labels={"app": "a"}, trust=TRUST)


@pytest.fixture
def state(tmp_path: Path) -> StateDirectory:
    return StateDirectory.open(tmp_path / "state")


@pytest.fixture(autouse=True)
def _closed(state: StateDirectory) -> object:
    yield
    state.close()


def test_a_release_is_read_back_with_the_one_before_it(state: StateDirectory) -> None:
    assert load(state) is None
    state.save(assignment(1, policy(path="/1")), 100.0)
    state.save(assignment(2, policy(path="/2"), policy("q")), 200.0)
    newest, before = load(state), load(state, "release.1")
    assert newest is not None
    assert before is not None
    assert newest.saved == 200.0
    assert newest.assignment.versions["default"] == 2
    assert [d.name for d in newest.assignment.documents] == ["p", "q"]
    assert before.assignment.documents == (policy(path="/1"),)


def test_folder_and_files_are_private(state: StateDirectory) -> None:
    state.save(assignment(1), 1.0)
    state.sidecar_id()
    assert stat.S_IMODE(state.path.stat().st_mode) == 0o700
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in state.path.iterdir()}
    assert modes == {"lock": 0o600, "id": 0o600, "release": 0o600, "memory": 0o600}


def test_two_processes_never_share_a_folder(state: StateDirectory) -> None:
    with pytest.raises(StateUnusable, match="in use by another process"):
        StateDirectory.open(state.path)
    state.close()
    StateDirectory.open(state.path).close()


def test_the_id_stays(state: StateDirectory) -> None:
    first = state.sidecar_id()
    assert len(first) == 32
    assert state.sidecar_id() == first
    (state.path / "id").write_bytes(b"torn")
    assert state.sidecar_id() != first


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "garbage", "no header"])
def test_a_damaged_file_is_noticed_and_the_one_before_it_serves(
    state: StateDirectory, damage: str
) -> None:
    state.save(assignment(1, policy()), 1.0)
    state.save(assignment(2, policy()), 2.0)
    path = state.path / "release"
    data = path.read_bytes()
    middle = len(data) // 2
    path.write_bytes(
        {
            "cut": data[:middle],
            "empty": b"",
            "flipped": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
            "garbage": os.urandom(1000),
            "no header": data.partition(b"\n")[2],
        }[damage]
    )
    with pytest.raises(StateUnusable, match="release: damaged"):
        load(state)
    before = load(state, "release.1")
    assert before is not None
    assert before.assignment.versions["default"] == 1


def test_a_release_edited_on_disk_is_refused_even_with_a_right_checksum(
    state: StateDirectory,
) -> None:
    edited = assignment(1, policy(path="/1"))
    state.save(edited, 1.0)
    body = state._read("release")
    body["documents"] = [policy(path="/2").canonical.decode()]
    state._write("release", body)
    with pytest.raises(StateUnusable, match="altered"):
        load(state)


def test_a_release_of_another_key_or_other_labels_is_refused(state: StateDirectory) -> None:
    state.save(assignment(1, policy(selector={"app": "a"})), 1.0)
    with pytest.raises(StateUnusable, match="trusted keys"):
        state.load("release", namespace="default", labels={"app": "a"}, trust=TrustedKeys())
    with pytest.raises(StateUnusable, match="not part"):
        state.load("release", namespace="default", labels={}, trust=TRUST)
    with pytest.raises(StateUnusable, match="manifests"):
        state.load("release", namespace="other", labels={"app": "a"}, trust=TRUST)


def test_floors_and_pinned_keys_survive_any_one_damaged_file(state: StateDirectory) -> None:
    state.save(assignment(5, floor=4), 1.0)
    for name in ("memory", "release"):
        whole = (state.path / name).read_bytes()
        (state.path / name).write_bytes(whole[:-1])
        memory = state.memory()
        assert memory.floors["default"] == 4
        assert memory.pinned == {raw_public_key(KEY)}
        (state.path / name).write_bytes(whole)


def test_the_older_release_is_not_enforced_below_the_floor(state: StateDirectory) -> None:
    state.save(assignment(1), 1.0)
    state.save(assignment(5, floor=4), 2.0)
    (state.path / "release").write_bytes(b"torn")
    with pytest.raises(StateUnusable, match="below the floor"):
        load(state, "release.1")


def test_when_nothing_can_be_read_nothing_is_forgotten_in_silence(state: StateDirectory) -> None:
    assert not state.memory().pinned
    state.save(assignment(1), 1.0)
    for name in ("memory", "release"):
        (state.path / name).write_bytes(b"torn")
    with pytest.raises(StateUnusable, match="remove the folder"):
        state.memory()


def test_a_crash_before_the_rename_leaves_the_old_release(
    state: StateDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    state.save(assignment(1), 1.0)

    def crash(_self: Path, _target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", crash)
    with pytest.raises(StateUnusable, match="No space left"):
        state.save(assignment(2), 2.0)
    monkeypatch.undo()
    kept = load(state)
    assert kept is not None
    assert kept.assignment.versions["default"] == 1
    state.save(assignment(3), 3.0)  # what the crash left behind is not in the way
    kept = load(state)
    assert kept is not None
    assert kept.assignment.versions["default"] == 3


def test_a_folder_that_cannot_be_made_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StateUnusable, match="--state"):
        StateDirectory.open(tmp_path / "file" / "state")


def test_two_sidecars_never_share_a_default_folder(tmp_path: Path) -> None:
    folders = {
        default_state_dir(tmp_path, *identity)
        for identity in (
            ("127.0.0.1:7443", "default", {}),
            ("127.0.0.1:7444", "default", {}),
            ("127.0.0.1:7443", "payments", {}),
            ("127.0.0.1:7443", "default", {"app": "a"}),
            ("127.0.0.1:7443", "default", {"app": "b"}),
            ("127.0.0.1:7443", "default", {"app": "a", "b": "c"}),
        )
    }
    assert len(folders) == 6
    assert all(folder.parent == tmp_path / "sidecar" for folder in folders)
    one = default_state_dir(tmp_path, "[::1]:1", "default", {"a": "1", "b": "2"})
    assert one == default_state_dir(tmp_path, "[::1]:1", "default", {"b": "2", "a": "1"})
    long = default_state_dir(tmp_path, "host." * 60 + ":1", "n" * 253, {"../x": "/"})
    assert len(long.name) < 128
    assert long.parent == tmp_path / "sidecar"
