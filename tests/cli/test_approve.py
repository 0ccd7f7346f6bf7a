"""`sidecar approve`: two people, one control plane in which one is not enough."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sidecar.cli import FINE, FOUND_PROBLEMS, MISUSE
from sidecar.control.credentials import Authority
from sidecar.control.publisher_listener import PublisherListener
from sidecar.control.server import ControlPlane, Terms
from tests.casebook import jwks, token
from tests.cli.shell import Said, Shell

IDP = "https://idp.example"
PUBLISHERS = f"""issuers:
- issuer: {IDP}
  audience: sidecar-control-plane
  jwks: {{inline: {json.dumps(jwks())}}}
permissions:
- {{who: {{issuer: "{IDP}", subject: alice}}, role: admin}}
- {{who: {{issuer: "{IDP}", subject: bob}}, role: approver, namespaces: [default]}}
- {{who: {{issuer: "{IDP}", subject: carol}}, role: publisher, namespaces: [default]}}
"""


@pytest.fixture
async def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> AsyncIterator[Shell]:
    (tmp_path / "publishers.yaml").write_text(PUBLISHERS)
    for name in ("alice", "bob", "carol"):
        claims = {"sub": name, "aud": "sidecar-control-plane"}
        (tmp_path / name).write_text(token(time.time(), claims))
    folder = tmp_path / "policies"
    folder.mkdir()
    control = ControlPlane()
    bound = await control.start(
        "127.0.0.1:0", "127.0.0.1:0", f"sqlite:///{tmp_path / 'store.db'}",
        publishers=PublisherListener(Authority(tmp_path / "publishers.yaml")),
        terms=Terms(frozenset(("default",))),
    )  # fmt: skip
    yield Shell(bound.grpc, folder, capsys)
    await control.stop()


async def by(shell: Shell, who: str, *argv: str) -> Said:
    return await shell(*argv, "--server-token-file", str(shell.folder.parent / who))


async def proposed(shell: Shell, path: str = "/", who: str = "alice", *more: str) -> str:
    """Its id."""
    said = await by(
        shell, who, "apply", "-f", shell.write(path), "--output", "json", "-m", "please", *more
    )
    assert (said.code, said.json["outcome"]) == (FINE, "awaits_approval"), said
    assert said.json["releases"] == []
    found: str = said.json["proposal"]
    return found


async def test_a_second_person_publishes_what_the_first_proposed(shell: Shell) -> None:
    said = await by(shell, "alice", "apply", "-f", shell.write("/"), "--wait", "-m", "please")
    assert said.code == FINE
    assert (
        "nothing published yet: 1 added; somebody else has to agree, with `sidecar app" in said.out
    )
    assert (await by(shell, "bob", "history")).code == FOUND_PROBLEMS
    listed = await by(shell, "bob", "approve")
    assert f"by {IDP}#alice 'please'" in listed.lines[0]
    assert listed.lines[1] == "+ AccessPolicy/default/p"
    id_ = listed.lines[0].split()[0]
    own = await by(shell, "alice", "approve", id_)
    assert own.code == FOUND_PROBLEMS
    assert f"{IDP}#alice has proposed it, and somebody else has to approve it" in own.err
    agreed = await by(shell, "bob", "approve", id_, "-m", "seen")
    assert agreed.code == FINE
    assert "published default@1: 1 added" in agreed.lines
    assert (await by(shell, "bob", "approve")).out == "nothing waits for a second person\n"
    line = (await by(shell, "bob", "history")).lines[0]
    assert f"by {IDP}#alice  approved by {IDP}#bob  'please'" in line
    again = await by(shell, "bob", "approve", id_)
    assert (again.code, "is approved already" in again.err) == (FOUND_PROBLEMS, True)
    everything = await by(shell, "bob", "approve", "--all", "--output", "json")
    assert [(p["state"], p["reviewer"], p["reason"]) for p in everything.json] == [
        ("approved", f"{IDP}#bob", "seen")
    ]


async def test_no_publishes_nothing(shell: Shell) -> None:
    id_ = await proposed(shell)
    said = await by(shell, "bob", "approve", id_, "--reject", "-m", "not so")
    assert (said.code, said.out) == (FINE, f"rejected {id_}; nothing was published\n")
    assert (await by(shell, "bob", "history")).code == FOUND_PROBLEMS
    other = await proposed(shell)
    said = await by(shell, "alice", "approve", other, "--reject", "--output", "json")
    assert said.json == {"outcome": "rejected", "proposal": other}  # one's own may be taken back


async def test_what_somebody_published_in_between_has_to_be_looked_at_again(shell: Shell) -> None:
    one, two = await proposed(shell, "/1"), await proposed(shell, "/2")
    assert (await by(shell, "bob", "approve", one)).code == FINE
    said = await by(shell, "bob", "approve", two)
    assert said.code == FOUND_PROBLEMS
    assert "somebody else published in between; newest now: default@1" in said.err
    assert "then propose it again" in said.err


async def test_a_canary_and_a_time_to_live_wait_with_it(shell: Shell) -> None:
    assert (await by(shell, "bob", "approve", await proposed(shell, "/1"))).code == FINE
    id_ = await proposed(shell, "/2", "alice", "--canary", "10%", "--bake", "10m")
    said = await by(shell, "bob", "approve", id_, "--output", "json")
    assert [(r["version"], r["state"], r["author"]) for r in said.json["rollouts"]] == [
        (2, "running", f"{IDP}#alice")
    ]


async def test_what_is_approved_is_shown_first(shell: Shell) -> None:
    assert (await by(shell, "bob", "approve", await proposed(shell, "/1"))).code == FINE
    more = ("--raise-floor", "--ttl", "2d", "--prune", "--canary", "10%", "--bake", "10m")
    id_ = await proposed(shell, "/2", "alice", *more)
    listed = (await by(shell, "bob", "approve")).lines
    assert listed[1] == "  on default@1"
    assert listed[2] == "  raises the floor: no sidecar goes back to before it"
    assert listed[3] == "  taken back after 2d"
    assert "--prune" in listed[4]
    assert listed[5].startswith("  10% > 50% > 100%, each for 10m and 20 requests at least")
    shown = await by(shell, "bob", "approve", id_, "--show")
    assert shown.code == FINE
    assert shown.lines[1:6] == listed[1:6]
    assert any(line.startswith("-") and "/1" in line for line in shown.lines)
    assert any(line.startswith("+") and "/2" in line for line in shown.lines)
    said = (await by(shell, "bob", "approve", id_, "--show", "--output", "json")).json[0]
    assert (said["raiseFloor"], said["ttl"], said["prune"]) == (True, 172_800, True)
    assert said["rollout"]["stages"] == ["10%", "50%", "100%"]
    [pair] = said["documents"]
    assert pair["before"]["spec"]["rules"][0]["match"]["paths"] == ["/1"]
    assert pair["after"]["spec"]["rules"][0]["match"]["paths"] == ["/2"]
    assert len((await by(shell, "bob", "approve")).lines) > 1  # nothing was decided


async def test_only_what_there_is_can_be_shown(shell: Shell) -> None:
    said = await by(shell, "bob", "approve", "0000", "--show")
    assert (said.code, "there is no proposal 0000" in said.err) == (FOUND_PROBLEMS, True)
    assert (await by(shell, "bob", "approve", "--show")).code == MISUSE
    assert (await by(shell, "bob", "approve", "a", "--show", "--reject")).code == MISUSE


async def test_whoever_may_only_propose_approves_nothing(shell: Shell) -> None:
    id_ = await proposed(shell, "/", "carol")
    for who, says in (
        ("carol", "lacks role approver for AccessPolicy in namespace default"),
        ("bob", ""),
    ):
        said = await by(shell, who, "approve", id_)
        assert (says in said.err, said.code) == (True, FOUND_PROBLEMS if says else FINE)
    said = await by(shell, "bob", "apply", "-f", shell.write("/2"))
    assert (said.code, "lacks role" in said.err) == (FOUND_PROBLEMS, True)


async def test_a_way_back_takes_no_second_person(shell: Shell) -> None:
    for path in ("/1", "/2"):
        assert (await by(shell, "bob", "approve", await proposed(shell, path))).code == FINE
    said = await by(shell, "carol", "rollback", "default")
    assert (said.code, "published default@3" in said.out) == (FINE, True)


async def test_nothing_in_a_proposal_moves_the_cursor(shell: Shell) -> None:
    await proposed(shell, "/", "alice", "-m", "\x1b[2J\u202e\r\nall is well")
    said = await by(shell, "bob", "approve")
    assert all(line.isprintable() for line in said.lines)
    assert "all is well" in said.lines[0]


async def test_what_there_is_not(shell: Shell) -> None:
    said = await by(shell, "bob", "approve", "0000")
    assert said.code == FOUND_PROBLEMS
    assert "there is no proposal 0000" in said.err
    assert (await by(shell, "bob", "approve", "a", "b")).code == MISUSE
    assert (await by(shell, "bob", "approve", "a", "--wait", "none")).code == MISUSE
