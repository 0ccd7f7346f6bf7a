"""Settings and messages as they travel."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from sidecar.config import Address, RunSettings
from sidecar.facts.shared_keys import SharedKeys
from sidecar.plane import messages
from sidecar.telemetry.merged import Family, Sample

SETTINGS = RunSettings(
    upstream="https://h:1", policies=Path("/a b/ü"), control_plane=None,
    listen=Address("::1", 7400), health=Address("127.0.0.1", 0), admin=Address("h", 1),
    namespace="n", labels={"app": "x"}, state=None, state_home=Path("/s"), trust=None, workers=3,
    decision_log="off", drain=1.5, tls_cert=Path("c"), trusted_proxies=("10.0.0.0/8", "::/64"),
)  # fmt: skip


def test_settings_arrive_as_they_were() -> None:
    assert messages.settings_from_bytes(messages.settings_to_bytes(SETTINGS)) == SETTINGS


@pytest.mark.parametrize(
    "message",
    [
        messages.Begin(1, "0.1", b"{}", b"k"),
        messages.Documents([b"a", b"b"]),
        messages.Keys(SharedKeys("i", "", b"{}", 1.0, 2.0, 3.0, "")),
        messages.Drain(),
    ],
)
def test_to_a_worker(message: messages.ToWorker) -> None:
    assert messages.TO_WORKER.decode(msgspec.msgpack.encode(message)) == message


@pytest.mark.parametrize(
    "message",
    [
        messages.Adopted(7),
        messages.Counted(1, [Family("a", "A.", "counter", [Sample("a_total", {"x": "1"}, 2.0)])]),
        messages.Failed(["one", "two"]),
    ],
)
def test_from_a_worker(message: messages.FromWorker) -> None:
    assert messages.FROM_WORKER.decode(msgspec.msgpack.encode(message)) == message


def test_nobody_takes_the_others_messages() -> None:
    with pytest.raises(msgspec.ValidationError):
        messages.TO_WORKER.decode(msgspec.msgpack.encode(messages.Adopted(1)))
    with pytest.raises(msgspec.ValidationError):
        messages.FROM_WORKER.decode(msgspec.msgpack.encode(messages.Drain()))
