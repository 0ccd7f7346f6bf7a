"""API keys: what a document says of one, and how one is looked up."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.decide import api_keys
from sidecar.decide.api_keys import MAX_KEY, ApiKey, check, expiry
from sidecar.decide.compile import compile_snapshot, validate
from sidecar.decide.parse import Source, parse
from sidecar.decide.tokens import Rejected, Verified

SECRET = b"5pCnG2lPp0uC0bVQ9cW7xw3nJk8aH1dZ"
HASH = "sha256:" + hashlib.sha256(SECRET).hexdigest()


def document(name: str = "k", **spec: Any) -> str:
    body = {"id": "partner", "hash": HASH, **spec}
    head = {"apiVersion": "authz.sidecar/v1", "kind": "ApiKey", "metadata": {"name": name}}
    return json.dumps({**head, "spec": {k: v for k, v in body.items() if v is not None}})


def problems_of(*texts: str) -> list[str]:
    documents, problems = parse([Source(f"f{n}", text) for n, text in enumerate(texts)])
    return [str(problem) for problem in problems or validate(documents)]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"id": "abc"}, "not an id"),
        ({"id": "a.bcd"}, "not an id"),
        ({"id": "a" * 65}, "not an id"),
        ({"id": "ünïcödé"}, "not an id"),
        ({"id": None}, "id is missing"),
        ({"hash": None}, "hash is missing"),
        ({"hash": "sha256:" + "A" * 64}, "not the hash of a secret"),
        ({"hash": "sha256:" + "a" * 63}, "not the hash of a secret"),
        ({"hash": "sha1:" + "a" * 40}, "not the hash of a secret"),
        ({"expires": "2027-01-31"}, "is not a moment"),
        ({"expires": "2027-01-31T00:00:00"}, "is not a moment"),
        ({"expires": "soon"}, "is not a moment"),
        ({"scopes": ["a b"]}, "holds a space"),
        ({"attributes": {"sub": "x"}}, "is said elsewhere"),
        ({"attributes": {"iss": "https://idp.example"}}, "is said elsewhere"),
        ({"secret": "x"}, "unknown field"),
    ],
)
def test_what_no_document_may_say(spec: dict[str, Any], words: str) -> None:
    [problem] = problems_of(document(**spec))
    assert words in problem


def test_a_secret_in_the_place_of_its_hash_is_not_quoted() -> None:
    [problem] = problems_of(document(hash=SECRET.decode()))
    assert SECRET.decode() not in problem


def test_an_id_stands_for_one_key() -> None:
    assert problems_of(document("a"), document("b", id="other")) == []
    [problem] = problems_of(document("a"), document("b"))
    assert "already has the id" in problem


def test_no_issuer_of_tokens_speaks_for_keys() -> None:
    issuer = {
        "apiVersion": "authz.sidecar/v1", "kind": "TokenIssuer", "metadata": {"name": "i"},
        "spec": {"issuer": api_keys.ISSUER, "audiences": ["a"], "jwks": {"uri": "https://a/b"}},
    }  # fmt: skip
    [problem] = problems_of(json.dumps(issuer))
    assert "stands for API keys" in problem


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:00:10Z", 10.0),
        ("1970-01-01T01:00:10+01:00", 10.0),
        ("1970-01-01T00:00:10.5Z", 10.5),
    ],
)
def test_expiry_is_a_moment(text: str, seconds: float) -> None:
    assert expiry(text) == seconds


def test_a_key_is_verified_to_the_same_object() -> None:
    """So that what is remembered of its caller is found again."""
    documents, problems = parse([Source("f", document(scopes=["a"], attributes={"n": 2**62}))])
    assert not problems
    keys = compile_snapshot(documents, namespace="default", labels={}).api_keys
    first = check(b"partner." + SECRET, keys, 0.0)
    assert isinstance(first, Verified)
    assert first is check(b"partner." + SECRET, keys, 1.0)
    assert first.claims == {"n": 2**62, "iss": "api-key", "sub": "partner", "scope": "a"}


@given(st.binary(max_size=MAX_KEY + 10))
def test_nothing_else_is_a_key(credential: bytes) -> None:
    keys = {
        b"partner": ApiKey("partner", hashlib.sha256(SECRET).digest(), "s", (), {}, float("inf"))
    }
    assert isinstance(check(credential, keys, 0.0), Rejected)
    assert isinstance(check(b"partner." + credential, keys, 0.0), Rejected)


def test_the_last_moment_of_a_key() -> None:
    keys = {b"partner": ApiKey("partner", hashlib.sha256(SECRET).digest(), "s", (), {}, 100.0)}
    assert isinstance(check(b"partner." + SECRET, keys, 99.9), Verified)
    assert isinstance(check(b"partner." + SECRET, keys, 100.0), Rejected)


@pytest.mark.parametrize(
    "text",
    [
        "2027-W01-1T00:00:00Z", "20270630T00Z", "2027-06-30x00:00Z", "2027-06-30", "2027-06-30T00:00:00",
        "2027-06-30 00:00:00Z", "2027-06-30T00:00Z", "2027-13-30T00:00:00Z", " 2027-06-30T00:00:00Z",
    ],
)  # fmt: skip
def test_a_moment_is_written_as_rfc_3339_has_it(text: str) -> None:
    with pytest.raises(ValueError, match=r"RFC 3339|must be in"):
        expiry(text)


def test_both_cases_and_any_offset_are_a_moment() -> None:
    assert expiry("2027-06-30t01:30:00.5+01:30") == expiry("2027-06-30T00:00:00Z") + 0.5
    assert expiry("2027-06-30T00:00:00z") == expiry("2027-06-30T00:00:00+00:00")
