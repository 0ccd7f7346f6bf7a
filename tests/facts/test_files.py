"""Which files are read, and what is read into documents from beside them."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from threading import Thread

import orjson
import pytest

from sidecar.decide.documents import TokenIssuer
from sidecar.decide.keys import PRIVATE_MEMBERS
from sidecar.facts.files import load, read_sources

ISSUER = """apiVersion: authz.sidecar/v1
kind: TokenIssuer
metadata: {{name: corp}}
spec:
  issuer: https://idp.example
  jwks: {}
"""
SERVICE = (
    "apiVersion: authz.sidecar/v1\nkind: ProtectedService\nmetadata: {{name: {}}}\nspec: {{}}\n"
)
PUBLIC = {
    "kty": "OKP",
    "crv": "Ed25519",
    "kid": "k",
    "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPc",
}


def test_folders_are_read_recursively_and_each_file_once(tmp_path: Path) -> None:
    for name in ("b.yaml", "a.yml", "sub/c.json", "sub/x.txt", ".d.yaml", "..data/b.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(SERVICE.format(Path(name).stem.strip(".")))
    paths = [tmp_path, tmp_path / "b.yaml", tmp_path / "sub/x.txt"]
    sources, problems = read_sources(paths)
    assert not problems
    found = [str(Path(source.name).relative_to(tmp_path)) for source in sources]
    assert found == ["a.yml", "b.yaml", "sub/c.json", "sub/x.txt"]
    documents, problems = load(paths)
    assert not problems
    assert [document.name for document in documents] == ["a", "b", "c", "x"]


def test_what_cannot_be_read_is_a_problem_and_the_rest_is_read(tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text(SERVICE.format("good"))
    (tmp_path / "bad.yaml").write_bytes(b"a: 1\nb: \xff\n")
    (tmp_path / "loop.yaml").symlink_to(tmp_path / "loop.yaml")
    (tmp_path / "empty").mkdir()
    documents, problems = load([tmp_path, tmp_path / "nope.yaml", tmp_path / "empty"])
    assert [document.name for document in documents] == ["good"]
    messages = [f"{Path(p.file).name}:{p.line} {p.message}" for p in problems]
    assert messages == [
        "bad.yaml:2 not UTF-8 text",
        "loop.yaml:1 cannot be read: Too many levels of symbolic links",
        "nope.yaml:1 no such file or folder",
        "empty:1 no document files in this folder",
    ]
    assert [problem.warning for problem in problems] == [False, False, False, True]


def test_standard_input_is_a_dash() -> None:
    documents, problems = load(["-"], stdin=lambda: SERVICE.format("piped").encode())
    assert not problems
    assert [document.name for document in documents] == ["piped"]


def test_a_jwks_file_is_read_relative_to_its_document(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "keys.json").write_bytes(orjson.dumps({"keys": [PUBLIC], "more": 1}))
    (tmp_path / "sub" / "issuer.yaml").write_text(ISSUER.format("{file: ../keys.json}"))
    documents, problems = load([tmp_path / "sub"])
    assert not problems
    spec = documents[0].spec
    assert isinstance(spec, TokenIssuer)
    assert spec.jwks is not None
    assert spec.jwks.inline == {"keys": [PUBLIC]}
    assert spec.jwks.file is None
    assert orjson.loads(documents[0].canonical)["spec"]["jwks"] == {"inline": {"keys": [PUBLIC]}}
    assert documents[0].marks["spec.jwks.file"][0] == 6


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"nope", "not JSON"),
        (b"-----BEGIN PUBLIC KEY-----", "not JSON"),
        (b"[]", "not a JWK Set"),
        (b'{"kty": "OKP"}', "not a JWK Set"),
        (b'{"keys": ["a"]}', "not a JWK Set"),
        (b" " * (1024 * 1024 + 1), "larger than 1 MiB"),
    ],
)
def test_a_file_that_is_no_jwk_set_is_a_problem_at_its_place(
    tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "keys.jwks").write_bytes(content)
    (tmp_path / "issuer.yaml").write_text(ISSUER.format("{file: keys.jwks}"))
    documents, problems = load([tmp_path])
    assert not documents
    assert [(p.line, p.column, p.pointer) for p in problems] == [(6, 16, "spec.jwks.file")]
    assert message in problems[0].message
    assert str(tmp_path / "keys.jwks") in problems[0].message


def test_a_missing_jwks_file_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "issuer.yaml").write_text(ISSUER.format("{file: nope.jwks}"))
    _, problems = load([tmp_path])
    assert "No such file" in problems[0].message


@pytest.mark.parametrize("member", sorted(PRIVATE_MEMBERS))
@pytest.mark.parametrize("inline", [False, True])
def test_private_keys_are_refused_and_not_repeated(
    tmp_path: Path, member: str, inline: bool
) -> None:
    keys = {"keys": [PUBLIC, {**PUBLIC, member: "secret-material"}]}
    (tmp_path / "keys.jwks").write_bytes(orjson.dumps(keys))
    source = f"{{inline: {orjson.dumps(keys).decode()}}}" if inline else "{file: keys.jwks}"
    (tmp_path / "issuer.yaml").write_text(ISSUER.format(source))
    documents, problems = load([tmp_path])
    assert not documents
    assert f"private key material (keys[1].{member})" in problems[0].message
    assert "secret-material" not in str(problems[0])


def test_links_to_folders_are_followed_and_circles_are_not(tmp_path: Path) -> None:
    real = tmp_path / "elsewhere"
    real.mkdir()
    (real / "a.yaml").write_text(SERVICE.format("a"))
    (real / "back").symlink_to(tmp_path / "policies")
    policies = tmp_path / "policies"
    policies.mkdir()
    (policies / "linked").symlink_to(real)
    (policies / "linked-again").symlink_to(real)
    (policies / "self").symlink_to(policies)
    (policies / "b.YAML").write_text(SERVICE.format("b"))
    (policies / "c.Yml").write_text(SERVICE.format("c"))
    documents, problems = load([policies])
    assert not problems
    assert sorted(document.name for document in documents) == ["a", "b", "c"]


def test_pipes_and_sockets_in_folders_are_not_read_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.yaml")
    os.mkfifo(tmp_path / "keys.jwks")
    (tmp_path / "issuer.yaml").write_text(ISSUER.format("{file: keys.jwks}"))
    (tmp_path / "null.yaml").symlink_to("/dev/zero")
    (tmp_path / "good.yaml").write_text(SERVICE.format("good"))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket.yaml"))
        documents, problems = load([tmp_path])
    assert [document.name for document in documents] == ["good"]
    assert [(Path(p.file).name, p.warning) for p in problems] == [
        ("fifo.yaml", True), ("null.yaml", True), ("socket.yaml", True), ("issuer.yaml", False),
    ]  # fmt: skip
    assert problems[0].message == "neither a file nor a folder; not read"
    assert "not a file" in problems[3].message
    _, problems = read_sources([tmp_path / "fifo.yaml"], pipes=False)
    assert not problems[0].warning


def test_a_pipe_that_is_named_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    writer = Thread(target=(tmp_path / "fifo").write_text, args=(SERVICE.format("piped"),))
    writer.start()
    documents, _ = load([tmp_path / "fifo"])
    writer.join()
    assert [document.name for document in documents] == ["piped"]


def test_a_jwks_file_whose_name_is_no_path_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "issuer.yaml").write_text(ISSUER.format('{file: "a\\0b"}'))
    _, problems = load([tmp_path])
    assert "not a path" in problems[0].message
