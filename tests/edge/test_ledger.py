"""What is counted of decisions."""

from __future__ import annotations

from sidecar.decide.outcomes import Code, Identity, Refuse
from sidecar.edge.ledger import _token_result


def test_a_caller_stands_also_where_something_else_cannot_be_had() -> None:
    alice = Identity("https://idp.example", "alice")
    known = Refuse(Code.UNAVAILABLE, "enricher_unavailable", presented=True, identity=alice)
    unknown = Refuse(Code.UNAVAILABLE, "keys_unavailable", presented=True)
    assert [_token_result(each) for each in (known, unknown)] == ["valid", "keys_unavailable"]
