"""The rules as text, applied to a small packet filter that is as strict as the real one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.inject.redirect import IPV4, IPV6, Family, Redirect, install, remove

BUILT_IN = ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING")
OTHERS = (
    "-A PREROUTING -p tcp -m tcp --dport 80 -j OTHERS",
    "-A OUTPUT -d 10.0.0.1/32 -p udp -j DNAT --to-destination 10.0.0.2",
    "-A OTHERS -j RETURN",
)


class Refused(Exception):
    """As the real one: nothing of the text was applied."""


class Filter:
    """The nat table of one family: what `iptables-restore --noflush` makes of text."""

    def __init__(self, *rules: str, chains: tuple[str, ...] = ()) -> None:
        self.chains: dict[str, list[str]] = {name: [] for name in (*BUILT_IN, *chains)}
        for rule in rules:
            _, chain, spec = rule.split(" ", 2)
            self.chains[chain].append(spec)

    def saved(self) -> str:
        lines = ["# Generated", "*nat"]
        lines += [
            f":{name} {'ACCEPT' if name in BUILT_IN else '-'} [12:720]" for name in self.chains
        ]
        lines += [f"-A {name} {spec}" for name, specs in self.chains.items() for spec in specs]
        return "\n".join([*lines, "COMMIT", "# Completed"]) + "\n"

    def restore(self, text: str) -> None:
        if not text:
            return
        lines = text.splitlines()
        assert lines[0] == "*nat"
        assert lines[-1] == "COMMIT"
        assert text.endswith("\n")
        chains = {name: list(specs) for name, specs in self.chains.items()}
        for line in lines[1:-1]:
            self._apply(chains, line)
        targets = {
            f" {spec} ".split(" -j ")[1].split()[0] for specs in chains.values() for spec in specs
        }
        if missing := targets - {*chains, "RETURN", "REDIRECT", "DNAT"}:
            raise Refused(f"no chain {missing}")
        self.chains = chains

    def _apply(self, chains: dict[str, list[str]], line: str) -> None:
        if line.startswith(":"):
            chains[line[1:].split()[0]] = []  # of our own: made, or emptied
            return
        command, chain, *rest = line.split(" ", 2)
        spec = rest[0] if rest else ""
        if chain not in chains:
            raise Refused(line)
        if command == "-A":
            chains[chain].append(spec)
        elif command == "-I":
            place, spec = spec.split(" ", 1)
            chains[chain].insert(int(place) - 1, spec)
        elif command == "-D":
            if spec not in chains[chain]:
                raise Refused(line)
            chains[chain].remove(spec)
        elif command == "-X":
            used = any(f"-j {chain}" in each for specs in chains.values() for each in specs)
            if used or chains[chain]:
                raise Refused(line)
            del chains[chain]
        else:
            raise Refused(line)


WANTED = Redirect(7400, frozenset((9090, 22)), 65532)


@pytest.mark.parametrize("family", [IPV4, IPV6], ids=lambda family: family.name)
def test_the_rules(family: Family) -> None:
    table = Filter()
    table.restore(install(WANTED, family, table.saved()))
    loopback = {"IPv4": "127.0.0.0/8", "IPv6": "::1/128"}[family.name]
    assert table.chains == {
        "PREROUTING": ["-p tcp -j SIDECAR_INBOUND"],
        "INPUT": [],
        "OUTPUT": [f"! -d {loopback} -o lo -p tcp -m owner ! --uid-owner 65532 -j SIDECAR_INBOUND"],
        "POSTROUTING": [],
        "SIDECAR_INBOUND": [
            *(f"-p tcp -m tcp --dport {port} -j RETURN" for port in (22, 7400, 7401, 9090)),
            "-p tcp -j REDIRECT --to-ports 7400",
        ],
    }


def test_another_port_and_another_user() -> None:
    text = install(Redirect(to=8400, user=1000), IPV4)
    assert "--to-ports 8400" in text
    assert "--dport 8400 -j RETURN" in text
    assert "--dport 7401 -j RETURN" in text  # health, wherever traffic goes
    assert "--dport 7400" not in text
    assert "! --uid-owner 1000 " in text


def test_whoever_was_there_stays_and_comes_after_us() -> None:
    table = Filter(*OTHERS, chains=("OTHERS",))
    before = table.saved()
    table.restore(install(WANTED, IPV4, before))
    assert table.chains["PREROUTING"] == [
        "-p tcp -j SIDECAR_INBOUND", "-p tcp -m tcp --dport 80 -j OTHERS",
    ]  # fmt: skip
    assert len(table.chains["OUTPUT"]) == 2
    table.restore(remove(table.saved()))
    assert table.saved() == before


HALVES = [
    "-A PREROUTING -p tcp -j SIDECAR_INBOUND",
    "-A OUTPUT ! -d 127.0.0.0/8 -o lo -p tcp -m owner ! --uid-owner 65532 -j SIDECAR_INBOUND",
    "-A OUTPUT -p tcp -m owner ! --uid-owner 1000 -j SIDECAR_INBOUND",
    "-A SIDECAR_INBOUND -p tcp -m tcp --dport 7400 -j RETURN",
    "-A SIDECAR_INBOUND -p tcp -j REDIRECT --to-ports 9999",
    *OTHERS,
]


@given(st.lists(st.sampled_from(HALVES), max_size=12), st.booleans())
def test_from_whatever_state_it_leads_to_the_same_and_leaves_no_trace(
    rules: list[str], once_more: bool
) -> None:
    """Interrupted, doubled, of other settings: others' rules stay as they are, in their order."""
    table = Filter(*rules, chains=("OTHERS", "SIDECAR_INBOUND"))
    fresh = Filter(*(rule for rule in rules if "SIDECAR" not in rule), chains=("OTHERS",))
    removed = fresh.saved()
    for each in (table, fresh):
        each.restore(install(WANTED, IPV4, each.saved()))
    if once_more:
        table.restore(install(WANTED, IPV4, table.saved()))
    assert table.chains == fresh.chains
    table.restore(remove(table.saved()))
    assert table.saved() == removed
    assert remove(table.saved()) == ""


@given(st.lists(st.sampled_from(HALVES), max_size=12))
def test_removing_half_of_it(rules: list[str]) -> None:
    table = Filter(*rules, chains=("OTHERS", "SIDECAR_INBOUND"))
    table.restore(remove(table.saved()))
    kept = Filter(*(rule for rule in rules if "SIDECAR" not in rule), chains=("OTHERS",))
    assert table.chains == kept.chains


@pytest.mark.parametrize(
    "saved",
    [
        "",
        Filter(*OTHERS, chains=("OTHERS",)).saved(),
        Filter("-A PREROUTING -j SIDECAR_INBOUND_OF_OTHERS", chains=("SIDECAR_INBOUND_OF_OTHERS",))
        .saved(),
        "*filter\n:SIDECAR_INBOUND - [0:0]\n-A INPUT -j SIDECAR_INBOUND\nCOMMIT\n",
        '*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -m comment --comment "SIDECAR_INBOUND" '
        "-j RETURN\nCOMMIT\n",
    ],
)  # fmt: skip
def test_what_is_not_ours_is_left_alone(saved: str) -> None:
    assert remove(saved) == ""
    assert "-D " not in install(WANTED, IPV4, saved)
