"""Manifests, and the exact set of documents that a sidecar must hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import orjson
import pytest

from sidecar.decide.documents import Document
from sidecar.errors import ReleaseRefused
from sidecar.facts.releases import (
    Assignment,
    Manifest,
    SignedManifest,
    cosign,
    manifest_of,
    verify_assignment,
)
from sidecar.facts.signing import TrustedKeys, endorse, raw_public_key
from tests.publishing import KEY, OTHER_KEY, names, policy, release

TRUST = TrustedKeys(frozenset([raw_public_key(KEY)]))
EMPTY_PLATFORM = release(namespace="platform", version=0)


def verify(
    manifests: Sequence[SignedManifest],
    documents: Sequence[Document] = (),
    *,
    labels: Mapping[str, str] | None = None,
    floors: Mapping[str, int] | None = None,
    trust: TrustedKeys = TRUST,
) -> Assignment:
    return verify_assignment(
        manifests,
        documents,
        namespace="default",
        labels=labels or {},
        trust=trust,
        floors=floors or {},
    )


def test_a_manifest_is_read_back_as_it_was_written() -> None:
    manifest = manifest_of(
        [policy("b", selector={"app": "x"}), policy("a")],
        namespace="default", version=7, floor=3, issued=1700000000,
    )  # fmt: skip
    assert Manifest.from_bytes(manifest.to_bytes()) == manifest
    assert [entry.name for entry in manifest.entries] == ["a", "b"]


@pytest.mark.parametrize(
    "change",
    [
        {"version": "7"},
        {"version": True},
        {"version": -1},
        {"floor": 8},
        {"namespace": None},
        {"entries": {}},
        {"entries": [{"kind": "K", "name": "n", "selector": [], "sha256": ""}]},
        {"entries": [{"kind": "K", "name": "n", "selector": {"a": 1}, "sha256": ""}]},
        {"entries": [{"kind": "K", "name": "n", "selector": {}, "sha256": "", "more": 1}]},
        {"entries": [{"kind": "K", "name": "n", "selector": {}, "sha256": s} for s in "ab"]},
        {"more": 1},
    ],
)
def test_a_manifest_of_another_form_is_refused(change: dict[str, object]) -> None:
    body = orjson.loads(release(version=7, floor=1).manifest)
    data = orjson.dumps({**body, **change}, option=orjson.OPT_SORT_KEYS)
    with pytest.raises(ReleaseRefused):
        Manifest.from_bytes(data)


@pytest.mark.parametrize("data", [b"", b"[]", b"1", b"{}", b"\xff", b"[" * 10000])
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(ReleaseRefused):
        Manifest.from_bytes(data)


def test_a_manifest_not_in_canonical_form_is_refused() -> None:
    with pytest.raises(ReleaseRefused, match="canonical"):
        Manifest.from_bytes(release().manifest + b" ")


def test_exactly_what_the_selectors_say_is_assigned() -> None:
    ours, theirs = policy("ours", selector={"app": "a"}), policy("theirs", selector={"app": "b"})
    every, platform = policy("every"), policy("z", "platform")
    manifests = [
        release([ours, theirs, every], version=3),
        release([platform], namespace="platform", version=2),
    ]
    assignment = verify(manifests, [every, platform, ours], labels={"app": "a"})
    assert names(assignment.documents) == ["z", "every", "ours"]
    assert assignment.versions == {"default": 3, "platform": 2}
    assert assignment.version == "default@3 platform@2"
    with pytest.raises(ReleaseRefused, match="theirs is not part"):
        verify(manifests, [every, platform, ours, theirs], labels={"app": "a"})
    with pytest.raises(ReleaseRefused, match="missing: AccessPolicy/default/ours"):
        verify(manifests, [every, platform], labels={"app": "a"})


def test_an_altered_document_is_refused() -> None:
    with pytest.raises(ReleaseRefused, match="altered"):
        verify([release([policy(path="/a")]), EMPTY_PLATFORM], [policy(path="/b")])


def test_a_selector_that_differs_from_the_manifests_is_refused() -> None:
    document = policy(selector={"app": "a"})
    manifest = Manifest.from_bytes(release([document]).manifest)
    lying = replace(manifest, entries=(replace(manifest.entries[0], selector={}),))
    signed = cosign(SignedManifest(lying.to_bytes(), ()), KEY)
    with pytest.raises(ReleaseRefused, match="altered"):
        verify([signed, EMPTY_PLATFORM], [document])


def test_both_manifests_are_needed_and_no_others() -> None:
    for manifests in (
        [],
        [release()],
        [EMPTY_PLATFORM],
        [release(), EMPTY_PLATFORM, release(namespace="other")],
        [release(), EMPTY_PLATFORM, release(version=2)],
    ):
        with pytest.raises(ReleaseRefused, match="manifests"):
            verify(manifests)


def test_a_sidecar_of_platform_needs_one_manifest() -> None:
    assignment = verify_assignment(
        [EMPTY_PLATFORM], [], namespace="platform", labels={}, trust=TRUST, floors={}
    )
    assert assignment.versions == {"platform": 0}


def test_floors_only_rise_and_nothing_below_them_is_enforced() -> None:
    raised = verify([release(version=5, floor=4), EMPTY_PLATFORM], floors={"default": 2})
    assert raised.floors == {"default": 4, "platform": 0}
    with pytest.raises(ReleaseRefused, match=r"default@3 is below the floor, 4"):
        verify([release(version=3), EMPTY_PLATFORM], floors=raised.floors)
    again = verify([release(version=4), EMPTY_PLATFORM], floors=raised.floors)  # a rollback
    assert again.floors == {"default": 4, "platform": 0}


def test_another_keys_signature_is_refused_and_an_endorsed_ones_is_not() -> None:
    foreign = [release(key=OTHER_KEY), EMPTY_PLATFORM]
    with pytest.raises(ReleaseRefused, match="trusted keys"):
        verify(foreign)
    endorsement = endorse(raw_public_key(OTHER_KEY), KEY)
    assignment = verify_assignment(
        foreign, [], namespace="default", labels={}, trust=TRUST, floors={},
        endorsements=[endorsement],
    )  # fmt: skip
    assert assignment.trust == TRUST


def test_a_changed_byte_anywhere_in_a_manifest_is_refused() -> None:
    signed = release([policy()])
    for place in range(len(signed.manifest)):
        data = bytearray(signed.manifest)
        data[place] ^= 1
        with pytest.raises(ReleaseRefused):
            verify([replace(signed, manifest=bytes(data)), EMPTY_PLATFORM], [policy()])


def test_the_first_use_pins_the_keys_of_what_was_verified() -> None:
    first = verify([release(), EMPTY_PLATFORM], trust=TrustedKeys(first_use=True))
    assert first.trust.pinned == {raw_public_key(KEY)}
    with pytest.raises(ReleaseRefused):
        verify([release(key=OTHER_KEY), EMPTY_PLATFORM], trust=first.trust)


def test_two_signatures_while_keys_rotate() -> None:
    both = cosign(release(), OTHER_KEY)
    platform = cosign(EMPTY_PLATFORM, OTHER_KEY)
    for key in (KEY, OTHER_KEY):
        assert verify([both, platform], trust=TrustedKeys(frozenset([raw_public_key(key)])))
