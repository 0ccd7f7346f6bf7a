from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from sidecar.edge import certificates
from sidecar.edge.certificates import ClientFiles, ServerFiles, digest, load
from sidecar.errors import TlsFilesUnusable
from tests.certificates import Authority


@pytest.fixture
def authority() -> Authority:
    return Authority()


def test_a_server_context(authority: Authority, tmp_path: Path) -> None:
    loaded = load(ServerFiles(*authority.issue().write(tmp_path, "a"), authority.write(tmp_path)))
    context = loaded.context
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.num_tickets == 0
    names = {cipher["name"] for cipher in context.get_ciphers()}
    assert all(name.startswith(("TLS_", "ECDHE-")) for name in names)
    assert not any("CBC" in name or name.endswith("-SHA") for name in names)
    assert loaded.expiry > 0


def test_a_client_context(authority: Authority, tmp_path: Path) -> None:
    context = load(ClientFiles(authority.write(tmp_path))).context
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert len(context.get_ca_certs()) == 1
    assert load(ClientFiles(verify=False)).context.verify_mode is ssl.CERT_NONE


def test_comments_in_any_script_and_several_cas(authority: Authority, tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_bytes("# Autorité\n".encode() + authority.pem + b"\n#\n" + Authority("two").pem)
    assert len(load(ClientFiles(ca)).context.get_ca_certs()) == 2


def test_a_cut_ca_is_not_half_a_ca(authority: Authority, tmp_path: Path) -> None:
    ca = authority.write(tmp_path)
    ca.write_bytes(authority.pem + Authority("two").pem[:-40])
    with pytest.raises(TlsFilesUnusable, match="cut short or damaged"):
        load(ClientFiles(ca))


def test_an_encrypted_key_asks_nobody(authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.issue().write(tmp_path, "a")
    private = serialization.load_pem_private_key(key.read_bytes(), None)
    key.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(TlsFilesUnusable, match="is encrypted"):
        load(ServerFiles(certificate, key))


def test_large_and_missing_files(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = ServerFiles(*authority.issue().write(tmp_path, "a"))
    monkeypatch.setattr(certificates, "MAX_FILE", 10)
    with pytest.raises(TlsFilesUnusable, match="is larger than"):
        load(files)
    monkeypatch.undo()
    there = digest(files)
    files.key.unlink()
    assert digest(files) not in ("", there)
    with pytest.raises(TlsFilesUnusable, match=r"a\.key cannot be read: No such file"):
        load(files)


def test_what_changes_while_it_is_read_is_not_used(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = ServerFiles(*authority.issue().write(tmp_path, "a"))
    seen = iter(["one", "two"])
    monkeypatch.setattr(certificates, "digest", lambda _: next(seen))
    with pytest.raises(TlsFilesUnusable, match="change while they are read"):
        load(files)
