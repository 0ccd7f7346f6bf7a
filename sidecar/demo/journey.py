"""The journey that the demo plays, step by step, each with what is expected of it."""

from __future__ import annotations

import asyncio
import html
import re
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs

import aiohttp

from sidecar.demo.canary import Canary
from sidecar.demo.services import SOCIAL
from sidecar.demo.step import ENFORCED, Step
from sidecar.demo.world import World


class Journey:
    """Plays against a world that has started. `steps` yields each step once it is done."""

    def __init__(self, world: World, session: aiohttp.ClientSession) -> None:
        self._world = world
        self._session = session
        self._reader = world.issuer.token("alice", "accounts:read")
        self._payer = world.issuer.token("alice", "accounts:read transfers:write")
        login = {"acr": "urn:mfa", "auth_time": int(time.time())}
        self._strong = world.issuer.token("alice", "accounts:read transfers:write", login)
        self._social = world.issuer.token("alice", "accounts:read", SOCIAL)
        self._visitor = ""  # the cookie
        self._asked: dict[str, Any] = {}  # the challenge of the last refusal

    async def steps(self) -> AsyncIterator[Step]:
        forged = self._world.issuer.token("alice", "accounts:read", forged=True)
        account, transfer = ("GET", "/accounts/alice/balance"), ("POST", "/transfers")
        yield await self._request("a public page needs no token", "200", "GET", "/catalogue/all")
        async for step in self._identity():
            yield step
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
        large: dict[str, Any] = {"token": self._strong, "amount": 5000}
        yield await self._request("with it, for consent to this payment", "403 consent_required",
                                  *transfer, **large)  # fmt: skip
        yield await self._answer("the customer agrees",
                                 {"consents": {"default/large-payment": True}})  # fmt: skip
        yield await self._until("then for the one thing not known yet", "403 profile_required",
                                *transfer, **large)  # fmt: skip
        yield await self._answer("the customer tells it",
                                 {"values": {"default/phone_number": "+4930901820"}})  # fmt: skip
        yield await self._until("and the payment passes", "201", *transfer, **large)
        yield await self._request("consent was for one payment", "403 consent_required",
                                  *transfer, **large)  # fmt: skip
        async for step in self._consent_for_a_while():
            yield step
        yield await self._redacted(*account)
        yield await self._request("a forged token is refused", "401 invalid_token", *account,
                                  token=forged)  # fmt: skip
        yield await self._push("a policy is pushed: no transfers tonight", "403 denied",
                               ("maintenance.yaml",), ())  # fmt: skip
        yield await self._push("and taken back", "201", ("bank.yaml",), ("maintenance.yaml",))
        async for step in Canary(self._world, self._session, self._reader).steps():
            yield step
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
        yield await self._erased()

    async def _identity(self) -> AsyncIterator[Step]:
        """A visitor, and who they turn out to be."""
        url = f"{self._world.address}/catalogue/all"
        started = time.perf_counter()
        async with self._session.get(url) as answer:
            self._visitor = answer.cookies["visitor"].value if "visitor" in answer.cookies else ""
        found = "cookie" if self._visitor else "none"
        took = (time.perf_counter() - started) * 1e3
        yield Step("an anonymous visitor gets a signed cookie", "cookie", found, took,
                   "of our own, with a random id")  # fmt: skip
        headers = {"cookie": f"visitor={self._visitor}"}
        async with self._session.get(url, headers=headers) as answer:
            visitor = (await answer.json())["customer"]
        started = time.perf_counter()
        account = f"{self._world.address}/accounts/alice/balance"
        headers |= {"authorization": f"Bearer {self._social}"}
        async with self._session.get(account, headers=headers) as answer:
            customer = (await answer.json()).get("customer", "")
        took = (time.perf_counter() - started) * 1e3
        found = "the same customer" if customer and customer == visitor else f"{customer}?"
        yield Step("and logs in: one identity", "the same customer", found, took,
                   f"x-sidecar-customer-id: {customer}")  # fmt: skip

    async def _consent_for_a_while(self) -> AsyncIterator[Step]:
        """Granted, used, withdrawn on the customer's own page."""
        insights = ("GET", "/insights")
        yield await self._request("insights need a consent", "403 consent_required", *insights,
                                  token=self._reader)  # fmt: skip
        yield await self._answer("it is granted", {"consents": {"default/insights": True}})
        yield await self._until("insights are shown", "200", *insights, token=self._reader)
        cookie, form = await self._privacy_page()
        started = time.perf_counter()
        async with self._session.post(
            f"{self._world.pages}/privacy/withdraw",
            data={**form, "ref": "default/insights", "binding": ""},
            headers={"cookie": cookie, "origin": self._world.pages},
            allow_redirects=False,
        ) as answer:
            status = answer.status
        acknowledged = (time.perf_counter() - started) * 1e3
        found = ""
        async with asyncio.timeout(ENFORCED):
            while found != "403 consent_required":
                found, _ = await self._ask(*insights, self._reader)
        took = (time.perf_counter() - started) * 1e3
        note = f"{status} after {acknowledged:.0f} ms, enforced after {took:.0f}"
        title = "withdrawn on the privacy page: challenged again"
        yield Step(title, "403 consent_required", found, took, note)

    async def _erased(self) -> Step:
        """Erased on the customer's own page: who comes next with the same token is somebody new."""
        before = ""
        async with asyncio.timeout(ENFORCED):
            while not before:  # the sidecar that was restarted knows nobody yet
                before = await self._customer()
        cookie, form = await self._privacy_page()
        started = time.perf_counter()
        async with self._session.post(
            f"{self._world.pages}/privacy/erase",
            data={**form, "sure": "yes"},
            headers={"cookie": cookie, "origin": self._world.pages},
        ) as answer:
            status = answer.status
        found = before
        async with asyncio.timeout(ENFORCED):
            while found == before:
                found = await self._customer()
        took = (time.perf_counter() - started) * 1e3
        said = "forgotten" if status == 200 and found else f"{status} {found}"
        return Step("the customer deletes everything", "forgotten", said, took,
                    "the same token is somebody new")  # fmt: skip

    async def _customer(self) -> str:
        """Who the bank is told that the caller is."""
        account = f"{self._world.address}/accounts/alice/balance"
        headers = {"authorization": f"Bearer {self._reader}"}
        async with self._session.get(account, headers=headers) as answer:
            return str((await answer.json()).get("customer", ""))

    async def _privacy_page(self) -> tuple[str, dict[str, str]]:
        """The cookies and the fields with which the customer's own page is used."""
        way = f"{self._world.address}/.well-known/sidecar/privacy"
        headers = {"authorization": f"Bearer {self._reader}"}
        async with self._session.get(way, headers=headers, allow_redirects=False) as answer:
            page = answer.headers["location"]
        async with self._session.get(page, allow_redirects=False) as answer:
            cookies = {name: each.value for name, each in answer.cookies.items()}
        cookie = "; ".join(f"{name}={value}" for name, value in cookies.items())
        address = page.partition("?")[0]
        async with self._session.get(address, headers={"cookie": cookie}) as answer:
            text = await answer.text()
            cookies |= {name: each.value for name, each in answer.cookies.items()}
        fields = dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', text))
        cookie = "; ".join(f"{name}={value}" for name, value in cookies.items())
        return cookie, {name: html.unescape(value) for name, value in fields.items()}

    async def _answer(self, title: str, answers: dict[str, Any]) -> Step:
        """To the last challenge, as a client without a browser does."""
        started = time.perf_counter()
        page, _, query = self._asked.get("completeAt", "").partition("?")
        ticket = parse_qs(query).get("ticket", [""])[0]
        async with self._session.post(page, json={"ticket": ticket, **answers}) as answer:
            found = (await answer.json()).get("status", answer.status)
        milliseconds = (time.perf_counter() - started) * 1e3
        return Step(title, "completed", str(found), milliseconds, "POST completeAt")

    async def _until(
        self, title: str, expected: str, method: str, path: str, token: str = "",
        amount: int = 25,
    ) -> Step:  # fmt: skip
        """The same request until what the customer did has reached the sidecar."""
        started = time.perf_counter()
        found = ""
        async with asyncio.timeout(ENFORCED):
            while found != expected:
                found, challenge = await self._ask(method, path, token, amount)
        milliseconds = (time.perf_counter() - started) * 1e3
        return Step(title, expected, found, milliseconds, challenge or f"{method} {path}")

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
        self._asked = content.get("challenge", {})
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
