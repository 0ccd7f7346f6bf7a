"""`--probes`: what it means, every shape that is refused, and how it travels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sidecar.config_probes import MOST, to_probes
from sidecar.edge.probes import Grpc, Http, Probe, Tcp
from sidecar.errors import Misuse
from sidecar.plane import inspection, messages

from .test_config import settings

THREE = {
    "live": {
        "http": {"port": 8080, "path": "/x?y=%20", "scheme": "HTTPS", "host": "h",
                 "headers": {"Authorization": "hush"}},
        "timeout": 2,
    },
    "ready.1": {"tcp": {"port": 9}},
    "START_up-2": {"grpc": {"port": 65535, "service": "a.B"}, "timeout": 0.5},
}  # fmt: skip


def test_each_kind() -> None:
    assert to_probes(json.dumps(THREE)) == {
        "live": Probe(
            http=Http(8080, "/x?y=%20", "HTTPS", {"Authorization": "hush"}, "h"), timeout=2
        ),
        "ready.1": Probe(tcp=Tcp(9), timeout=1),
        "START_up-2": Probe(grpc=Grpc(65535, "a.B"), timeout=0.5),
    }
    assert to_probes('{"a": {"http": {"port": 1}}}') == {"a": Probe(http=Http(1, "/", "HTTP"))}
    assert to_probes("{}") == {}


def http(**fields: Any) -> dict[str, Any]:
    return {"a": {"http": {"port": 1, **fields}}}


@pytest.mark.parametrize(
    ("probes", "says"),
    [
        ([], "not JSON as in"),
        ({"a": 1}, "Expected `object`, got `int` - at `$[...]`"),
        ({"a": {"tcp": {"port": 1}, "timeut": 1}}, "unknown field `timeut`"),
        ({"a": {"tcp": {}}}, "missing required field `port`"),
        ({"a": {"tcp": {"port": 0}}}, ">= 1 - at `$[...].tcp.port`"),
        ({"a": {"grpc": {"port": 65536}}}, "<= 65535"),
        ({"a": {"tcp": {"port": "http"}}}, "Expected `int`"),
        (http(scheme="http"), "Invalid enum value 'http'"),
        (http(headers=[{"name": "a", "value": "b"}]), "Expected `object`, got `array`"),
        ({"a": {"tcp": {"port": 1}, "timeout": 0}}, "> 0.0"),
        ({"a": {"tcp": {"port": 1}, "timeout": 301}}, "<= 300"),
        ({"a": {}}, "'a': a probe is one of http, tcp and grpc"),
        ({"a": {"tcp": {"port": 1}, "grpc": {"port": 1}}}, "a probe is one of"),
        ({"a/b": {"tcp": {"port": 1}}}, "'a/b': a name has letters"),
        ({"": {"tcp": {"port": 1}}}, "a name has letters"),
        ({"a" * 128: {"tcp": {"port": 1}}}, "127 at most"),
        ({"a": {"tcp": {"port": 1, "host": "h/x"}}}, "'h/x' is no host"),
        (http(host="u@h"), "'u@h' is no host"),
        (http(path="x"), "a path begins with /"),
        (http(path="/ x"), "a path begins with /"),
        (http(path="/\r\nX: y"), "a path begins with /"),
        (http(headers={"a b": "c"}), "'a b' is no header that can be sent"),
        (http(headers={"a": "b\r\nc: d"}), "'a' is no header that can be sent"),
        ({f"p{i}": {"tcp": {"port": 1}} for i in range(MOST + 1)}, "65 probes are more than 64"),
    ],
)
def test_mistakes(probes: Any, says: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  (which is what is asserted)
        to_probes(json.dumps(probes))
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "x", '{"a": {"tcp": {"port": 1}}', '{"a": {"tcp": {"port": 1, "port": 2}}}']
)
def test_what_is_not_one_reading_of_json(text: str) -> None:
    with pytest.raises(ValueError, match="not JSON as in"):
        to_probes(text)


@pytest.fixture
def base(tmp_path: Path) -> list[str]:
    return ["--upstream", "http://127.0.0.1:8080", "--policies", str(tmp_path)]


def test_as_a_setting(base: list[str]) -> None:
    assert settings(base).probes == {}
    found = settings(base, {"SIDECAR_PROBES": json.dumps(THREE)})
    assert found.probes == to_probes(json.dumps(THREE))
    with pytest.raises(Misuse, match=r"SIDECAR_PROBES: not JSON as in"):
        settings(base, {"SIDECAR_PROBES": "live"})


def test_they_travel_to_workers_and_their_headers_are_nobodys_business(base: list[str]) -> None:
    found = settings([*base, "--probes", json.dumps(THREE)])
    assert messages.settings_from_bytes(messages.settings_to_bytes(found)) == found
    state = inspection.config_state(found)
    assert "hush" not in json.dumps(state)
    assert state["probes"]["live"] == "GET https://h:8080/x within 2 s"
