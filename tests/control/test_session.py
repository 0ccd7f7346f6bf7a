"""The rules of the stream, without a stream."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from sidecar.control.catalogue import Catalogue
from sidecar.control.releases import Release
from sidecar.control.revocations import RevocationLog
from sidecar.control.session import Session
from sidecar.decide.documents import Document
from sidecar.facts.releases import Manifest
from sidecar.wire import convert
from sidecar.wire.discovery_pb2 import Ack, FromControl, Held, Hello, Nack, Push, Subscription
from tests.publishing import policy, release

LOG = RevocationLog("log")


def made(*documents: Document, namespace: str = "default", version: int = 1) -> Release:
    signed = release(documents, namespace=namespace, version=version)
    return Release(Manifest.from_bytes(signed.manifest), signed, documents)


@pytest.fixture
def catalogue() -> Catalogue:
    filled = Catalogue()
    filled.take([made(namespace="platform", version=0)])
    return filled


def hello(
    held: Mapping[str, str] | None = None, labels: Mapping[str, str] | None = None
) -> Session:
    message = Hello(
        sidecar_id="one",
        namespace="default",
        labels=labels,
        subscriptions=[
            Subscription(
                type=convert.RELEASE,
                held=[Held(name=n, version=v) for n, v in (held or {}).items()],
            )
        ],
    )
    return Session(message, address="", since=0.0)


def push(session: Session, catalogue: Catalogue) -> Push:
    message = session.next(catalogue, LOG)
    assert message is not None
    assert message.HasField("push")
    return message.push


def sent(found: Push) -> list[str]:
    return sorted(resource.name.rpartition("/")[2] for resource in found.resources)


def ack(session: Session, found: Push, **versions: int) -> None:
    enforced = convert.enforced_to_wire(versions)
    assert session.ack(Ack(type=convert.RELEASE, nonce=found.nonce, enforced=enforced))


def idle(message: FromControl | None) -> str:
    assert message is not None
    assert message.HasField("idle")
    return message.idle.detail


def test_a_namespace_without_a_release_is_said_once_and_pushed_when_it_has_one(
    catalogue: Catalogue,
) -> None:
    session = hello()
    assert "no release yet" in idle(session.next(catalogue, LOG))
    assert session.next(catalogue, LOG) is None
    assert session.assigned(catalogue) == {}
    catalogue.take([made(policy())])
    assert sent(push(session, catalogue)) == ["default", "p", "platform"]


def test_only_what_changed_is_sent_and_what_is_gone_is_named(catalogue: Catalogue) -> None:
    catalogue.take([made(policy("a"), policy("b"), policy("c"))])
    session = hello()
    ack(session, push(session, catalogue), default=1, platform=0)
    assert session.next(catalogue, LOG) is None
    catalogue.take([made(policy("a"), policy("b", path="/new"), policy("d"), version=2)])
    second = push(session, catalogue)
    assert sent(second) == ["b", "d", "default"]
    assert second.removed == ["document/AccessPolicy/default/c"]


def test_documents_go_only_to_those_whom_their_selector_names(catalogue: Catalogue) -> None:
    catalogue.take([made(policy("a", selector={"app": "a"}), policy("b", selector={"app": "b"}))])
    assert sent(push(hello(labels={"app": "b"}), catalogue)) == ["b", "default", "platform"]


def test_one_unanswered_push_and_what_changes_meanwhile_becomes_one(catalogue: Catalogue) -> None:
    catalogue.take([made(policy())])
    session = hello()
    first = push(session, catalogue)
    for version in range(2, 50):
        catalogue.take([made(policy(path=f"/{version}"), version=version)])
        assert session.next(catalogue, LOG) is None
    ack(session, first, default=1, platform=0)
    second = push(session, catalogue)
    assert second.nonce != first.nonce
    assert [Manifest.from_bytes(r.manifest.manifest).version for r in second.resources[:1]] == [49]
    ack(session, second, default=49, platform=0)
    assert session.next(catalogue, LOG) is None


def test_after_a_nack_deltas_count_from_the_last_accepted_set(catalogue: Catalogue) -> None:
    catalogue.take([made(policy("a"))])
    session = hello()
    ack(session, push(session, catalogue), default=1, platform=0)
    catalogue.take([made(policy("a"), policy("bad"), version=2)])
    second = push(session, catalogue)
    assert session.nack(Nack(type=convert.RELEASE, nonce=second.nonce, error="no"), LOG)
    assert session.last_error == "no"
    assert session.confirmed == {"default": 1, "platform": 0}
    assert session.refused == {"default": 2, "platform": 0}
    assert session.next(catalogue, LOG) is None  # the same again would be refused again
    catalogue.take([made(namespace="other", version=1)])
    assert session.next(catalogue, LOG) is None
    catalogue.take([made(policy("a"), policy("good"), version=3)])
    third = push(session, catalogue)
    assert sent(third) == ["default", "good"]
    assert not third.removed
    ack(session, third, default=3, platform=0)
    assert session.last_error == ""
    assert not session.refused


def test_a_refused_set_is_not_sent_again_when_only_its_target_was_forgotten(
    catalogue: Catalogue,
) -> None:
    catalogue.take([made(policy())])
    session = hello()
    session.nack(Nack(nonce=push(session, catalogue).nonce, error="no"), LOG)
    catalogue._targets.clear()
    assert session.next(catalogue, LOG) is None


def test_who_holds_everything_is_told_that_it_is_current(catalogue: Catalogue) -> None:
    catalogue.take([made(policy())])
    target = catalogue.target("default", {})
    assert target is not None
    session = hello(held=target.held)
    assert idle(session.next(catalogue, LOG)) == ""
    assert session.next(catalogue, LOG) is None


def test_who_held_more_is_told_to_drop_it(catalogue: Catalogue) -> None:
    catalogue.take([made(policy())])
    target = catalogue.target("default", {})
    assert target is not None
    session = hello(held={**target.held, "document/AccessPolicy/default/old": "x"})
    found = push(session, catalogue)
    assert not found.resources
    assert found.removed == ["document/AccessPolicy/default/old"]


def test_answers_to_nothing_are_not_counted(catalogue: Catalogue) -> None:
    catalogue.take([made(policy())])
    session = hello()
    assert not session.ack(Ack(nonce="1"))
    found = push(session, catalogue)
    assert not session.ack(Ack(nonce=found.nonce + "x"))
    assert not session.nack(Nack(nonce=""), LOG)
    assert session.next(catalogue, LOG) is None
    ack(session, found)
    assert not session.nack(Nack(nonce=found.nonce), LOG)


def test_sidecars_alike_share_one_target_and_one_delta(catalogue: Catalogue) -> None:
    catalogue.take([made(policy())])
    one, two = hello(labels={"a": "b"}), hello(labels={"a": "b"})
    for session in (one, two):
        ack(session, push(session, catalogue), default=1, platform=0)
    catalogue.take([made(policy(path="/2"), version=2)])
    target = catalogue.target("default", {"a": "b"})
    assert target is not None
    assert target.delta(one._known) is target.delta(two._known)


def test_an_older_release_never_replaces_a_newer_one(catalogue: Catalogue) -> None:
    assert catalogue.take([made(version=3)]) == {"default"}
    assert catalogue.take([made(version=2), made(version=3)]) == set()
    assert [r.version for r in catalogue.releases()] == [3, 0]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"sidecar_id": ""}, "sidecar_id"),
        ({"sidecar_id": "a\nb"}, "sidecar_id"),
        ({"namespace": "No"}, "namespace"),
        ({"labels": {str(n): "" for n in range(65)}}, "labels"),
        ({"labels": {"a": "b" * 254}}, "labels"),
        ({"subscriptions": []}, "subscriptions"),
    ],
)
def test_a_hello_that_makes_no_sense_is_refused(change: dict[str, object], expected: str) -> None:
    fields: dict[str, object] = {
        "sidecar_id": "one",
        "namespace": "default",
        "subscriptions": [Subscription(type=convert.RELEASE)],
    }
    message = Hello(**{**fields, **change})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=expected):
        Session(message, address="", since=0.0)


def test_what_it_says_of_itself_is_bounded_and_no_command(catalogue: Catalogue) -> None:
    message = Hello(
        sidecar_id="one", namespace="default", build="1\x1b[2J\x00",
        subscriptions=[Subscription(type=convert.RELEASE)],
        enforced=convert.enforced_to_wire({f"n{n}": n for n in range(1000)} | {"default": 7}),
    )  # fmt: skip
    session = Session(message, address="", since=0.0)
    assert session.enforced == {"default": 7}
    assert session.build == "1\N{REPLACEMENT CHARACTER}[2J\N{REPLACEMENT CHARACTER}"
    catalogue.take([made(policy())])
    nonce = push(session, catalogue).nonce
    session.nack(Nack(type=convert.RELEASE, nonce=nonce, error="x\x00y\nz" + "e" * 9000), LOG)
    assert session.last_error.startswith("x\N{REPLACEMENT CHARACTER}y\nz")
    assert len(session.last_error) == 4096
