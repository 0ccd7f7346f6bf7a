"""The state directory: what a sidecar must not forget when its process ends.

    lock                 held exclusively, so that two processes never write the same folder
    id                   the sidecar's stable id
    memory               highest floors seen and pinned keys
    release, release.1   the last-known-good release and the one before it
    revocations, revocations.1   what was withdrawn, and the same before it was rewritten

The folder is 0700, files are 0600. Each file starts with a checksum line, is written beside its
place, flushed to disk and renamed over it, so that a crash leaves the old or the new one. A release
that is read is verified again as if it came from the network. Floors and pinned keys are also kept
in each release file: no single damaged file loses them, and where several disagree the highest
floor counts. The file of revocations is appended to, a checksummed block for each push, and
rewritten when most of it has expired: what follows a block cut short does not count.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson

from sidecar.decide.parse import from_canonical
from sidecar.errors import DocumentsInvalid, ReleaseRefused, StateUnusable
from sidecar.facts.releases import Assignment, SignedManifest, verify_manifests
from sidecar.facts.signing import Endorsement, Signature, TrustedKeys

MAX_FILE: Final = 256 * 1024 * 1024  # bytes
_HEADER: Final = b"sidecar state 1 "

GENERATIONS: Final = ("release", "release.1")
"""Newest first."""
_REVOCATIONS: Final = ("revocations", "revocations.1")  # likewise
_log = logging.getLogger(__name__)


def default_state_dir(
    base: Path, control_plane: str, namespace: str, labels: Mapping[str, str]
) -> Path:
    """A folder that only a sidecar of this control plane, namespace and labels uses.

    `base` is the user's state directory (XDG_STATE_HOME, else ~/.local/state).
    """
    identity = orjson.dumps([control_plane, namespace, dict(labels)], option=orjson.OPT_SORT_KEYS)
    readable = re.sub(r"[^A-Za-z0-9.-]+", "_", f"{control_plane}-{namespace}")[:80]
    return base / "sidecar" / f"{readable}-{hashlib.sha256(identity).hexdigest()[:16]}"


@dataclass(frozen=True, slots=True)
class Memory:
    """Raw public keys pinned at first use, and the highest floor seen per namespace."""

    pinned: frozenset[bytes] = frozenset()
    floors: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Saved:
    """A release as it was last saved. `saved` is Unix time in seconds."""

    assignment: Assignment
    saved: float


@dataclass(frozen=True, slots=True)
class SavedRevocations:
    """What was withdrawn, as far as it was saved, and how far in its log that is."""

    position: str
    packed: bytes
    saved: float


_BLOCK: Final = (
    b"revocations 1 "  # then size, SHA-256, moment and position; then what was withdrawn
)
_MOST_OF: Final = 2  # a file of more than so many times what is held is rewritten
_SMALL: Final = 64 * 1024  # bytes that are never worth a rewrite


class StateDirectory:
    """An opened, locked state directory. All methods block; call them off the event loop."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock
        self._memory: Mapping[str, Any] | None = None  # as last written by this process
        self._revocations = -1  # bytes in their file; -1: what is there is not of this process

    @classmethod
    def open(cls, path: Path) -> StateDirectory:
        """Creates the folder where needed and locks it. Raises StateUnusable."""
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = _open_lock(path / "lock")
        except OSError as error:
            raise StateUnusable(
                f"state directory {path}: {error.strerror}; name a writable one with --state"
            ) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            raise StateUnusable(
                f"state directory {path} is in use by another process; "
                "give each sidecar its own with --state"
            ) from None
        return cls(path, lock)

    def close(self) -> None:
        """Gives the lock back."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def sidecar_id(self) -> str:
        """The id that this folder's sidecar keeps over restarts, if its disk can be written to."""
        with contextlib.suppress(OSError, _Damaged):
            found = self._read("id").get("id")
            if isinstance(found, str) and re.fullmatch(r"[0-9a-f]{32}", found):
                return found
        fresh = os.urandom(16).hex()
        with contextlib.suppress(StateUnusable):
            self._write("id", {"id": fresh})
        return fresh

    def memory(self) -> Memory:
        """Floors and pinned keys. Raises StateUnusable if there were some and none can be read."""
        floors: dict[str, int] = {}
        pinned: frozenset[bytes] = frozenset()
        damaged: list[str] = []
        readable = False
        for name in ("memory", *GENERATIONS):
            try:
                found = _memory_of(self._read(name))
            except FileNotFoundError:
                continue
            except (OSError, _Damaged) as error:
                damaged.append(f"{name}: {error}")
                continue
            readable = True
            pinned = pinned or found.pinned
            for namespace, floor in found.floors.items():
                floors[namespace] = max(floor, floors.get(namespace, 0))
        if damaged and not readable:
            raise StateUnusable(
                f"state directory {self.path} cannot be read ({'; '.join(damaged)}), so which keys "
                "and releases were trusted is unknown. If its disk is fine, remove the folder; the "
                "sidecar then starts as if for the first time"
            )
        return Memory(pinned, floors)

    def load(
        self, generation: str, *, namespace: str, labels: Mapping[str, str], trust: TrustedKeys
    ) -> Saved | None:
        """A release as saved, one of GENERATIONS; None if there is none.

        Raises StateUnusable if it is damaged or does not verify: it must not be enforced.
        """
        try:
            body = self._read(generation)
            return _verified(body, namespace, labels, trust, self.memory().floors)
        except FileNotFoundError:
            return None
        except (OSError, _Damaged, ReleaseRefused, DocumentsInvalid) as error:
            raise StateUnusable(f"{self.path / generation}: {error}") from None

    def save(self, assignment: Assignment, now: float) -> None:
        """Makes a release the last-known-good, durably. Raises StateUnusable; the old one stays.

        The release goes first and the memory after it: with a raised floor and only the old
        release on disk, a crash in between would leave nothing that may be enforced.
        """
        memory = _memory_to(assignment)
        body = {**memory, **_release_to(assignment), "saved": now}
        self._write("release", body, keep="release.1")
        if memory != self._memory:  # each file costs two flushes, and floors seldom move
            self._write("memory", memory)
            self._memory = memory

    def add_revocations(
        self, position: str, packed: bytes, now: float, held: Callable[[], bytes], size: int
    ) -> None:
        """Keeps what was withdrawn since the last time, durably; `held` is all of it, in so many
        bytes. Raises StateUnusable; what was kept before stays."""
        path = self.path / _REVOCATIONS[0]
        block = _block(position, packed, now)
        try:
            if 0 <= self._revocations <= max(_SMALL, _MOST_OF * size):
                self._append(path, block)
                return
            everything = _block(position, held(), now)
            temporary = self._write_temporary(_REVOCATIONS[0], everything)
            self._keep(*_REVOCATIONS)
            temporary.replace(path)
            _sync_directory(self.path)
            self._revocations = len(everything)
        except OSError as error:
            self._revocations = -1  # half a block may be there: the next time all is written anew
            raise StateUnusable(
                f"cannot write {path}: {error.strerror}; a restart would not know all that was "
                "withdrawn"
            ) from None

    def _append(self, path: Path, block: bytes) -> None:
        with path.open("ab") as file:
            file.write(block)
            file.flush()
            os.fsync(file.fileno())
        self._revocations += len(block)

    def load_revocations(self) -> SavedRevocations | None:
        """All that can be read of the newest file that can be; None if there is none. What is
        damaged is logged, and the control plane sends it again."""
        for name in _REVOCATIONS:
            path = self.path / name
            try:
                with path.open("rb") as file:
                    data = file.read(MAX_FILE + 1)
            except FileNotFoundError:
                continue
            except OSError as error:
                _log.warning("%s is passed over: %s", path, error)
                continue
            found, read = _blocks(data)
            if read < len(data):
                _log.warning("%s is damaged or cut short after %d bytes", path, read)
            if found is not None:
                return found
        return None

    def _read(self, name: str) -> dict[str, Any]:
        path = self.path / name
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
        head, _, rest = data.partition(b"\n")
        if len(data) > MAX_FILE or head != _HEADER + hashlib.sha256(rest).hexdigest().encode():
            raise _Damaged("damaged or cut short")
        try:
            body = orjson.loads(rest)
        except ValueError:
            raise _Damaged("not JSON") from None
        if not isinstance(body, dict):
            raise _Damaged("not an object")
        return body

    def _write(self, name: str, body: Mapping[str, Any], keep: str = "") -> None:
        rest = orjson.dumps(body, option=orjson.OPT_SORT_KEYS)
        data = _HEADER + hashlib.sha256(rest).hexdigest().encode() + b"\n" + rest
        try:
            temporary = self._write_temporary(name, data)
            if keep:
                self._keep(name, keep)
            temporary.replace(self.path / name)
            _sync_directory(self.path)
        except OSError as error:
            raise StateUnusable(
                f"cannot write {self.path / name}: {error.strerror}; the last-known-good on disk "
                "is not the newest"
            ) from None

    def _write_temporary(self, name: str, data: bytes) -> Path:
        path = self.path / f"{name}.tmp"
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        return path

    def _keep(self, name: str, keep: str) -> None:
        """The file `name` also becomes `keep`, without being away for a moment."""
        link = self.path / f"{keep}.tmp"
        link.unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            os.link(self.path / name, link)
            link.replace(self.path / keep)


def _block(position: str, packed: bytes, now: float) -> bytes:
    rest = f"{now} {position}\n".encode() + packed
    digest = hashlib.sha256(rest).hexdigest()
    return _BLOCK + f"{len(rest)} {digest}\n".encode() + rest


def _blocks(data: bytes) -> tuple[SavedRevocations | None, int]:
    """All blocks as one, and the bytes up to the first that is not whole."""
    packed: list[bytes] = []
    position, saved, at = "", 0.0, 0
    while at < len(data):
        end = data.find(b"\n", at, at + 256)
        head = data[at:end].removeprefix(_BLOCK).split(b" ") if end > 0 else []
        if len(head) != 2 or not head[0].isdigit() or len(head[0]) > 9:
            break
        rest = data[end + 1 : end + 1 + int(head[0])]
        if len(rest) != int(head[0]) or hashlib.sha256(rest).hexdigest().encode() != head[1]:
            break
        line, _, body = rest.partition(b"\n")
        moment, _, position = line.decode("utf-8", "replace").partition(" ")
        saved = float(moment)
        packed.append(body)
        at = end + 1 + len(rest)
    return (SavedRevocations(position, b"".join(packed), saved) if packed else None), at


class _Damaged(Exception):
    """A file that is not as it was written."""


def _open_lock(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES):
            raise
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # a disk turned read-only still serves


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _memory_to(assignment: Assignment) -> dict[str, Any]:
    return {
        "floors": dict(assignment.floors),
        "pinned": sorted(key.hex() for key in assignment.trust.pinned),
    }


def _memory_of(body: Mapping[str, Any]) -> Memory:
    try:
        return Memory(
            frozenset(bytes.fromhex(key) for key in body["pinned"]),
            {str(namespace): int(floor) for namespace, floor in body["floors"].items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        raise _Damaged("of an unknown form") from None


def _release_to(assignment: Assignment) -> dict[str, Any]:
    return {
        "documents": [document.canonical.decode() for document in assignment.documents],
        "endorsements": [[_pack(part) for part in e] for e in assignment.endorsements],
        "manifests": [
            {
                "manifest": signed.manifest.decode(),
                "signatures": [[_pack(part) for part in s] for s in signed.signatures],
            }
            for signed in assignment.manifests.values()
        ],
    }


def _verified(
    body: Mapping[str, Any],
    namespace: str,
    labels: Mapping[str, str],
    trust: TrustedKeys,
    floors: Mapping[str, int],
) -> Saved:
    try:
        manifests = [
            SignedManifest(
                item["manifest"].encode(),
                tuple(Signature(_unpack(key), _unpack(sig)) for key, sig in item["signatures"]),
            )
            for item in body["manifests"]
        ]
        endorsements = tuple(
            Endorsement(_unpack(key), _unpack(by), _unpack(signature))
            for key, by, signature in body["endorsements"]
        )
        texts = [text.encode() for text in body["documents"]]
        saved = float(body["saved"])
    except (KeyError, TypeError, ValueError, AttributeError):
        raise _Damaged("of an unknown form") from None
    verified = verify_manifests(
        manifests,
        namespace=namespace,
        labels=labels,
        trust=trust,
        floors=floors,
        endorsements=endorsements,
    )
    digests = {entry.sha256 for m in verified.manifests.values() for entry in m.entries}
    if any(hashlib.sha256(text).hexdigest() not in digests for text in texts):
        raise ReleaseRefused("a document is not what any manifest says: it was altered")
    assignment = verified.assignment([from_canonical(text) for text in texts])
    return Saved(assignment, saved)


def _pack(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _unpack(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
