"""The two services that the demo brings along: an issuer of tokens and a sample bank."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Mapping
from typing import Any, Final

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import rsa

from sidecar.demo import pages

LIFE: Final = 3600  # seconds that a demo token is valid
COOKIE: Final = "sid"
SCOPES: Final = "accounts:read transfers:write"
# As a social login gives them: a verified address, and little else.
SOCIAL: Final[Mapping[str, Any]] = {"email": "alice@mail.example", "email_verified": True}


class DemoIssuer:
    """Signs tokens for whoever asks: for the demo only, on loopback only."""

    def __init__(self, audience: str = "bank") -> None:
        self.address = ""
        self._audience = audience
        self._key = rsa.generate_private_key(65537, 2048)
        self._stranger = rsa.generate_private_key(65537, 2048)

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/.well-known/openid-configuration", self._metadata)
        app.router.add_get("/jwks", self._jwks)
        app.router.add_get("/token", self._token)
        app.router.add_get("/login", self._login)
        app.router.add_post("/login", self._logged_in)
        return app

    def token(
        self,
        subject: str,
        scope: str = "",
        claims: Mapping[str, Any] | None = None,
        *,
        forged: bool = False,
    ) -> str:
        """A token as an issuer would make it, or the same signed with somebody else's key."""
        now = int(time.time())
        body = {
            "iss": self.address, "aud": self._audience, "sub": subject, "iat": now,
            "exp": now + LIFE, "jti": uuid.uuid4().hex, "scope": scope, **(claims or {}),
        }  # fmt: skip
        key = self._stranger if forged else self._key
        return jwt.encode(body, key, "RS256", headers={"kid": "demo", "typ": "at+jwt"})

    async def _metadata(self, request: web.Request) -> web.Response:
        return web.json_response({"issuer": self.address, "jwks_uri": f"{self.address}/jwks"})

    async def _jwks(self, request: web.Request) -> web.Response:
        jwk = jwt.algorithms.RSAAlgorithm.to_jwk(self._key.public_key(), as_dict=True)
        return web.json_response({"keys": [{**jwk, "kid": "demo", "use": "sig", "alg": "RS256"}]})

    async def _token(self, request: web.Request) -> web.Response:
        query = dict(request.query)
        subject, scope = query.pop("sub", "alice"), query.pop("scope", "accounts:read")
        return web.Response(text=self.token(subject, scope, query) + "\n")

    async def _login(self, request: web.Request) -> web.Response:
        """Where the sidecar sends people who have to log in, or to do so better."""
        return_to = request.query.get("return_to", "")
        if not pages.leads_back(return_to):
            raise web.HTTPBadRequest(text="return_to: an address of this machine is expected\n")
        return pages.login(return_to, factor="acr_values" in request.query)

    async def _logged_in(self, request: web.Request) -> web.Response:
        """Sets the cookie. It goes to all ports of 127.0.0.1, so the bank's sidecar gets it."""
        if request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
            raise web.HTTPForbidden(text="this form is another site's\n")
        form = await request.post()
        return_to, factor = str(form.get("return_to", "")), bool(form.get("factor"))
        if not pages.leads_back(return_to):
            raise web.HTTPBadRequest(text="return_to: an address of this machine is expected\n")
        claims = dict(SOCIAL)
        if factor:
            if re.fullmatch(r"[0-9]{6}", str(form.get("code", ""))) is None:
                return pages.login(return_to, factor, wrong=True)
            claims |= {"acr": "urn:mfa", "auth_time": int(time.time())}
        response = web.Response(status=303, headers={"location": return_to})
        token = self.token("alice", SCOPES, claims)
        response.set_cookie(COOKIE, token, httponly=True, samesite="Lax", max_age=LIFE)
        return response


class DemoBank:
    """A service that knows nothing of tokens: it believes the headers that the sidecar sets."""

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/health", self._health)
        app.router.add_get("/", self._start)
        app.router.add_get("/catalogue/{item:.*}", self._catalogue)
        app.router.add_get("/accounts/{id}/page", self._account_page)
        app.router.add_get("/accounts/{id}/{rest:.*}", self._account)
        app.router.add_get("/accounts/{id}", self._account)
        app.router.add_post("/transfers", self._transfer)
        app.router.add_get("/pay", self._pay)
        app.router.add_get("/insights", self._insights)
        return app

    async def _health(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _catalogue(self, request: web.Request) -> web.Response:
        return web.json_response(
            {
                "items": ["current account", "savings"],
                "tier": request.headers.get("x-tier", ""),
                "customer": request.headers.get("x-sidecar-customer-id", ""),
            }
        )

    async def _insights(self, request: web.Request) -> web.Response:
        insights = {"groceries": "212.40", "travel": "58.00"}
        if pages.wants_page(request):
            return pages.bank("What you spend on", insights)
        return web.json_response(insights)

    async def _start(self, request: web.Request) -> web.Response:
        known = request.headers.get("x-sidecar-customer-id", "")
        who = request.headers.get("x-sidecar-subject", "")
        title = f"Welcome back, {who}" if who else "Welcome"
        facts = {"You are": who or "a visitor", "Customer": known or "not known yet"}
        return pages.bank(title, facts)

    async def _account_page(self, request: web.Request) -> web.Response:
        facts = {
            "Account": request.match_info["id"],
            "Balance": "1,024.00",
            "Customer": request.headers.get("x-sidecar-customer-id", ""),
        }
        return pages.bank("Your account", facts)

    async def _pay(self, request: web.Request) -> web.Response:
        """Nothing moves here, whoever gets this far; a real one would POST at the end."""
        facts = {"Amount": request.query.get("amount", ""), "To": request.query.get("to", "")}
        return pages.bank(
            "Paid", facts, f"Decision {request.headers.get('x-sidecar-decision', '')}"
        )

    async def _account(self, request: web.Request) -> web.Response:
        return web.json_response(
            {
                "account": request.match_info["id"],
                "iban": "DE02120300000000202051",
                "balance": "1024.00",
                "asked_by": request.headers.get("x-sidecar-subject", ""),
                "customer": request.headers.get("x-sidecar-customer-id", ""),
            }
        )

    async def _transfer(self, request: web.Request) -> web.Response:
        body = await request.json()
        return web.json_response({"accepted": True, "amount": body.get("amount")}, status=201)


async def serve(app: web.Application, port: int = 0) -> tuple[web.AppRunner, str]:
    """Start on loopback; returns the runner and `http://127.0.0.1:PORT`."""
    runner = web.AppRunner(app, access_log=None, handle_signals=False)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    return runner, f"http://127.0.0.1:{runner.addresses[0][1]}"
