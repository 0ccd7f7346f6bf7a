"""Whose sidecar it is: by token review, by the cluster's keys, by certificate; and its labels."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.algorithms import RSAAlgorithm

from sidecar.control.identity import (
    ClusterKeys,
    Identities,
    TokenReviews,
    Workload,
    WorkloadTokens,
    cluster_issuer,
)
from sidecar.errors import ClusterUnreachable, IdentityRefused, Misuse
from sidecar.facts.jwks import KeyStore
from sidecar.facts.kubernetes import Cluster, KubernetesApi
from sidecar.facts.registration import Registration, sign
from tests.kubernetes import REVIEWS, Api, api_server

AUDIENCE = "sidecar-control-plane"
ISSUER = "https://kubernetes.default.svc"
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
WEBHOOK = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = [WEBHOOK.public_key().public_bytes_raw()]


def reviews(api: Api) -> TokenReviews:
    return TokenReviews(KubernetesApi(Cluster(api.url, None, None)), AUDIENCE)


async def test_a_review_says_namespace_account_and_pod() -> None:
    async with api_server() as api:
        tokens = reviews(api)
        api.account("t", "shop", "web", "web-1")
        assert await tokens.check("t") == Workload("shop", "web", "web-1")
        [(method, path, body)] = api.calls
        assert (method, path) == ("POST", REVIEWS)
        assert body["spec"] == {"token": "t", "audiences": [AUDIENCE]}
        await tokens.close()


def changed(**fields: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda status: {**status, **fields}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (changed(authenticated=False), "does not vouch"),
        (changed(authenticated="true"), "does not vouch"),
        # What an API server without audiences says of any token: it may be for the API itself.
        (lambda status: {n: v for n, v in status.items() if n != "audiences"}, "not for"),
        (changed(user={"username": "alice"}), "not a service account's"),
        (changed(user={"username": "system:serviceaccount:shop"}), "not a service account's"),
        (changed(user=None), "not a service account's"),
    ],
)
async def test_what_a_review_does_not_say_is_refused(
    change: Callable[[dict[str, Any]], dict[str, Any]], why: str
) -> None:
    async with api_server() as api:
        tokens = reviews(api)
        api.account("t", "shop", "web")
        api.accounts["t"] = change(api.accounts["t"])
        api.accounts["t"].setdefault("audiences", [AUDIENCE]) if why != "not for" else None
        if why == "not for":
            api._review = lambda spec: api.accounts[spec["token"]]  # type: ignore[method-assign]
        with pytest.raises(IdentityRefused, match=why):
            await tokens.check("t")
        await tokens.close()


async def test_a_token_for_somebody_else_is_refused_and_a_broken_api_is_not_a_refusal() -> None:
    async with api_server() as api:
        tokens = reviews(api)
        api.account("t", "shop", "web", audience="https://kubernetes.default.svc")
        for token in ("t", "unknown"):
            with pytest.raises(IdentityRefused, match="does not vouch"):
                await tokens.check(token)
        api.broken = 1
        with pytest.raises(ClusterUnreachable, match="500 etcd is away"):
            await tokens.check("t")
        await tokens.close()
    tokens = reviews(api)
    with pytest.raises(ClusterUnreachable, match="POST"):
        await tokens.check("t")
    await tokens.close()


BOUND = {
    "namespace": "shop",
    "serviceaccount": {"name": "web", "uid": "u"},
    "pod": {"name": "web-1", "uid": "p"},
}


def token(key: rsa.RSAPrivateKey = KEY, bound: Any = BOUND, **claims: Any) -> str:
    payload = {
        "iss": ISSUER, "aud": [AUDIENCE], "exp": int(time.time()) + 600, "iat": int(time.time()),
        "sub": "system:serviceaccount:shop:web",
        "kubernetes.io": bound,
        **claims,
    }  # fmt: skip
    return jwt.encode(payload, key, algorithm="RS256", headers={"kid": "k", "typ": None})


def cluster_keys(folder: Path) -> ClusterKeys:
    jwk = {**json.loads(RSAAlgorithm.to_jwk(KEY.public_key())), "kid": "k", "alg": "RS256"}
    file = folder / "jwks.json"
    file.write_text(json.dumps({"keys": [jwk]}))
    return ClusterKeys(cluster_issuer(ISSUER, AUDIENCE, str(file)), KeyStore())


async def test_the_clusters_keys_say_the_same(tmp_path: Path) -> None:
    tokens = cluster_keys(tmp_path)
    assert await tokens.check(token()) == Workload("shop", "web", "web-1")
    await tokens.close()


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (token(aud=["vault"]), "audience_mismatch"),
        (token(aud=None), "audience_mismatch"),
        (token(exp=1000), "expired"),
        (token(iss="https://other"), "issuer_unknown"),
        (token(rsa.generate_private_key(public_exponent=65537, key_size=2048)), "signature"),
        ("no.token.", "malformed"),
        (token(bound={"namespace": "shop"}), "bound service-account"),
        (token(bound=None), "bound service-account"),
    ],
)
async def test_other_tokens_are_refused(tmp_path: Path, made: str, why: str) -> None:
    tokens = cluster_keys(tmp_path)
    with pytest.raises(IdentityRefused, match=why):
        await tokens.check(made)
    await tokens.close()


async def test_keys_that_cannot_be_had_are_not_a_refusal() -> None:
    issuer = cluster_issuer(ISSUER, AUDIENCE, "https://127.0.0.1:9/keys")
    tokens = ClusterKeys(issuer, KeyStore())
    with pytest.raises(ClusterUnreachable, match="cannot be had"):
        await tokens.check(token())
    await tokens.close()


def test_a_file_of_keys_that_is_none_is_said_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("{}")
    for name in ("x", "missing"):
        with pytest.raises(Misuse, match="--workload-tokens"):
            cluster_issuer(ISSUER, AUDIENCE, str(tmp_path / name))


class Known(WorkloadTokens):
    async def check(self, token: str) -> Workload:
        if token == "loose":
            return Workload("shop", "web")
        if token != "right":
            raise IdentityRefused("wrong")
        return Workload("shop", "web", "web-1")

    async def close(self) -> None:
        pass


def registration(
    namespace: str = "shop", account: str = "web", pod: str = "web-", generated: bool = True
) -> str:
    return sign(Registration(namespace, account, pod, generated, {"app": "web"}), WEBHOOK)


async def test_labels_are_those_that_were_signed() -> None:
    identities = Identities(Known(), lambda: PUBLIC, "prod")
    found = await identities.workload("right", None, registration())
    assert found == Workload("shop", "web", "web-1", {"app": "web"})
    spiffe = "spiffe://prod/ns/shop/sa/web"
    found = await identities.workload(None, spiffe, registration())
    assert found == Workload("shop", "web", "", {"app": "web"})


@pytest.mark.parametrize(
    ("presented", "spiffe", "signed", "why"),
    [
        (None, None, registration(), "nothing shows whose"),
        ("wrong", None, registration(), "wrong"),
        # A bad token is not made good by a certificate.
        ("wrong", "spiffe://prod/ns/shop/sa/web", registration(), "wrong"),
        ("x" * 20000, None, registration(), "too long"),
        ("loose", None, registration(), "not bound to a pod"),
        ("right", None, "", "has no registration"),
        ("right", None, registration("bank"), "of bank/web, and it is of shop/web"),
        ("right", None, registration(account="root"), "of shop/root"),
        ("right", None, registration(pod="api-"), "another pod than web-1"),
        ("right", None, registration(pod="web", generated=False), "another pod than web-1"),
        (None, "spiffe://prod/workload/web", registration(), "not of the form"),
        (None, "https://prod/ns/shop/sa/web", registration(), "names no workload"),
        (None, "spiffe://other/ns/shop/sa/web", registration(), "trust domain other, not prod"),
    ],
)  # fmt: skip
async def test_who_shows_less_is_refused(
    presented: str | None, spiffe: str | None, signed: str, why: str
) -> None:
    identities = Identities(Known(), lambda: PUBLIC, "prod")
    with pytest.raises(IdentityRefused, match=why):
        await identities.workload(presented, spiffe, signed)


async def test_without_the_webhooks_keys_labels_are_the_sidecars_own_word() -> None:
    assert (await Identities(Known(), None).workload("right", None, "")).labels is None


def test_no_sidecar_takes_the_place_of_another_workloads() -> None:
    assert Workload("shop", "web", "web-1").name("anything") == "shop/web-1"
    assert Workload("shop", "web").name("host-7") == "shop/web:host-7"
    names = [Workload("shop", "web").name("x" * 300 + end) for end in "ab"]
    assert len(set(names)) == 2
    assert {len(name) for name in names} == {253}
