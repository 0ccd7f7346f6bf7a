"""What crosses the wire comes back as it was."""

from __future__ import annotations

from sidecar.errors import Problem
from sidecar.wire import convert


def test_a_problem_keeps_all_but_its_place_in_a_file() -> None:
    problem = Problem("m", "f.yaml", 3, 4, "AccessPolicy/default/p", "spec.rules[0]", "h", True)
    back = convert.problem_from_wire(convert.problem_to_wire(problem))
    assert back == Problem(
        "m", document="AccessPolicy/default/p", pointer="spec.rules[0]", hint="h", warning=True
    )


def test_signatures_endorsements_and_versions() -> None:
    signatures = [(b"key", b"signature"), (b"key2", b"signature2")]
    assert convert.signed_from_wire(convert.signed_to_wire(b"m", signatures)) == (b"m", signatures)
    endorsements = [(b"key", b"by", b"signature")]
    wire = convert.endorsements_to_wire(endorsements)
    assert convert.endorsements_from_wire(wire) == endorsements
    versions = {"default": 3, "platform": 0}
    assert convert.enforced_from_wire(convert.enforced_to_wire(versions)) == versions
    assert convert.versions_from_wire(convert.versions_to_wire(versions)) == versions


def test_resource_names_of_the_two_kinds_never_meet() -> None:
    assert convert.manifest_name("default") == "manifest/default"
    assert convert.document_name("K/default/n") == "document/K/default/n"
