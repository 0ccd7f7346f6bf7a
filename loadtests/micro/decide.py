"""What one decision costs in process: `python -m loadtests.micro.decide [--profile]`.

Each loop asserts its answer, so that what is timed is what is meant. Times are CPU time of this
process; on a noisy machine only ratios within one run count, so the raw RS256 check is timed too.
"""

from __future__ import annotations

import base64
import cProfile
import gc
import hashlib
import json
import pstats
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import cycle
from math import inf
from typing import Final

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from sidecar.decide.api_keys import ApiKey
from sidecar.decide.authorize import authorize
from sidecar.decide.cache import ExpiringCache
from sidecar.decide.caller import Evidence
from sidecar.decide.compile import compile_snapshot
from sidecar.decide.dpop import thumbprint
from sidecar.decide.keys import VERIFIERS
from sidecar.decide.outcomes import Permit, Refuse
from sidecar.decide.parse import Source, parse
from sidecar.decide.request import Request, canonical_target
from sidecar.decide.revocations import Revocation, Revocations, target
from sidecar.decide.snapshot import Snapshot
from sidecar.decide.tokens import Verified, verify

NOW = 1_800_000_000.0
CALLERS: Final = 1000  # each with a token
KEY = rsa.generate_private_key(65537, 2048)
BOUND = ec.generate_private_key(ec.SECP256R1())
JWK = {**jwt.algorithms.RSAAlgorithm.to_jwk(KEY.public_key(), as_dict=True), "kid": "k"}
DOCUMENTS = """
apiVersion: authz.sidecar/v1
kind: TokenIssuer
metadata: {name: corp}
spec: {issuer: "https://idp.example", audiences: [bank], jwks: {inline: {keys: [JWK]}}}
---
apiVersion: authz.sidecar/v1
kind: AccessPolicy
metadata: {name: p}
spec:
  rules:
  - {name: plain, match: {methods: [GET], paths: ["/plain/**"]}, require: {scopes: [read]}}
  - name: conditional
    match: {methods: [GET], paths: ["/accounts/{id}/**"]}
    when: request.params.id == token.account
"""


def snapshot(rules: int = 0) -> Snapshot:
    more = "".join(
        f"  - {{name: r{n}, match: {{paths: [/r{n}/x, '/r{n}/*']}}, require: {{scopes: [s]}}}}\n"
        for n in range(rules)
    )
    documents, problems = parse([Source("f", DOCUMENTS.replace("JWK", json.dumps(JWK)) + more)])
    assert not problems
    return compile_snapshot(documents, namespace="default", labels={})


def token(subject: str = "alice", **more: object) -> str:
    claims = {
        "iss": "https://idp.example", "aud": "bank", "sub": subject, "exp": NOW + 300,
        "account": "7", "scope": "read write", "jti": "x" * 32, **more,
    }  # fmt: skip
    return jwt.encode(claims, KEY, "RS256", headers={"kid": "k"})


def request(path: str, credential: str = "", scheme: str = "Bearer") -> Request:
    canonical, segments, query = canonical_target(path.encode())
    headers = [(b"host", b"h"), (b"user-agent", b"curl/8"), (b"accept", b"*/*")]
    if credential:
        headers.append((b"authorization", f"{scheme} {credential}".encode()))
    return Request("GET", canonical, segments, query, "h", "h", "http", headers, "192.0.2.1")


def bound_requests(count: int) -> list[Request]:
    """Requests with one token that is bound to BOUND, each with a DPoP proof of its own."""
    jwk = jwt.algorithms.ECAlgorithm.to_jwk(BOUND.public_key(), as_dict=True)
    credential = token(cnf={"jkt": thumbprint(jwk)})
    ath = base64.urlsafe_b64encode(hashlib.sha256(credential.encode()).digest()).rstrip(b"=")
    claims = {"htm": "GET", "htu": "http://h/plain/x", "iat": int(NOW), "ath": ath.decode()}
    header = {"typ": "dpop+jwt", "jwk": jwk}
    made = []
    for number in range(count):
        asked = request("/plain/x", credential, "DPoP")
        proof = jwt.encode({**claims, "jti": f"{number}"}, BOUND, "ES256", header)
        asked.headers.append((b"dpop", proof.encode()))
        made.append(asked)
    return made


def timed(work: Callable[[], object], count: int) -> float:
    """Microseconds of CPU for one, the median of several runs."""
    runs = []
    for _ in range(7):
        started = time.process_time()
        for _ in range(count):
            work()
        runs.append((time.process_time() - started) / count * 1e6)
    return statistics.median(runs)


class Bench:
    """What is decided, and the figures of it in microseconds by name."""

    RAW: Final = "raw RS256 check"
    FIRST: Final = "first sight of a token"
    WARM: Final = "warm, scopes only"
    WARM_P50: Final = "warm, scopes only, 1,000 callers: p50"
    WARM_P99: Final = "the same: p99"

    def __init__(self) -> None:
        self.small = snapshot()
        self.evidence = Evidence({}, ExpiringCache(10_000), ExpiringCache(10_000))
        self.credential = token()
        self.tokens = [token(f"user-{number}") for number in range(CALLERS)]
        self.asked = [request("/plain/x", each) for each in self.tokens]

    def permitted(self, asked: Request, held: Snapshot) -> Callable[[], None]:
        """A request with a known token, but one that nobody made before."""

        def work() -> None:
            asked.memo = None
            assert type(authorize(asked, held, self.evidence, NOW)) is Permit

        return work

    def raw_checks(self) -> Callable[[], None]:
        """Of all tokens: what nobody can do without at first sight."""
        parts = [each.rpartition(".") for each in self.tokens]
        signed = [(part[0].encode(), jwt.utils.base64url_decode(part[2])) for part in parts]
        public = KEY.public_key()

        def work() -> None:
            for message, signature in signed:
                assert VERIFIERS["RS256"].verify(message, public, signature)

        return work

    def first_sights(self) -> None:
        fresh = Evidence({}, ExpiringCache(10_000), ExpiringCache(10_000))
        for each in self.asked:
            each.memo = None
            assert type(authorize(each, self.small, fresh, NOW)) is Permit

    def spread(self, rounds: int = 20) -> list[float]:
        """Microseconds of each warm decision, sorted: wall-clock time, pauses included."""
        work = [self.permitted(each, self.small) for each in self.asked]
        for each in work:
            each()
        found = []
        for _ in range(rounds):
            for each in work:
                started = time.perf_counter_ns()
                each()
                found.append((time.perf_counter_ns() - started) / 1e3)
        return sorted(found)

    def key_of(self, count: int) -> Callable[[], None]:
        """A request with one of so many API keys, another key each time."""
        keys = {
            b"key-%d" % n: ApiKey(
                f"key-{n}", hashlib.sha256(b"%032d" % n).digest(), f"{n}", ("read",), {}, inf
            )
            for n in range(count)
        }
        held = replace(self.small, api_keys=keys)
        step = count // 10
        asked = [request("/plain/x", f"key-{n * step}.{n * step:032d}") for n in range(10)]
        each = cycle([self.permitted(one, held) for one in asked])

        def work() -> None:
            next(each)()

        return work

    def looked_up(self, *, known: bool) -> Callable[[], None]:
        """One token after the other among 100,000 withdrawals; `known`: it was looked up before,
        and something else was withdrawn meanwhile."""
        held = Revocations()
        held.add(
            Revocation(target("token", "https://idp.example", f"{n}"), None, NOW + 300)
            for n in range(100_000)
        )
        verified = []
        for each in self.tokens:
            found = verify(each.encode(), self.small.issuers, {}, NOW)
            assert isinstance(found, Verified)
            verified.append(found)

        def work() -> None:
            for each in verified:
                each.cleared = None
                if not known:
                    each.targets = None
                assert held.revokes(each, NOW) is False

        work()
        return work

    def proofs(self, *, raw: bool) -> Callable[[], None]:
        """A token bound to a key, with another proof each time; `raw`: their signatures alone."""
        asked = bound_requests(CALLERS)
        proofs = [each.headers[-1][1].rpartition(b".") for each in asked]
        signed = [(part[0], jwt.utils.base64url_decode(part[2])) for part in proofs]
        public = BOUND.public_key()

        def check() -> None:
            for message, signature in signed:
                assert VERIFIERS["ES256"].verify(message, public, signature)

        def work() -> None:
            for each in asked:
                assert type(authorize(each, self.small, self.evidence, NOW)) is Permit

        return check if raw else work

    def figures(self) -> dict[str, float]:
        plain, anonymous = request("/plain/x", self.credential), request("/plain/x")
        conditional = request("/accounts/7/balance", self.credential)
        few, large = snapshot(10), snapshot(10_000)

        def again() -> None:
            assert type(authorize(plain, self.small, self.evidence, NOW)) is Permit

        def refused() -> None:
            assert type(authorize(anonymous, self.small, self.evidence, NOW)) is Refuse

        gc.collect()
        gc.freeze()
        spread = self.spread()
        return {
            self.RAW: timed(self.raw_checks(), 2) / CALLERS,
            self.FIRST: timed(self.first_sights, 2) / CALLERS,
            self.WARM: timed(self.permitted(plain, self.small), 10_000),
            self.WARM_P50: spread[len(spread) // 2],
            self.WARM_P99: spread[len(spread) * 99 // 100],
            "warm, one expression": timed(self.permitted(conditional, self.small), 10_000),
            "warm, scopes only, 10 more rules": timed(self.permitted(plain, few), 10_000),
            "warm, scopes only, 10,000 more rules": timed(self.permitted(plain, large), 10_000),
            "the same request again": timed(again, 10_000),
            "refused, anonymous": timed(refused, 10_000),
            "among 100,000 withdrawals": timed(self.looked_up(known=True), 20) / CALLERS,
            "the same, at first sight": timed(self.looked_up(known=False), 20) / CALLERS,
            "raw ES256 check": timed(self.proofs(raw=True), 2) / CALLERS,
            "a known bound token, a new proof": timed(self.proofs(raw=False), 2) / CALLERS,
            "an API key": timed(self.key_of(10), 10_000),
            "an API key of 100,000": timed(self.key_of(100_000), 10_000),
        }


def main() -> None:
    bench = Bench()
    if "--profile" in sys.argv:
        _profile(bench.permitted(bench.asked[0], bench.small))
        return
    figures = bench.figures()
    for name, microseconds in figures.items():
        print(f"{name:<40} {microseconds:8.1f} us   {microseconds / figures[Bench.RAW]:.2f}")


def _profile(work: Callable[[], None]) -> None:
    profile = cProfile.Profile()
    profile.enable()
    for _ in range(20_000):
        work()
    profile.disable()
    pstats.Stats(profile).sort_stats("tottime").print_stats(16)


if __name__ == "__main__":
    main()
