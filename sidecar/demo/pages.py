"""What people see of the demo's issuer and bank: small pages without scripts, as HTML."""

from __future__ import annotations

import base64
import hashlib
import re
from html import escape
from typing import Final

from aiohttp import web

_LOOPBACK: Final = re.compile(r"http://127\.0\.0\.1:[0-9]{1,5}(?:/[!-~]*)?")

_STYLE: Final = """
:root { color-scheme: light; }
body { margin: 0; background: #f3f6f7; color: #16242a;
  font: 1.0625rem/1.55 system-ui, "Segoe UI", "Noto Sans", "Liberation Sans", sans-serif; }
header { background: #0b5d66; color: #fff; padding: 1rem; font-weight: 600; }
header div, main { max-width: 42rem; margin: 0 auto; }
main { padding: 1.75rem 1rem 3rem; }
h1 { font-size: 1.75rem; line-height: 1.25; margin: 0 0 1rem; }
.card { background: #fff; border: 1px solid #d5dee1; border-radius: .75rem; padding: 1.25rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .4rem 1.5rem; margin: 0; }
dt { color: #4c5d64; } dd { margin: 0; overflow-wrap: anywhere; }
ul { list-style: none; margin: 1.5rem 0 0; padding: 0; }
ul { display: flex; flex-wrap: wrap; gap: .75rem; }
a { color: #0b5d66; }
li a, button { display: inline-block; background: #fff; color: #0b5d66; border: 1px solid #0b5d66;
  border-radius: .5rem; padding: .55rem 1rem; font: inherit; text-decoration: none; }
button { background: #0b5d66; color: #fff; cursor: pointer; }
.quiet + button { margin-top: 1rem; }
label { display: block; font-weight: 600; margin-bottom: .4rem; }
input { font: inherit; padding: .5rem; border: 1px solid #6d7e85; border-radius: .4rem; }
.wrong { color: #a4161a; font-weight: 600; margin: 0 0 1rem; }
.quiet { color: #4c5d64; font-size: .95rem; margin: 1rem 0 0; }
:focus-visible { outline: 3px solid #16242a; outline-offset: 3px; }
"""
# Chromium holds `form-action` against every address that a form's answer leads on to: the login
# leads back to the bank, and the bank perhaps to the control plane, all of this machine.
_POLICY: Final = (
    "default-src 'none'; img-src data:; base-uri 'none'; frame-ancestors 'none'; "
    "form-action 'self' http://127.0.0.1:*; style-src 'sha256-"
    + base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    + "'"
)
_LINKS: Final = (
    ("/", "Start"),
    ("/accounts/alice/page", "Your account"),
    ("/pay?amount=5000&to=bob", "Pay 5,000 to Bob"),
    ("/insights", "Your insights"),
    ("/.well-known/sidecar/privacy", "Your privacy"),
)


def wants_page(request: web.Request) -> bool:
    """Whether a person looks at the answer."""
    return request.headers.get("accept", "").startswith("text/html")


def leads_back(address: str) -> bool:
    """Whether the login may send somebody there: to this machine, and nowhere else."""
    return _LOOPBACK.fullmatch(address) is not None


def bank(title: str, known: dict[str, str], note: str = "") -> web.Response:
    """A page of the bank: what it knows, and the way on."""
    rows = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(fact)}</dd>" for name, fact in known.items()
    )
    links = "".join(f'<li><a href="{escape(to)}">{escape(name)}</a></li>' for to, name in _LINKS)
    quiet = f'<p class="quiet">{escape(note)}</p>' if note else ""
    return _page(
        "Demo Bank", title, f'<div class="card"><dl>{rows}</dl>{quiet}</div><ul>{links}</ul>'
    )


def login(return_to: str, factor: bool, *, wrong: bool = False) -> web.Response:
    """The form that stands in for a social login; `factor`: and for the second one."""
    field = said = ""
    if wrong:
        said = '<p class="wrong" role="alert">Six digits are expected.</p>'
    if factor:
        field = (
            '<label for="code">The six digits that your device shows</label>'
            '<input id="code" name="code" inputmode="numeric" autocomplete="one-time-code">'
            '<p class="quiet">Any will do: this is a demo.</p>'
        )
    body = (
        f'<div class="card">{said}<form method="post" action="/login">'
        f'<input type="hidden" name="return_to" value="{escape(return_to)}">'
        f'<input type="hidden" name="factor" value="{"yes" if factor else ""}">'
        f"{field}<button>Continue as Alice</button></form></div>"
    )
    return _page("Demo Login", "Confirm that it is you" if factor else "Log in", body)


def _page(site: str, title: str, body: str) -> web.Response:
    return web.Response(
        text=f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)} - '
        f'{site}</title><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><style>{_STYLE}</style></head><body><header><div>{site}'
        f"</div></header><main><h1>{escape(title)}</h1>{body}</main></body></html>",
        content_type="text/html",
        headers={
            "cache-control": "no-store",
            "content-security-policy": _POLICY,
            "referrer-policy": "same-origin",
            "x-content-type-options": "nosniff",
        },
    )
