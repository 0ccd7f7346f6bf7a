"""The journey that the demo plays, step by step, each with what is expected of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp

from sidecar.demo.world import World

ENFORCED: Final = 10.0  # seconds that a push may take, at the very most


@dataclass(slots=True)
class Step:
    """One line of the table. `milliseconds` is what the step says it measured."""

    title: str
    expected: str
    found: str = ""
    milliseconds: float = 0.0
    note: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return self.found == self.expected


class Journey:
    """Plays against a world that has started. `steps` yields each step once it is done."""

    def __init__(self, world: World, session: aiohttp.ClientSession) -> None:
        self._world = world
        self._session = session
        self._reader = world.issuer.token("alice", "accounts:read")
        self._payer = world.issuer.token("alice", "accounts:read transfers:write")
        login = {"acr": "urn:mfa", "auth_time": int(time.time())}
        self._strong = world.issuer.token("alice", "accounts:read transfers:write", login)

    async def steps(self) -> AsyncIterator[Step]:
        forged = self._world.issuer.token("alice", "accounts:read", forged=True)
        account, transfer = ("GET", "/accounts/alice/balance"), ("POST", "/transfers")
        yield await self._request("a public page needs no token", "200", "GET", "/catalogue/all")
        yield await self._request("an anonymous caller is challenged",
                                  "401 authentication_required", *account)  # fmt: skip
        yield await self._request("a token is admitted (first sight)", "200", *account,
                                  token=self._reader)  # fmt: skip
        yield await self._request("and again (from the cache)", "200", *account, token=self._reader)
        yield await self._request("somebody else's account is refused", "403 denied",
                                  "GET", "/accounts/bob/balance", token=self._reader)  # fmt: skip
        yield await self._request("a missing scope is challenged", "403 insufficient_scope",
                                  *transfer, token=self._reader)  # fmt: skip
        yield await self._request("with the scope it passes", "201", *transfer, token=self._payer)
        yield await self._request("a large transfer asks for a second factor",
                                  "401 insufficient_user_authentication", *transfer,
                                  token=self._payer, amount=5000)  # fmt: skip
        yield await self._request("with a second factor it passes", "201", *transfer,
                                  token=self._strong, amount=5000)  # fmt: skip
        yield await self._redacted(*account)
        yield await self._request("a forged token is refused", "401 invalid_token", *account,
                                  token=forged)  # fmt: skip
        yield await self._push("a policy is pushed: no transfers tonight", "403 denied",
                               ("maintenance.yaml",), ())  # fmt: skip
        yield await self._push("and taken back", "201", ("bank.yaml",), ("maintenance.yaml",))
        await self._world.kill_control_plane()
        yield await self._request("control plane killed: still admits", "200", *account,
                                  token=self._reader)  # fmt: skip
        yield await self._request("control plane killed: still refuses", "401 invalid_token",
                                  *account, token=forged)  # fmt: skip
        yield await self._restart()
        yield await self._request("restarted in the dark: still admits", "200", *account,
                                  token=self._reader)  # fmt: skip
        yield await self._request("restarted in the dark: still refuses",
                                  "401 authentication_required", *account)  # fmt: skip
        yield await self._back()

    async def _redacted(self, method: str, path: str) -> Step:
        """What the service says of the account, and what of it the caller gets to see."""
        started = time.perf_counter()
        headers = {"authorization": f"Bearer {self._reader}"}
        async with self._session.get(self._world.address + path, headers=headers) as answer:
            seen = sorted(await answer.json())
        milliseconds = (time.perf_counter() - started) * 1e3
        found = "cut" if "iban" not in seen and "balance" in seen else f"seen: {seen}"
        note = f"left are {', '.join(seen)}"
        return Step("its IBAN is cut out of the response", "cut", found, milliseconds, note)

    async def _ask(self, method: str, path: str, token: str, amount: int = 25) -> tuple[str, str]:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        body = {"amount": amount, "to": "bob"} if method == "POST" else None
        async with self._session.request(
            method, self._world.address + path, headers=headers, json=body
        ) as answer:
            content = await answer.json(content_type=None)
            challenge = answer.headers.get("www-authenticate", "")
        if answer.status < 400:
            return str(answer.status), challenge
        return f"{answer.status} {content['code']}", challenge

    async def _request(
        self, title: str, expected: str, method: str, path: str, token: str = "",
        amount: int = 25,
    ) -> Step:  # fmt: skip
        started = time.perf_counter()
        found, challenge = await self._ask(method, path, token, amount)
        milliseconds = (time.perf_counter() - started) * 1e3
        return Step(f"{title}", expected, found, milliseconds, challenge or f"{method} {path}")

    async def _push(
        self, title: str, expected: str, names: tuple[str, ...], remove: tuple[str, ...]
    ) -> Step:
        """Milliseconds from calling apply to the first request that the new policy decides."""
        started = time.perf_counter()
        release = await self._world.apply(*names, remove=remove)
        acknowledged = (time.perf_counter() - started) * 1e3
        found = ""
        async with asyncio.timeout(ENFORCED):
            while found != expected:
                found, _ = await self._ask("POST", "/transfers", self._payer)
        milliseconds = (time.perf_counter() - started) * 1e3
        note = f"{release}: durable after {acknowledged:.0f} ms, enforced after {milliseconds:.0f}"
        return Step(title, expected, found, milliseconds, note)

    async def _restart(self) -> Step:
        started = time.perf_counter()
        await self._world.restart_sidecar()
        milliseconds = (time.perf_counter() - started) * 1e3
        return Step("the sidecar restarts without a control plane", "ready", "ready", milliseconds,
                    "from its last-known-good release")  # fmt: skip

    async def _back(self) -> Step:
        started = time.perf_counter()
        await self._world.start_control_plane()
        found = "0"
        async with asyncio.timeout(2 * ENFORCED):
            while found != "1":
                await asyncio.sleep(0.02)
                async with self._session.get(f"{self._world.health}/metrics") as answer:
                    page = await answer.text()
                found = next(
                    line.split()[1].removesuffix(".0")
                    for line in page.splitlines()
                    if line.startswith("sidecar_control_plane_connected ")
                )
        milliseconds = (time.perf_counter() - started) * 1e3
        return Step("the control plane returns, the sidecar reconnects", "1", found, milliseconds,
                    "sidecar_control_plane_connected")  # fmt: skip
