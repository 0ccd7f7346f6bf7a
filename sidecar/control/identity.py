"""Which workload a sidecar belongs to, before it is sent anything: shown, not said.

Two things show it: the projected service-account token of its pod, checked by the cluster's
TokenReview API or with the cluster's keys, or a client certificate with a SPIFFE id. They give the
namespace, the service account and, from a token, the pod. The labels, by which documents are
selected, come from the webhook's signed registration of that pod (`facts.registration`).

Sources: Kubernetes authentication.k8s.io/v1 TokenReview; claims of bound service-account tokens
(KEP-1205); the path `/ns/NAMESPACE/sa/ACCOUNT` of SPIFFE ids is how Istio and SPIRE name accounts.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Protocol

import orjson

from sidecar.decide import tokens, workloads
from sidecar.decide.keys import parse_jwks
from sidecar.decide.outcomes import NeedKeys
from sidecar.decide.tokens import Issuer, Rejected, Verified
from sidecar.errors import ClusterUnreachable, IdentityRefused, Misuse
from sidecar.facts.jwks import KeyStore
from sidecar.facts.kubernetes import KubernetesApi
from sidecar.facts.registration import Registration, verify

REVIEWS: Final = "/apis/authentication.k8s.io/v1/tokenreviews"
AT_ONCE: Final = 32  # reviews; a reconnecting fleet waits its turn
LONGEST_NAME: Final = 253  # characters
MAX_TOKEN: Final = 16 * 1024  # characters
_USER: Final = "system:serviceaccount:"
_EXTRA: Final = "authentication.kubernetes.io/pod-name"


@dataclass(frozen=True, slots=True)
class Workload:
    """Who a sidecar is of; `pod` is empty where that is not shown."""

    namespace: str
    service_account: str
    pod: str = ""
    labels: Mapping[str, str] | None = None
    """As the webhook signed them; None where none are needed."""

    def name(self, given: str) -> str:
        """By which the fleet knows it: no sidecar can take the place of another workload's."""
        whole = f"{self.namespace}/{self.pod or f'{self.service_account}:{given}'}"
        if len(whole) <= LONGEST_NAME:
            return whole
        digest = hashlib.sha256(whole.encode()).hexdigest()[:32]
        return f"{whole[: LONGEST_NAME - 33]}-{digest}"

    @property
    def account(self) -> str:
        """What it takes its place in the fleet from; empty where its pod is shown: that is one."""
        return "" if self.pod else f"{self.namespace}/{self.service_account}"


class WorkloadTokens(Protocol):
    """How service-account tokens are checked."""

    async def check(self, token: str) -> Workload:
        """Whose it is. Raises IdentityRefused, or ClusterUnreachable where nobody can say."""

    async def close(self) -> None:
        """Lets go of connections."""


class TokenReviews:
    """By asking the cluster, which also knows whether the pod still lives."""

    def __init__(self, api: KubernetesApi, audience: str) -> None:
        self._api = api
        self._audience = audience
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def check(self, token: str) -> Workload:
        review = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [self._audience]},
        }
        async with self._turns:
            status = (await self._api.create(REVIEWS, review)).get("status")
        if not isinstance(status, dict) or status.get("authenticated") is not True:
            raise IdentityRefused("the cluster does not vouch for the service-account token")
        # A cluster that knows nothing of audiences leaves them out: the token may be for others.
        if self._audience not in (status.get("audiences") or ()):
            raise IdentityRefused(f"the service-account token is not for {self._audience}")
        user = status.get("user") or {}
        namespace, _, account = str(user.get("username", "")).removeprefix(_USER).partition(":")
        if not str(user.get("username", "")).startswith(_USER) or not namespace or not account:
            raise IdentityRefused("the token is not a service account's")
        pods = (user.get("extra") or {}).get(_EXTRA) or [""]
        return Workload(namespace, account, str(pods[0]))

    async def close(self) -> None:
        await self._api.close()


class ClusterKeys:
    """With the keys of the cluster, as its issuer publishes them: no call for each sidecar, and no
    knowledge of pods that are gone; a token counts until it expires."""

    def __init__(
        self, issuer: Issuer, keys: KeyStore, clock: Callable[[], float] = time.time
    ) -> None:
        """`issuer` holds the keys itself, or `keys` fetch them."""
        self._issuer = issuer
        self._keys = keys
        self._clock = clock
        keys.use([issuer])

    async def check(self, token: str) -> Workload:
        found = self._verify(token)
        if isinstance(found, NeedKeys):
            await self._keys.fetch(self._issuer.issuer)
            found = self._verify(token)
        if isinstance(found, Rejected):
            raise IdentityRefused(f"the service-account token does not stand: {found.reason}")
        if not isinstance(found, Verified):
            raise ClusterUnreachable(f"the keys of {self._issuer.issuer} cannot be had")
        return _workload(found.claims)

    def _verify(self, token: str) -> object:
        issuers = {self._issuer.issuer: self._issuer}
        return tokens.verify(token.encode(), issuers, self._keys.states, self._clock())

    async def close(self) -> None:
        await self._keys.close()


def cluster_issuer(issuer: str, audience: str, keys: str) -> Issuer:
    """The cluster as an issuer of tokens; `keys` is the address of its JWK Set, or a file of it.
    Raises Misuse."""
    held = None
    if not keys.startswith("https://"):
        try:
            held = parse_jwks(orjson.loads(Path(keys).read_bytes()))
        except (OSError, ValueError) as error:
            raise Misuse(f"--workload-tokens {keys}: {error}") from None
    return Issuer(
        name="cluster", issuer=issuer, audiences=frozenset([audience]),
        algorithms=frozenset(["RS256", "ES256"]), token_types=frozenset(["jwt"]), skew=30.0,
        subject="sub", scopes="scope", keys=held, jwks_uri=None if held is not None else keys,
    )  # fmt: skip


def _workload(claims: Mapping[str, Any]) -> Workload:
    bound = claims.get("kubernetes.io")
    names = []
    for kind in ("serviceaccount", "pod"):
        part = bound.get(kind) if isinstance(bound, dict) else None
        names.append(part.get("name") if isinstance(part, dict) else None)
    namespace = bound.get("namespace") if isinstance(bound, dict) else None
    account, pod = names
    if not isinstance(namespace, str) or not isinstance(account, str):
        raise IdentityRefused("the token is not a bound service-account token")
    return Workload(namespace, account, pod if isinstance(pod, str) else "")


class Identities:
    """Checks all that a sidecar presents when its stream begins."""

    def __init__(
        self,
        tokens: WorkloadTokens | None,
        registration_keys: Callable[[], Iterable[bytes]] | None,
        trust_domain: str = "",
    ) -> None:
        """Without `tokens` only certificates count. `registration_keys` are the webhook's, asked
        for each time; without them sidecars name their labels themselves. Certificates count of
        workloads of `trust_domain` alone, whomever else their CAs vouch for."""
        self._tokens = tokens
        self._registration_keys = registration_keys
        self._trust_domain = trust_domain

    async def workload(self, token: str | None, spiffe: str | None, registration: str) -> Workload:
        """Whose sidecar it is, and its labels. Raises IdentityRefused or ClusterUnreachable."""
        return await self.registered(await self.shown(token, spiffe), registration)

    async def shown(self, token: str | None, spiffe: str | None) -> Workload:
        """Whose sidecar it is. A token counts where there is one; a certificate's SPIFFE id, which
        the listener has verified, otherwise. Raises IdentityRefused or ClusterUnreachable."""
        if token is not None and self._tokens is not None:
            if len(token) > MAX_TOKEN:
                raise IdentityRefused("the service-account token is too long")
            found = await self._tokens.check(token)
            if not found.pod:
                # Such a one outlives its pod, and could take as many places in the fleet as it
                # says names; the kubelet's are always a pod's.
                raise IdentityRefused("the service-account token is not bound to a pod")
            return found
        if spiffe is not None:
            return _of_certificate(spiffe, self._trust_domain)
        raise IdentityRefused(
            "nothing shows whose sidecar it is: give it its pod's token "
            "(--control-plane-token FILE) or a certificate (--control-plane-cert FILE)"
        )

    async def registered(self, found: Workload, registration: str) -> Workload:
        """The same with its labels, as the webhook has signed them. Raises IdentityRefused."""
        if self._registration_keys is None:
            return found
        if not registration:
            raise IdentityRefused(
                "it has no registration, so its labels are only its own word: it was not injected "
                "by the webhook, or by one of an older version"
            )
        signed = await asyncio.to_thread(self._verified, registration)
        if (signed.namespace, signed.service_account) != (found.namespace, found.service_account):
            raise IdentityRefused(
                f"its registration is of {signed.namespace}/{signed.service_account}, and it is of "
                f"{found.namespace}/{found.service_account}"
            )
        if found.pod and not signed.is_of(found.pod):
            raise IdentityRefused(f"its registration is of another pod than {found.pod}")
        return replace(found, labels=signed.labels)

    def _verified(self, registration: str) -> Registration:
        return verify(registration, self._registration_keys() if self._registration_keys else ())

    async def close(self) -> None:
        """Lets go of connections."""
        if self._tokens is not None:
            await self._tokens.close()


def _of_certificate(spiffe: str, trust_domain: str) -> Workload:
    try:
        found = workloads.workload(spiffe, 0.0)
        domain, _ = workloads.parse_id(spiffe)
    except ValueError as error:
        raise IdentityRefused(f"its certificate names no workload: {error}") from None
    if domain != trust_domain:
        raise IdentityRefused(f"its certificate is of trust domain {domain}, not {trust_domain}")
    if not found.namespace or not found.service_account:
        raise IdentityRefused(
            "its certificate's SPIFFE id is not of the form spiffe://DOMAIN/ns/NAMESPACE/sa/ACCOUNT"
        )
    return Workload(found.namespace, found.service_account)
