"""A realistic mix against the demo: public, authorised reads, writes with bodies, refused ones.

    sidecar demo                                       # prints its addresses
    SIDECAR_URL=http://127.0.0.1:PORT ISSUER_URL=http://127.0.0.1:PORT \\
      locust -f loadtests/locustfile.py --headless -u 50 -r 50 -t 30s

`make load` does all of that. Exits 1 if any answer has another status than it should.
"""

from __future__ import annotations

import os
import random
import urllib.request
from typing import Any

from locust import FastHttpUser, constant_throughput, events, task

SIDECAR = os.environ.get("SIDECAR_URL", "http://127.0.0.1:7400")
ISSUER = os.environ.get("ISSUER_URL", "")
CUSTOMERS = [f"customer-{number}" for number in range(100)]
_tokens: dict[tuple[str, str], str] = {}


def token(subject: str, scope: str) -> str:
    """A token of the demo issuer, fetched once."""
    if (subject, scope) not in _tokens:
        address = f"{ISSUER}/token?sub={subject}&scope={scope.replace(' ', '%20')}"
        with urllib.request.urlopen(address, timeout=10) as answer:
            _tokens[subject, scope] = answer.read().decode().strip()
    return _tokens[subject, scope]


class Customer(FastHttpUser):
    """One customer with a keep-alive connection."""

    host = SIDECAR
    wait_time = constant_throughput(20)

    def on_start(self) -> None:
        self.subject = random.choice(CUSTOMERS)
        reader = token(self.subject, "accounts:read")
        payer = token(self.subject, "accounts:read transfers:write")
        self.reader = {"authorization": f"Bearer {reader}"}
        self.payer = {"authorization": f"Bearer {payer}"}

    def expect(self, status: int, method: str, path: str, name: str, **more: Any) -> None:
        request = self.client.request(method, path, name=name, catch_response=True, **more)
        with request as answer:
            if answer.status_code == status:
                answer.success()
            else:
                answer.failure(f"{answer.status_code} where {status} is expected")

    @task(30)
    def catalogue(self) -> None:
        self.expect(200, "GET", "/catalogue/all", "public")

    @task(40)
    def own_account(self) -> None:
        path = f"/accounts/{self.subject}/balance"
        self.expect(200, "GET", path, "authorised read", headers=self.reader)

    @task(10)
    def transfer(self) -> None:
        body = {"amount": random.randint(1, 500), "to": "bob", "memo": "x" * 500}
        self.expect(201, "POST", "/transfers", "write", json=body, headers=self.payer)

    @task(8)
    def anonymous(self) -> None:
        self.expect(401, "GET", f"/accounts/{self.subject}/balance", "refused: anonymous")

    @task(6)
    def foreign_account(self) -> None:
        self.expect(403, "GET", "/accounts/nobody", "refused: not theirs", headers=self.reader)

    @task(4)
    def missing_scope(self) -> None:
        body = {"amount": 1}
        self.expect(403, "POST", "/transfers", "refused: scope", json=body, headers=self.reader)

    @task(2)
    def forged(self) -> None:
        damaged = {"authorization": self.reader["authorization"][:-6] + "AAAAAA"}
        self.expect(401, "GET", "/accounts/x", "refused: forged", headers=damaged)


@events.quitting.add_listener
def verdict(environment: Any, **_: Any) -> None:
    """One unexpected status is one too many."""
    if environment.stats.total.fail_ratio > 0 or environment.stats.total.num_requests == 0:
        environment.process_exit_code = 1
