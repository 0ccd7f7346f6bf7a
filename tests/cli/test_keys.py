"""`sidecar keys` and `apply --signing-key`: rotation, and signing where the key is."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from sidecar.cli import FINE, FOUND_PROBLEMS, MISUSE
from sidecar.control.server import ControlPlane, Terms
from sidecar.facts.signing import TrustedKeys, load_public_keys, public_key_pem, raw_public_key
from tests.cli.shell import Shell
from tests.publishing import KEY, OTHER_KEY, Sidecar, running, sidecar


@pytest.fixture
def key(tmp_path: Path) -> str:
    """A private key in a file, and its public half beside it."""
    for name, made in (("ci", KEY), ("other", OTHER_KEY)):
        (tmp_path / f"{name}.pem").write_bytes(
            made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )
        (tmp_path / f"{name}.pub.pem").write_bytes(public_key_pem(raw_public_key(made)))
    return str(tmp_path / "ci.pem")


async def delegated(shell: Shell, name: str = "ci") -> None:
    file = shell.folder.parent / f"{name}.pub.pem"
    said = await shell("keys", "delegate", name, "--public-key", str(file))
    assert said.code == FINE, said


def trusting(server: str, pem: bytes, sidecar_id: str = "one") -> Sidecar:
    return sidecar(
        server, sidecar_id=sidecar_id, trust=TrustedKeys(frozenset(load_public_keys(pem)))
    )


async def test_a_rotation_refuses_nobody(shell: Shell) -> None:
    first = (await shell("keys", "--output", "pem")).out
    one, two = sidecar(shell.server), trusting(shell.server, first.encode(), "two")
    async with running(one, two):
        await shell.publish("/1")
        await one.enforces(1)
        before = await shell("keys")
        assert re.fullmatch(r"\S+  \S+Z  store\n", before.out)
        rotated = await shell("keys", "rotate")
        assert rotated.code == FINE
        assert len(rotated.lines) == 2
        assert rotated.lines[1].endswith(f"endorsed by {before.out.split()[0]}")
        said = await shell.publish("/2", "--wait")
        assert "default@2: live on 2 of 2 sidecars" in said.out
        late = trusting(shell.server, first.encode(), "three")  # knows of the first alone
        async with running(late):
            await late.enforces(2)
    plain = (await shell("keys", "--output", "json")).json
    assert [each["endorsedBy"] for each in plain] == [None, plain[0]["fingerprint"]]
    assert (await shell("keys", "--output", "pem")).out == "".join(each["pem"] for each in plain)


async def test_a_delegated_signer_publishes(shell: Shell, key: str) -> None:
    await delegated(shell)
    listed = await shell("keys")
    assert "  delegated ci  endorsed by " in listed.lines[1]
    one = sidecar(shell.server)
    async with running(one):
        await shell.publish("/1", name="a")
        await one.enforces(1)
        file = shell.write("/1", name="b")
        said = await shell("apply", "-f", file, "--signing-key", key, "--wait")
        assert said.code == MISUSE
        assert "more than what is applied, AccessPolicy/default/a" in said.err
        assert "with --prune" in said.err
        assert (await shell("history")).lines[0].startswith("* default@1")
        folder = str(shell.folder)
        said = await shell("apply", "-f", folder, "--signing-key", key, "--prune", "--wait")
        assert said.code == FINE, said
        assert "published default@2: 1 unchanged, 1 added" in said.out
        assert "live on 1 of 1 sidecar" in said.out
        assert signers(one) == ["ci"]
    same = await shell("apply", "-f", folder, "--signing-key", key, "--prune")
    assert (same.code, "nothing to publish" in same.out) == (FINE, True)


def signers(each: Sidecar, namespace: str = "default") -> list[str]:
    """Who signed what it enforces of a namespace."""
    names = {raw_public_key(KEY): "ci", raw_public_key(OTHER_KEY): "other"}
    signed = each.adopted[-1].manifests[namespace]
    return [names.get(signature.public_key, "store") for signature in signed.signatures]


async def test_a_key_that_nobody_was_told_of_signs_nothing(shell: Shell, key: str) -> None:
    said = await shell("apply", "-f", shell.write("/"), "--signing-key", key)
    assert said.code == FOUND_PROBLEMS
    assert "manifests: " in said.err
    assert (await shell("history")).code == FOUND_PROBLEMS


@asynccontextmanager
async def strict(shell: Shell) -> AsyncIterator[Shell]:
    """A control plane that signs nothing itself."""
    control = ControlPlane()
    store = f"sqlite:///{shell.folder.parent / 'strict.db'}"
    bound = await control.start(
        "127.0.0.1:0", "127.0.0.1:0", store, terms=Terms(delegated_only=True)
    )
    try:
        yield Shell(bound.grpc, shell.folder, shell.captured)
    finally:
        await control.stop()


async def test_where_only_delegated_signers_sign(shell: Shell, key: str) -> None:
    async with strict(shell) as here:
        await delegated(here)
        file = here.write("/1")
        said = await here("apply", "-f", file)
        assert said.code == FOUND_PROBLEMS
        assert "nobody has signed this one" in said.err
        assert "--signing-key and --prune" in said.err
        trust = (here.folder.parent / "strict.db.trust.pem").read_bytes()
        assert load_public_keys(trust) == {raw_public_key(KEY)}
        one = trusting(here.server, trust)
        signing = ("-f", file, "--signing-key", key, "--prune")
        # Once: what is everybody's has to be signed there, too, be it empty.
        said = await here("apply", *signing, "-n", "platform", "--raise-floor")
        assert said.code == FINE, said
        assert "published default@1 platform@1" in said.out
        async with running(one):
            await one.enforces(1)
            assert signers(one) == signers(one, "platform") == ["ci"]
            here.write("/2")
            said = await here("apply", *signing, "--wait")
            assert said.code == FINE, said
            await one.enforces(2)
            canary = here.write("/3")
            said = await here(
                "apply", "-f", canary, "--signing-key", key, "--prune", "--canary", "100%",
                "--bake", "0s", "--min-requests", "0", "--wait", "--timeout", "20s",
            )  # fmt: skip
            assert said.code == FINE, said
        back = await here("rollback", "default")
        assert back.code == FOUND_PROBLEMS
        assert "that is also the way back to earlier ones" in back.err


async def test_a_dry_run_needs_no_signature(shell: Shell, key: str) -> None:
    async with strict(shell) as here:
        said = await here("apply", "-f", here.write("/"), "--dry-run", "--signing-key", key)
        assert said.code == FINE
        assert (await here("diff", "-f", here.write("/"))).code == FOUND_PROBLEMS


async def test_what_is_no_key_is_not_delegated(shell: Shell, key: str, tmp_path: Path) -> None:
    file, private = tmp_path / "x.pem", tmp_path / "ci.pem"
    both = (tmp_path / "ci.pub.pem").read_text() + (tmp_path / "other.pub.pem").read_text()
    for text, says in (
        ("nothing", "key"),
        (both, "one key is expected"),
        (private.read_text(), "key"),
    ):
        file.write_text(text)
        said = await shell("keys", "delegate", "ci", "--public-key", str(file))
        assert said.code == FOUND_PROBLEMS
        assert says in said.err
        assert "PRIVATE" not in said.out + said.err
    own = (await shell("keys", "--output", "pem")).out
    file.write_text(own)
    said = await shell("keys", "delegate", "ci", "--public-key", str(file))
    assert "it is the control plane's own" in said.err
    await delegated(shell)
    again = await shell("keys", "delegate", "ci", "--public-key", str(tmp_path / "ci.pub.pem"))
    assert again.code == FOUND_PROBLEMS
    assert "this key may sign releases already" in again.err
    assert len((await shell("keys")).lines) == 2


@pytest.mark.parametrize(
    "argv",
    [
        ("burn",),
        ("delegate",),
        ("delegate", "ci"),
        ("delegate", "--public-key", "x"),
        ("delegate", "ci", "--public-key", "/nowhere/at/all"),
        ("--output", "yaml"),
    ],
)
async def test_misuse(shell: Shell, argv: tuple[str, ...]) -> None:
    said = await shell("keys", *argv)
    assert said.code == MISUSE
    assert "sidecar keys" in said.err
    assert "Traceback" not in said.err
