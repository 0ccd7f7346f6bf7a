"""Receipts as values: what verifies, and what was changed, left out or signed by somebody else."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from sidecar.control.subjects.receipts import (
    CONSENT,
    ERASURE,
    LONGEST,
    ReceiptRefused,
    claims,
    digest,
    published,
    sign,
    verify,
    verify_all,
)

SECRET, OTHER = b"s" * 32, b"o" * 32


def chain(count: int, customer: str = "cus_a") -> list[str]:
    made: list[str] = []
    for number in range(1, count + 1):
        body = {"sub": customer, "number": number, "previous": digest(made[-1]) if made else ""}
        made.append(sign(body, SECRET, CONSENT))
    return made


def test_a_receipt_verifies_with_the_published_key_alone() -> None:
    jwks = json.loads(json.dumps(published(SECRET)))
    assert "d" not in jwks["keys"][0]
    one = sign({"sub": "cus_ü", "values": {"amount": 7}}, SECRET, CONSENT)
    assert verify(one, jwks) == claims(one) == {"sub": "cus_ü", "values": {"amount": 7}}


def test_a_chain_has_no_gap() -> None:
    made, jwks = chain(4), published(SECRET)
    assert [each["number"] for each in verify_all(made, jwks)] == [1, 2, 3, 4]
    assert verify_all([], jwks) == []
    for wrong in (made[1:], [made[0], *made[2:]], [made[1], made[0]], [made[0], made[0]]):
        with pytest.raises(ReceiptRefused, match="follow"):
            verify_all(wrong, jwks)
    stranger = sign({"sub": "cus_b", "number": 2, "previous": digest(made[0])}, SECRET, CONSENT)
    with pytest.raises(ReceiptRefused, match="somebody else"):
        verify_all([made[0], stranger], jwks)


def tampered(receipt: str, **header: Any) -> str:
    head, payload, signature = receipt.split(".")
    body = json.loads(base64.urlsafe_b64decode(head + "==")) | header
    head = base64.urlsafe_b64encode(json.dumps(body).encode()).rstrip(b"=").decode()
    return f"{head}.{payload}.{signature}"


def test_what_is_not_ours_is_refused() -> None:
    jwks, good = published(SECRET), chain(1)[0]
    head, payload, signature = good.split(".")
    altered = base64.urlsafe_b64encode(b'{"sub":"cus_evil"}').rstrip(b"=").decode()
    bad = [
        "", "a.b.c", good[:-2], f"{head}.{altered}.{signature}", f"{head}.{payload}.",
        tampered(good, alg="none"), tampered(good, alg="HS256"), tampered(good, kid="x"),
        sign(claims(good), OTHER, CONSENT), sign(claims(good), SECRET, ERASURE),
        "x" * (LONGEST + 1),
    ]  # fmt: skip
    for each in bad:
        with pytest.raises(ReceiptRefused):
            verify(each, jwks)
    unusable: list[dict[str, Any]] = [{"keys": []}, {}, {"keys": [{"kid": "?"}]}]
    for keys in unusable:
        with pytest.raises(ReceiptRefused):
            verify(good, keys)
