"""Documents from files: adopted whole or not at all."""

from __future__ import annotations

import os
from base64 import urlsafe_b64encode
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sidecar.decide.compile_policy import compile_policy
from sidecar.decide.documents import Document
from sidecar.errors import DocumentsInvalid
from sidecar.facts.policies import FilePolicies

POLICY = """
apiVersion: authz.sidecar/v1
kind: AccessPolicy
metadata: {name: p, namespace: NS}
spec: {rules: [{name: a}]}
"""


class Adopted:
    def __init__(self) -> None:
        self.seen: list[list[str]] = []

    async def __call__(self, documents: Sequence[Document]) -> None:
        self.seen.append([document.ref for document in documents])


async def at_once(_seconds: float) -> None:
    pass


def policies(
    folder: Path, adopt: Adopted, sleep: Callable[[float], Awaitable[None]] = at_once
) -> FilePolicies:
    return FilePolicies(folder, "default", adopt, sleep=sleep)


async def test_a_change_is_adopted_and_a_mistake_is_not(tmp_path: Path) -> None:
    adopted = Adopted()
    (tmp_path / "a.yaml").write_text(POLICY.replace("NS", "default"))
    found = policies(tmp_path, adopted)
    await found.start()
    await found.reload(only_if_changed=True)
    assert adopted.seen == [["AccessPolicy/default/p"]]
    (tmp_path / "b.yaml").write_text(POLICY.replace("NS", "platform"))
    await found.reload(only_if_changed=True)
    assert adopted.seen[1:] == [["AccessPolicy/default/p", "AccessPolicy/platform/p"]]
    (tmp_path / "b.yaml").write_text("a: [")
    await found.reload(only_if_changed=True)
    assert len(adopted.seen) == 2
    assert f"{tmp_path}/b.yaml:2:1" in found.error
    assert (found.reloads, found.rejected) == (1, 1)
    await found.reload(only_if_changed=True)
    assert found.rejected == 1, "said once"
    (tmp_path / "b.yaml").unlink()
    await found.reload(only_if_changed=True)
    assert found.error == ""
    assert adopted.seen[2] == ["AccessPolicy/default/p"]


async def test_removing_everything_keeps_what_is_in_force(tmp_path: Path) -> None:
    adopted = Adopted()
    (tmp_path / "a.yaml").write_text(POLICY.replace("NS", "default"))
    found = policies(tmp_path, adopted)
    await found.start()
    (tmp_path / "a.yaml").unlink()
    await found.reload(only_if_changed=True)
    assert len(adopted.seen) == 1
    assert "no documents for namespace default: there are none" in found.error


async def test_nothing_for_this_namespace_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(POLICY.replace("NS", "other"))
    with pytest.raises(DocumentsInvalid, match="they are in other"):
        await policies(tmp_path, Adopted()).start()


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        POLICY.replace("{name: p", "{name: [").replace("NS", "default"),
        "apiVersion: authz.sidecar/v1\nkind: TokenIssuer\nmetadata: {name: i}\n"
        'spec: {issuer: "https://i.example", jwks: {file: "a\\0b"}}\n',
        "apiVersion: authz.sidecar/v1\nkind: TokenIssuer\nmetadata: {name: i}\n"
        "spec: {issuer: 'https://i.example', clockSkew: 99999999999999s}\n",
    ],
)
async def test_whatever_a_file_holds_what_is_in_force_stays(tmp_path: Path, text: str) -> None:
    adopted = Adopted()
    (tmp_path / "a.yaml").write_text(POLICY.replace("NS", "default"))
    found = policies(tmp_path, adopted)
    await found.start()
    (tmp_path / "b.yaml").write_text(text)
    await found.reload(only_if_changed=True)
    await found.reload(only_if_changed=True)
    assert (found.reloads, found.rejected, len(adopted.seen)) == (0, 1, 1)
    assert f"{tmp_path}/b.yaml" in found.error
    (tmp_path / "b.yaml").unlink()
    await found.reload(only_if_changed=True)
    assert (found.error, found.reloads) == ("", 1)


async def test_a_bug_of_ours_does_not_end_the_watching(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    adopted = Adopted()
    (tmp_path / "a.yaml").write_text(POLICY.replace("NS", "default"))
    found = policies(tmp_path, adopted)
    await found.start()

    def fails(_self: FilePolicies) -> None:
        raise RuntimeError("a bug")

    with monkeypatch.context() as patched:
        patched.setattr(FilePolicies, "_read", fails)
        (tmp_path / "b.yaml").write_text(POLICY.replace("NS", "platform"))
        await found.reload(only_if_changed=True)
    assert found.error == "internal error: RuntimeError: a bug"
    assert "a bug" in caplog.text
    assert found.rejected == 1
    await found.reload()
    assert (found.error, len(adopted.seen)) == ("", 2)


async def test_a_pipe_among_the_files_is_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    adopted = Adopted()
    (tmp_path / "a.yaml").write_text(POLICY.replace("NS", "default"))
    os.mkfifo(tmp_path / "x.yaml")
    found = policies(tmp_path, adopted)
    await found.start()
    assert adopted.seen == [["AccessPolicy/default/p"]]
    assert "x.yaml:1:1: warning: neither a file nor a folder" in caplog.text


async def test_a_file_that_becomes_empty_removes_nothing(tmp_path: Path) -> None:
    adopted = Adopted()
    (tmp_path / "a.yaml").write_text(POLICY.replace("NS", "default"))
    (tmp_path / "b.yaml").write_text(POLICY.replace("NS", "platform"))
    (tmp_path / "c.yaml").write_text("# nothing yet\n")
    found = policies(tmp_path, adopted)
    await found.start()
    (tmp_path / "b.yaml").write_text("")
    await found.reload(only_if_changed=True)
    assert f"{tmp_path}/b.yaml:1:1: error: holds no documents any more" in found.error
    assert "remove the file" in found.error
    await found.reload()
    assert "holds no documents any more" in found.error, "asked again"
    assert len(adopted.seen) == 1
    (tmp_path / "b.yaml").unlink()
    await found.reload(only_if_changed=True)
    assert adopted.seen[1:] == [["AccessPolicy/default/p"]]


async def test_a_file_is_not_read_while_it_is_written(tmp_path: Path) -> None:
    adopted = Adopted()
    file = tmp_path / "a.yaml"
    whole = POLICY.replace("NS", "default")
    file.write_text(whole)
    rest = [f"---{POLICY.replace('NS', 'platform')}", "", ""]

    async def write_on(_seconds: float) -> None:
        with file.open("a") as written:
            written.write(rest.pop(0) if rest else "")

    found = policies(tmp_path, adopted, write_on)
    await found.start()
    file.write_text(f"{whole}\n")
    await found.reload(only_if_changed=True)
    assert adopted.seen[1:] == [["AccessPolicy/default/p", "AccessPolicy/platform/p"]]


async def test_files_that_never_rest_are_not_read_and_said(tmp_path: Path) -> None:
    adopted = Adopted()
    file = tmp_path / "a.yaml"
    file.write_text(POLICY.replace("NS", "default"))

    async def write_on(_seconds: float) -> None:
        with file.open("a") as written:
            written.write("\n")

    found = policies(tmp_path, adopted, write_on)
    await found.start()
    await write_on(0)
    await found.reload(only_if_changed=True)
    assert "change all the time" in found.error
    assert len(adopted.seen) == 1


async def test_what_a_changed_file_says_as_before_stays_compiled(tmp_path: Path) -> None:
    compiled: list[dict[str, object]] = []

    async def adopt(documents: Sequence[Document]) -> None:
        compiled.append(
            {d.name: compile_policy(d, [])[0].rule for d in documents if d.kind == "AccessPolicy"}
        )

    file = tmp_path / "a.yaml"
    policy = POLICY.replace("NS", "default")
    other = policy.replace("name: p", "name: q")
    found = FilePolicies(tmp_path, "default", adopt, sleep=at_once)
    file.write_text(f"{policy}---{other}")
    await found.start()
    file.write_text(f"# moved\n{policy}---{other.replace('name: a', 'name: b')}")
    await found.reload(only_if_changed=True)
    first, second = compiled
    assert second["p"] is first["p"]
    assert second["q"] is not first["q"]


async def test_what_is_said_of_a_document_names_its_new_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "a.yaml"
    policy = POLICY.replace("NS", "default").replace(
        "[{name: a}]", "[{name: a, require: {segments: [nobody]}}]"
    )
    found = policies(tmp_path, Adopted())
    file.write_text(policy)
    await found.start()
    caplog.clear()
    file.write_text(f"# moved\n{policy}")
    await found.reload(only_if_changed=True)
    assert found.error == ""
    assert f"{file}:6:" in caplog.text


async def test_keys_that_change_while_they_are_adopted_are_read_again(tmp_path: Path) -> None:
    """Also where nobody watched them before, since the documents were broken."""
    key = Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key().public_bytes_raw()
    x = urlsafe_b64encode(key).rstrip(b"=").decode()
    jwks = '{"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "k", "x": "' + x + '"}]}'
    keys = tmp_path / "keys.jwks"
    keys.write_text(jwks)

    class Changing(Adopted):
        async def __call__(self, documents: Sequence[Document]) -> None:
            await super().__call__(documents)
            if len(self.seen) == 2:
                keys.write_text(jwks + " ")

    adopted = Changing()
    issuer = (
        "apiVersion: authz.sidecar/v1\nkind: TokenIssuer\nmetadata: {name: i}\n"
        "spec: {issuer: https://idp.example, audiences: [a], jwks: {file: keys.jwks}}\n---"
    )
    text = issuer + POLICY.replace("NS", "default")
    (tmp_path / "a.yaml").write_text(text)
    found = policies(tmp_path, adopted)
    await found.start()
    (tmp_path / "a.yaml").write_text("a: [")
    await found.reload(only_if_changed=True)
    (tmp_path / "a.yaml").write_text(text)
    await found.reload(only_if_changed=True)
    assert len(adopted.seen) == 2
    await found.reload(only_if_changed=True)
    assert len(adopted.seen) == 3
    await found.reload(only_if_changed=True)
    assert len(adopted.seen) == 3
