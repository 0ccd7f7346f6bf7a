"""Signing keys while the control plane runs: rotated, delegated, handed out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sidecar.control import keeping as module
from sidecar.control.applications import Application
from sidecar.control.catalogue import Catalogue
from sidecar.control.keeping import Keeping
from sidecar.control.publish import Publisher
from sidecar.control.releases import By
from sidecar.control.store import Store
from sidecar.errors import Misuse, StoreFailed
from sidecar.facts.signing import TrustedKeys, load_public_keys, public_key_pem, raw_public_key
from tests.publishing import KEY, policy

BY = By("admin")
PEM = public_key_pem(raw_public_key(KEY))


@dataclass
class Desk:
    folder: Path
    store: Store
    catalogue: Catalogue = field(default_factory=Catalogue)
    told: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.publisher = Publisher(self.store, self.catalogue, lambda _: [], lambda _: None)
        self.keeping = Keeping(self.store, self.publisher, self.told.append)

    @property
    def file(self) -> Path:
        return self.folder / "store.db.trust.pem"


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    store = await Store.open(f"sqlite:///{tmp_path / 'store.db'}")
    made = Desk(tmp_path, store)
    await made.publisher.refresh()
    yield made
    await store.close()


async def test_a_new_key_signs_what_is_in_force_and_the_old_one_vouches_for_it(desk: Desk) -> None:
    await desk.publisher.apply(Application([policy().canonical]))
    old = TrustedKeys(frozenset(desk.store.public_keys))
    await desk.keeping.rotate(BY)
    await desk.publisher.apply(Application([policy(path="/2").canonical]))
    newest = desk.catalogue.newest("default")
    assert newest is not None
    assert len(desk.keeping.keys.public) == 2
    assert newest.signed.signatures[0].public_key == desk.keeping.keys.public[1]
    old.verify_release(
        newest.signed.manifest, newest.signed.signatures, desk.catalogue.endorsements
    )


async def test_what_is_handed_out_is_heard_of_when_it_is_another(desk: Desk) -> None:
    desk.keeping.hand_out()
    desk.keeping.hand_out()
    assert len(desk.told) == 1
    assert desk.file.read_text() == desk.told[0]
    await desk.keeping.rotate(BY)
    assert len(load_public_keys(desk.told[-1].encode())) == 2
    # While the store's own key signs, the others' are vouched for by it.
    await desk.keeping.delegate(PEM, "ci", BY)
    assert len(desk.told) == 2
    desk.store.signs = False
    desk.keeping.hand_out()
    assert load_public_keys(desk.file.read_bytes()) == {raw_public_key(KEY)}


async def test_without_any_signer_yet_the_own_key_is_handed_out(desk: Desk) -> None:
    """So that sidecars that start meanwhile trust something; no release of theirs is made by it."""
    desk.store.signs = False
    assert load_public_keys(desk.keeping.pem) == set(desk.store.public_keys)


async def test_a_file_that_cannot_be_written_stops_nothing(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    desk.file.mkdir()
    desk.keeping.hand_out()
    assert "cannot write" in caplog.text
    assert len(desk.told) == 1


@pytest.mark.parametrize(
    ("pem", "name", "says"),
    [
        (PEM, "", "name: 1 to 253"),
        (PEM, "x" * 254, "name: 1 to 253"),
        (PEM, "a\x1bb", "printable"),
        (b"", "ci", "PUBLIC KEY"),
        (b"-----BEGIN PUBLIC KEY-----\nAA\n-----END PUBLIC KEY-----\n", "ci", "not readable"),
        (PEM + public_key_pem(b"\1" * 32), "ci", "one key is expected"),
    ],
)
async def test_what_is_no_key_or_has_no_name(desk: Desk, pem: bytes, name: str, says: str) -> None:
    with pytest.raises(Misuse, match=says):
        await desk.keeping.delegate(pem, name, BY)
    assert desk.keeping.keys.delegated == ()


async def test_one_key_is_delegated_once_and_never_the_own(desk: Desk) -> None:
    with pytest.raises(Misuse, match="the control plane's own"):
        await desk.keeping.delegate(public_key_pem(desk.store.public_keys[0]), "me", BY)
    await desk.keeping.delegate(PEM, "ci", BY)
    with pytest.raises(StoreFailed, match="already"):
        await desk.keeping.delegate(PEM, "other", BY)
    assert [each.name for each in desk.keeping.keys.delegated] == ["ci"]


async def test_there_are_no_more_keys_than_sidecars_follow(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_KEYS", 3)
    await desk.keeping.rotate(BY)
    await desk.keeping.delegate(PEM, "ci", BY)
    other = public_key_pem(raw_public_key(Ed25519PrivateKey.generate()))
    with pytest.raises(Misuse, match="3 keys, the most"):
        await desk.keeping.delegate(other, "other", BY)
    with pytest.raises(Misuse, match="3 keys, the most"):
        await desk.keeping.rotate(BY)
