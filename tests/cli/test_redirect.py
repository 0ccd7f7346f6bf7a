"""`sidecar redirect`, as far as nobody needs to be root: with real traffic in tests/e2e."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from sidecar.cli import run
from sidecar.errors import RedirectFailed
from sidecar.inject import iptables
from sidecar.inject.redirect import IPV4, IPV6, Redirect, install


def test_a_dry_run_prints_both_families_and_runs_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(iptables, "change", None)
    arguments = ["--to", "8400", "--exclude-port", "22", "--exclude-port", "9090", "--user", "1000"]
    assert run(["redirect", "--dry-run", *arguments]) == 0
    wanted = Redirect(8400, frozenset((22, 9090)), 1000)
    assert capsys.readouterr().out == (
        f"# IPv4: iptables-restore --noflush\n{install(wanted, IPV4)}"
        f"# IPv6: ip6tables-restore --noflush\n{install(wanted, IPV6)}"
    )


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ([], Redirect(7400, frozenset(), 65532)),
        (["--exclude-port", "9090"], Redirect(7400, frozenset((9090,)), 65532)),
        (["--remove"], None),
    ],
)
def test_what_is_changed_is_said(
    arguments: list[str],
    wanted: Redirect | None,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[Redirect | None, bool | None]] = []

    def change(wanted: Redirect | None, *, ipv6: bool | None) -> Sequence[str]:
        asked.append((wanted, ipv6))
        return ["one", "two"]

    monkeypatch.setattr(iptables, "change", change)
    monkeypatch.setattr(iptables, "ipv6", lambda: None)
    assert run(["redirect", *arguments]) == 0
    assert asked == [(wanted, None)]
    assert capsys.readouterr().out == "one\ntwo\n"


def test_what_cannot_be_done_is_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(*_: object, **__: object) -> Sequence[str]:
        raise RedirectFailed("because")

    monkeypatch.setattr(iptables, "change", change)
    assert run(["redirect"]) == 1
    assert capsys.readouterr().err == "sidecar redirect: because\n"


@pytest.mark.parametrize("to", [[], ["--to", "7410"]])
def test_ports_of_the_sidecars_own_are_not_to_be_excluded(
    to: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever names one means another."""
    monkeypatch.setattr(iptables, "change", None)
    port = to[1] if to else "7400"
    given = ["--exclude-port", port, "--exclude-port", "7401", "--exclude-port", "9090"]
    assert run(["redirect", *to, *given, "--dry-run"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    for own in (port, "7401"):
        assert f"--exclude-port: {own} is a port of the sidecar's own" in said.err
    assert "name a port of the application's" in said.err
    assert "9090" not in said.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--to", "0"], "'0' is not a port, 1 to 65535"),
        (["--to", "x"], "'x' is not a port"),
        (["--exclude-port", "65536"], "'65536' is not a port"),
        (["--exclude-port", "٣"], "is not a port"),
        (["--user", "sidecar"], "'sidecar' is not the number of a user"),
        (["--user", "4294967295"], "is not the number of a user"),
        (["--remove", "--dry-run"], "not allowed with argument"),
        (["7400"], "unrecognized arguments: 7400"),
    ],
)
def test_misuse_is_2(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run(["redirect", *arguments])
    assert ended.value.code == 2
    assert says in capsys.readouterr().err
