"""What is run, in which order, and what is said when it cannot be done."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from sidecar.errors import RedirectFailed
from sidecar.inject import iptables
from sidecar.inject.iptables import Done, change
from sidecar.inject.redirect import IPV4, IPV6, Redirect, install, remove

WANTED = Redirect()
OURS = "*nat\n:SIDECAR_INBOUND - [0:0]\n-A PREROUTING -p tcp -j SIDECAR_INBOUND\nCOMMIT\n"


class Programs:
    """Answers for them; `fails` by the beginning of the name."""

    def __init__(self, saved: str = "", fails: dict[str, str] | None = None) -> None:
        self.saved = saved
        self.fails = fails or {}
        self.restored: list[tuple[str, str]] = []

    def __call__(self, arguments: Sequence[str], text: str) -> Done:
        name = arguments[0]
        for failing, why in self.fails.items():
            if name.startswith(failing):
                return Done(4, "", why)
        if name.endswith("-save"):
            assert list(arguments[1:]) == ["-t", "nat"]
            return Done(0, self.saved, "")
        assert list(arguments[1:]) == ["--noflush", "--wait", "10"]
        self.restored.append((name, text))
        return Done(0, "", "")


def test_both_families_each_at_one_stroke() -> None:
    programs = Programs(OURS)
    said = change(WANTED, ipv6=True, run=programs)
    assert programs.restored == [
        ("iptables-restore", install(WANTED, IPV4, OURS)),
        ("ip6tables-restore", install(WANTED, IPV6, OURS)),
    ]
    assert said == [
        "IPv4: inbound TCP goes to port 7400", "IPv6: inbound TCP goes to port 7400",
    ]  # fmt: skip


def test_removing() -> None:
    programs = Programs(OURS)
    assert change(None, ipv6=True, run=programs) == ["IPv4: removed", "IPv6: removed"]
    assert [text for _, text in programs.restored] == [remove(OURS)] * 2
    programs = Programs()
    assert change(None, ipv6=True, run=programs) == [
        "IPv4: nothing to remove", "IPv6: nothing to remove",
    ]  # fmt: skip
    assert programs.restored == []


def test_a_kernel_without_ipv6() -> None:
    programs = Programs(fails={"ip6tables": "Address family not supported"})
    said = change(WANTED, ipv6=None, run=programs)
    assert said[1] == "IPv6: not in this kernel, so nothing to do"
    assert [name for name, _ in programs.restored] == ["iptables-restore"]


def test_ipv6_that_is_on_must_be_redirected() -> None:
    programs = Programs(fails={"ip6tables": "can't initialize ip6tables table `nat'"})
    with pytest.raises(RedirectFailed, match=r"IPv6 is on and not redirected.*disable_ipv6=1"):
        change(WANTED, ipv6=True, run=programs)


def test_ipv6_without_an_address_may_fail() -> None:
    programs = Programs(fails={"ip6tables": "can't initialize ip6tables table `nat'"})
    said = change(WANTED, ipv6=False, run=programs)
    assert "IPv6: no interface has an address" in said[1]
    assert "initialize" in said[1]
    programs = Programs()
    change(WANTED, ipv6=False, run=programs)
    assert len(programs.restored) == 2  # where it can be done it is


@pytest.mark.parametrize(
    ("error", "says"),
    [
        ("Could not fetch rule set generation id: Permission denied (you must be root)",
         "root with the capability NET_ADMIN"),
        ("can't initialize iptables table `nat': Permission denied (you must be root)",
         "NET_RAW where iptables is the legacy one"),
        ("RULE_APPEND failed (No such file or directory): rule in chain SIDECAR_INBOUND",
         "the kernel of the node needs nat for IPv4, REDIRECT and the match owner"),
        ("", "exit code 4"),
    ],
)  # fmt: skip
def test_what_is_said(error: str, says: str) -> None:
    for failing in ("iptables-save", "iptables-restore"):
        with pytest.raises(RedirectFailed) as caught:
            change(WANTED, ipv6=True, run=Programs(fails={failing: error}))
        assert says in str(caught.value)
        assert str(caught.value).startswith(f"{failing}: ")


def test_programs_that_are_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(iptables, "_PLACES", str(tmp_path))
    with pytest.raises(
        RedirectFailed, match=r"iptables-save is not installed; install the package"
    ):
        change(WANTED, ipv6=True)


def test_a_program_gets_its_text_and_its_words_come_back(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = tmp_path / "ip6tables-restore"
    script.write_text('#!/bin/sh\n/bin/cat\necho "$*" >&2\nexit 3\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert iptables.run(["ip6tables-restore", "--noflush"], "*nat\n") == Done(
        3, "*nat\n", "--noflush\n"
    )
    script.write_text("#!/no/such/shell\n")
    with pytest.raises(RedirectFailed, match="ip6tables-restore cannot be run"):
        iptables.run(["ip6tables-restore"], "")


def test_a_program_that_does_not_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = tmp_path / "iptables-save"
    script.write_text("#!/bin/sh\nread line < /dev/zero\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(iptables, "TIMEOUT", 0.05)
    with pytest.raises(RedirectFailed, match=r"did not end within 0\.05 s"):
        iptables.run(["iptables-save"], "")


def test_whether_ipv6_is_on(tmp_path: Path) -> None:
    listing = tmp_path / "if_inet6"
    assert iptables.ipv6(listing) is None
    listing.write_text("")
    assert iptables.ipv6(listing) is False
    listing.write_text("00000000000000000000000000000001 01 80 10 80       lo\n")
    assert iptables.ipv6(listing) is True
    with pytest.raises(RedirectFailed, match="whether IPv6 is on cannot be told"):
        iptables.ipv6(tmp_path)
