"""What each thing that a rule can ask for costs: `python -m loadtests.micro.requirements`.

One allow rule by itself, and the same with one requirement, condition or obligation more, decided
for a known caller: without the memory of permits, and with it where it applies. Each loop asserts
its answer. Times are CPU time of this process, beside the raw RS256 check of the same run.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from math import inf
from typing import Final

from loadtests.micro.decide import CALLERS, DOCUMENTS, JWK, NOW, Bench, timed, token
from sidecar.decide.authorize import authorize
from sidecar.decide.cache import ExpiringCache
from sidecar.decide.caller import Evidence
from sidecar.decide.compile import compile_snapshot
from sidecar.decide.enrichment import Enriched
from sidecar.decide.outcomes import Permit
from sidecar.decide.parse import Source, parse
from sidecar.decide.request import Request
from sidecar.decide.snapshot import Snapshot
from sidecar.decide.subjects import Subject
from sidecar.decide.workloads import Certificate, workload

ROUNDS: Final = 5_000
BODY: Final = b'{"amount": 7, "to": "DE02120300000000202051", "note": "' + b"x" * 400 + b'"}'
FACTS: Final = """
---
apiVersion: authz.sidecar/v1
kind: Segment
metadata: {name: staff}
spec: {when: "token.account == '7'"}
---
apiVersion: authz.sidecar/v1
kind: Enricher
metadata: {name: fraud}
spec: {url: "https://fraud.example", parameters: {who: token.sub}, type: {score: number}}
"""
ASKED: Final = {
    "nothing more": "",
    "scopes": "require: {scopes: [read, write]}",
    "issuers": 'require: {issuers: ["https://idp.example"]}',
    "audiences": "require: {audiences: [bank]}",
    "stepUp": "require: {stepUp: {acr: [mfa], amr: [otp], maxAge: 1h}}",
    "proof": "require: {proof: [mtls]}",
    "consent": "require: {consent: [payments]}",
    "profile": "require: {profile: [phone]}",
    "segments": "require: {segments: [staff]}",
    "workloads": 'require: {workloads: ["spiffe://prod/ns/pay/*"]}',
    "when: a claim": "when: token.account == '7'",
    "when: the body": "when: request.body.amount < 1000",
    "when: an enricher": "when: enriched.fraud.score < 90.0",
    "when: the time": "when: request.time.getHours() < 24",
    "setHeaders": "then: {setHeaders: {x-a: token.account}}",
    "redact unless": (
        "then: {redact: [{drop: [$.ssn], unless: \"'payments' in subject.consents\"}]}"
    ),
    "limit": "limit: {rate: 1000/s, per: token.sub}",
}


class Answers:
    """What enrichers answered, whatever they were asked."""

    def __init__(self) -> None:
        self._enriched = Enriched({"score": 3.0}, inf)

    def get(self, key: bytes, now: float) -> Enriched:
        return self._enriched


class Costs:
    """Microseconds by what is asked for."""

    def __init__(self) -> None:
        self.raw = Bench()
        self._subject = Subject(frozenset(["payments"]), {"phone": "1"})
        held = {"cnf": {"x5t#S256": "c" * 43}, "acr": "mfa", "amr": ["otp"], "auth_time": NOW - 5}
        self._token = token("alice", **held)
        self._certificate = Certificate("c" * 43, workload("spiffe://prod/ns/pay/x", NOW + 1000))

    def evidence(self, *, remembers: bool) -> Evidence:
        return Evidence(
            {},
            ExpiringCache(100),
            ExpiringCache(100, heaviest=1 << 20 if remembers else 0),
            subjects=lambda identity, now: self._subject,
            enriched=Answers(),
        )

    def request(self) -> Request:
        headers = [
            (b"host", b"h"), (b"authorization", b"Bearer " + self._token.encode()),
            (b"content-type", b"application/json"), (b"content-length", b"%d" % len(BODY)),
        ]  # fmt: skip
        return Request(
            "POST", "/a", ["a"], None, "h", "h", "https", headers, "192.0.2.1",
            certificate=self._certificate,
        ).with_body(BODY)  # fmt: skip

    def snapshot(self, asked: str) -> Snapshot:
        rule = "  - {name: a, match: {paths: [/a]}" + (f", {asked}" if asked else "") + "}"
        text = DOCUMENTS.replace("JWK", json.dumps(JWK)) + rule + FACTS
        documents, problems = parse([Source("f", text)])
        assert not problems, problems
        return compile_snapshot(documents, namespace="default", labels={})

    def work(self, asked: str, *, remembers: bool) -> Callable[[], None]:
        """Decides once."""
        held, evidence = self.snapshot(asked), self.evidence(remembers=remembers)
        request = self.request()

        def work() -> None:
            request.memo = None
            assert type(authorize(request, held, evidence, NOW)) is Permit

        return work

    def cost(self, asked: str, *, remembers: bool) -> float:
        return timed(self.work(asked, remembers=remembers), ROUNDS)


def table(costs: Costs) -> list[tuple[str, float, float]]:
    return [
        (name, costs.cost(asked, remembers=False), costs.cost(asked, remembers=True))
        for name, asked in ASKED.items()
    ]


def main() -> None:
    costs = Costs()
    raw: Callable[[], object] = costs.raw.raw_checks()
    gc.collect()
    gc.freeze()
    check = timed(raw, 2) / CALLERS
    print(f"{'raw RS256 check':<20} {check:8.1f} us")
    bare, remembered = 0.0, 0.0
    for name, anew, again in table(costs):
        bare, remembered = bare or anew, remembered or again
        print(
            f"{name:<20} {anew:8.1f} us anew ({anew - bare:+5.1f})   {again:6.1f} us remembered "
            f"({again - remembered:+5.1f})"
        )


if __name__ == "__main__":
    main()
