"""A small API server for tests: objects by path, merge patches, token reviews; over real HTTP."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"


@dataclass
class Api:
    """`objects` by path; `accounts`: token to the status that a review of it gets."""

    url: str = ""
    objects: dict[str, dict[str, Any]] = field(default_factory=dict)
    accounts: dict[str, dict[str, Any]] = field(default_factory=dict)
    calls: list[tuple[str, str, Any]] = field(default_factory=list)
    broken: int = 0  # so many of the next calls fail with 500

    def account(
        self, token: str, namespace: str, name: str, pod: str = "", audience: str = "sidecar-control-plane"
    ) -> None:  # fmt: skip
        """A token that the cluster vouches for."""
        extra = {"authentication.kubernetes.io/pod-name": [pod]} if pod else {}
        self.accounts[token] = {
            "authenticated": True,
            "audiences": [audience],
            "user": {"username": f"system:serviceaccount:{namespace}:{name}", "extra": extra},
        }

    def put(self, path: str, **members: Any) -> dict[str, Any]:
        """An object that is there."""
        found = self.objects[path] = {"metadata": {"resourceVersion": "1"}, **members}
        return found

    async def answer(self, request: web.Request) -> web.Response:
        body = json.loads(await request.read() or b"null")
        self.calls.append((request.method, request.path, body))
        if self.broken:
            self.broken -= 1
            return web.json_response({"message": "etcd is away"}, status=500)
        if request.path == REVIEWS:
            return web.json_response({**body, "status": self._review(body["spec"])}, status=201)
        if request.method == "POST":
            path = f"{request.path}/{body['metadata']['name']}"
            if path in self.objects:
                return web.json_response({"message": "already exists"}, status=409)
            self.objects[path] = body
            return web.json_response(body, status=201)
        found = self.objects.get(request.path)
        if found is None:
            return web.json_response({"message": f"{request.path} not found"}, status=404)
        if request.method == "PATCH":
            assert request.content_type == "application/merge-patch+json"
            metadata = found.setdefault("metadata", {})
            wanted = (body.get("metadata") or {}).get("resourceVersion")
            if wanted is not None and wanted != metadata.get("resourceVersion"):
                return web.json_response({"message": "the object has been modified"}, status=409)
            _merge(found, body)
            metadata["resourceVersion"] = str(int(metadata.get("resourceVersion", "0")) + 1)
        return web.json_response(found)

    def _review(self, spec: dict[str, Any]) -> dict[str, Any]:
        known = self.accounts.get(spec["token"])
        if known is None:
            return {"authenticated": False, "error": "invalid bearer token"}
        if not set(known["audiences"]) & set(spec["audiences"]):
            return {"authenticated": False, "error": "token audiences are other ones"}
        return known


def _merge(target: dict[str, Any], patch: dict[str, Any]) -> None:
    """RFC 7396."""
    for name, value in patch.items():
        if value is None:
            target.pop(name, None)
        elif isinstance(value, dict):
            _merge(target.setdefault(name, {}), value)
        else:
            target[name] = value


@asynccontextmanager
async def api_server() -> AsyncIterator[Api]:
    """One on a free port."""
    api = Api()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", api.answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    api.url = f"http://{host}:{port}"
    try:
        yield api
    finally:
        await runner.cleanup()
