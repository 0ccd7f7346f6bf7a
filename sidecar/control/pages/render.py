"""Templates -> answers. Whatever goes into a page is escaped, and what would turn its direction
around or cannot be seen is shown as U+FFFD: nobody reads other words than those that are there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha256
from importlib.resources import files
from typing import Any, Final

import orjson
from aiohttp import web
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from sidecar.control.pages import guard
from sidecar.control.pages.journeys import Question
from sidecar.control.pages.languages import Catalogue, catalogues

STYLE: Final = files(__package__).joinpath("style.css").read_bytes()
ICON: Final = (
    b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24"><path fill="#0b5d66" d="M12 1 3 5'
    b'v6c0 5.5 3.8 10.7 9 12 5.2-1.3 9-6.5 9-12V5z"/><path fill="none" stroke="#fff" '
    b'stroke-width="2.2" stroke-linecap="round" stroke-linejoin="round" d="m8 12 3 3 5-6"/></svg>'
)
STYLE_VERSION: Final = sha256(STYLE).hexdigest()[:12]
# Control characters but for line ends and tabs, and those of UAX 9 that embed and override.
_MISLEADING: Final = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
# HTML section 4.10.18.7, by the names of OpenID Connect's claims and those alike.
_AUTOCOMPLETE: Final[Mapping[str, str]] = {
    "name": "name",
    "given_name": "given-name",
    "family_name": "family-name",
    "nickname": "nickname",
    "birthdate": "bday",
    "birthday": "bday",
    "date_of_birth": "bday",
    "street_address": "street-address",
    "locality": "address-level2",
    "city": "address-level2",
    "postal_code": "postal-code",
    "country": "country-name",
    "organization": "organization",
}
_AUTOCOMPLETE_TYPE: Final[Mapping[str, str]] = {"email": "email", "phone": "tel"}


def readable(value: Any) -> Any:
    """What a template puts out, before it is escaped."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return _MISLEADING.sub("\ufffd", value)
    return value


def isolated(text: str) -> Markup:
    """Text that goes into a sentence of ours without touching its direction."""
    return Markup("<bdi>{}</bdi>").format(readable(text))


def instant(when: float) -> str:
    """For `<time datetime>`."""
    return f"{datetime.fromtimestamp(when, UTC):%Y-%m-%dT%H:%M:%SZ}"


def shown(value: Any, catalogue: Catalogue) -> str:
    """A JSON value for people, exact."""
    if isinstance(value, bool):
        return catalogue("yes" if value else "no")
    if isinstance(value, str):
        return value
    if value is None:
        return "-"
    return orjson.dumps(value, default=str).decode()


def autocomplete(question: Question) -> str:
    """The token by which browsers and aids fill a field in (WCAG 1.3.5); empty without one."""
    name = question.name.rpartition("/")[2].replace("-", "_").lower()
    return _AUTOCOMPLETE.get(name) or _AUTOCOMPLETE_TYPE.get(question.type, "")


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("sidecar.control.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=readable,
        auto_reload=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["shown"] = shown
    environment.globals["autocomplete"] = autocomplete
    environment.globals["bdi"] = isolated
    environment.globals["iso"] = instant
    environment.globals["style_version"] = STYLE_VERSION
    return environment


def page(
    request: web.Request,
    template: str,
    catalogue: Catalogue,
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    switch: bool = True,
    **values: Any,
) -> web.Response:
    """A whole page. Its addresses are relative, so that it may also live below a prefix. With
    `switch` it offers the other languages; it must be one that GET shows."""
    body = _environment().get_template(template).render(
        t=catalogue,
        root="../" * (request.path.count("/") - 1),
        languages=_others(request, catalogue) if switch else (),
        **values,
    )  # fmt: skip
    return web.Response(
        status=status,
        body=body.encode(),
        headers={
            **guard.PROTECTIVE,
            "content-type": "text/html; charset=utf-8",
            "content-language": catalogue.language,
            **(headers or {}),
        },
    )


def _others(request: web.Request, catalogue: Catalogue) -> list[tuple[str, str, Mapping[str, str]]]:
    """Tag, name in itself, and the fields of a form that opens this page in it."""
    kept = {name: value for name, value in request.query.items() if name == "ticket"}
    return [
        (tag, str(other("language.name")), {**kept, "lang": tag})
        for tag, other in catalogues().items()
        if tag != catalogue.language
    ]


def problem(
    status: int,
    code: str,
    detail: str,
    *,
    headers: Mapping[str, str] | None = None,
    title: str = "",
    members: Mapping[str, Any] | None = None,
) -> web.Response:
    """`application/problem+json` (RFC 9457)."""
    whole = {
        "type": "about:blank",
        "title": title,
        "status": status,
        "detail": detail,
        "code": code,
        **(members or {}),
    }
    return web.Response(
        status=status,
        body=orjson.dumps(whole),
        headers={
            **guard.PROTECTIVE,
            "content-type": "application/problem+json",
            **(headers or {}),
        },
    )
