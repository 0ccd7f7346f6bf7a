"""What was read of an OpenAPI file -> the texts of a first set of documents.

Whatever comes from the file is written by a YAML dumper or, in comments, as one printable line.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import PurePath
from typing import Any, Final

import yaml

from sidecar.cli.openapi.read import Api, line, read
from sidecar.cli.openapi.rules import Rule, rules
from sidecar.decide.api_keys import ISSUER as API_KEYS
from sidecar.decide.parse import API_VERSION, Source
from sidecar.errors import Misuse

WIDTH: Final = 100


def translate(
    source: Source, *, issuer: str | None, audience: str | None, name: str | None, unknown: str
) -> tuple[dict[str, str], list[str]]:
    """File names with their texts, and what was not carried over or needs a look.

    `issuer` counts for all tokens, whatever the description says; `unknown` stands where it says
    nothing. `audience` and `name` come from the title where they are not given. Raises Misuse.
    """
    api = read(source)
    made = rules(api)
    issuers = _issuers(api, made, issuer, unknown)
    said = _remarks(api)
    if not made:
        raise Misuse([f"{source.name}: no operation can be carried over", *said])
    if name is None:
        name = _slug(api.title) if audience is None else audience
    if audience is None:
        audience = name
    file = PurePath(source.name).name
    texts = {
        "service.yaml": _service(api, made, audience, name, tokens=bool(issuers)),
        "policy.yaml": _policy(file, api, made, name, said, _pins(made, issuers)),
    }
    if issuers:
        texts = {"issuer.yaml": _issuer(issuers), **texts}
    return texts, said


def _slug(title: str) -> str:
    """A name made of a title."""
    slug = re.sub(r"[^a-z0-9]+", "-", title.lower())[:63].strip("-")
    return slug or "my-service"


def _remarks(api: Api) -> list[str]:
    return [
        f"{text}: {', '.join(places)}" if places else text for text, places in api.remarks.items()
    ]


# Who is trusted.


def _issuers(api: Api, made: Sequence[Rule], given: str | None, unknown: str) -> list[str]:
    """The issuers whose tokens some rule admits; none where all rules are about something else."""
    wanted = [
        each.alternative
        for each in made
        if each.alternative.auth == "optional"
        or (each.alternative.auth == "token" and each.alternative.source != "key")
    ]
    if given is not None:
        for each in dict.fromkeys(each.issuer for each in wanted if each.issuer):
            if each != given:
                api.remark(f"the issuer {each} gave way to --issuer")
        return [given]
    named = list(dict.fromkeys(each.issuer for each in wanted if each.issuer))
    if named or not wanted:
        return named
    api.remark(f"no issuer is known, so {unknown} stands in for it everywhere; give --issuer")
    return [unknown]


def _pins(made: Sequence[Rule], issuers: Sequence[str]) -> dict[str, list[str]]:
    """What `require.issuers` must say, by an alternative's source, where there are several kinds of
    credential; and `each` that a token may have to be of by itself."""
    keys = any(each.alternative.source == "key" for each in made)
    several = keys or len(issuers) > 1
    return {
        "key": [API_KEYS],
        "token": list(issuers) if keys else [],
        "each": list(issuers) if several else [],
    }


def _issuer(issuers: Sequence[str]) -> str:
    head = """\
# Whose tokens are admitted. `issuer` must equal the `iss` claim of the tokens, to the letter; the
# keys are found by OpenID discovery below that address, or say where: jwks: {uri: https://...}
"""
    names = ["main"] if len(issuers) == 1 else [f"issuer-{at}" for at in range(1, len(issuers) + 1)]
    return head + "---\n".join(
        _document("TokenIssuer", name, {"issuer": issuer})
        for name, issuer in zip(names, issuers, strict=True)
    )


def _service(api: Api, made: Sequence[Rule], audience: str, name: str, *, tokens: bool) -> str:
    spec: dict[str, Any] = {"audiences": [audience], "mode": "enforce"}
    keys = any(each.alternative.source == "key" for each in made)
    places: list[dict[str, str]] = [{"header": "authorization"}] if tokens or not keys else []
    for each in api.used.values():
        place = {"header": each.header.lower()} if each.header else {"cookie": each.cookie}
        if keys and each.kind == "key" and place not in places:
            places.append(place)
    if places != [{"header": "authorization"}]:
        spec["credentials"] = places
    head = """\
# What the sidecar stands in front of. A token must name one of the audiences in its `aud`, which
# OpenAPI does not know: see that they are right. mode: observe decides, logs and forwards.
"""
    return head + _document("ProtectedService", name, spec)


# What is admitted.


def _policy(
    file: str,
    api: Api,
    made: Sequence[Rule],
    name: str,
    said: Iterable[str],
    pins: dict[str, list[str]],
) -> str:
    lines = [f"# What is admitted, made from {line(file)}"]
    lines[0] += f" ({api.title})." if api.title else "."
    lines += ["# Nothing else is: start from deny. Each rule allows its own operations only."]
    if said:
        lines += ["#", "# Not carried over, or in need of a look:"]
        for each in said:
            lines += _comment(each, first="#   - ", then="#     ")
    text = "\n".join(lines) + "\n" + _document("AccessPolicy", name, {})
    text = text.removesuffix("spec: {}\n") + "spec:\n  rules:\n"
    return text + "\n".join(_rule(each, pins) for each in made)


def _rule(rule: Rule, pins: dict[str, list[str]]) -> str:
    asked = rule.alternative
    body: dict[str, Any] = {
        "name": rule.name,
        "match": {"methods": list(rule.methods), "paths": list(rule.paths)},
    }
    if asked.auth != "token":
        body["auth"] = asked.auth
    when = " && ".join(
        each for each in (rule.when, 'source.spiffe != ""' if asked.certificate else "") if each
    )
    if when:
        body["when"] = when
    require: dict[str, Any] = {}
    if asked.scopes:
        require["scopes"] = list(asked.scopes)
    issuers = pins.get(asked.source, []) if asked.auth == "token" else []
    if asked.issuer in pins.get("each", []):
        issuers = [asked.issuer]
    if issuers:
        require["issuers"] = issuers
    if require:
        body["require"] = require
    comments: list[str] = []
    for operation in rule.operations:
        about = ": ".join(part for part in (operation.name, operation.summary) if part)
        told = f"{operation}  {about}".rstrip()
        comments += _comment(told, first="  # ", then="  #     ")
    return "\n".join(comments) + "\n" + textwrap.indent(_dump([body]), "  ")


def _comment(text: str, *, first: str, then: str) -> list[str]:
    return textwrap.wrap(
        text, WIDTH - 2, initial_indent=first, subsequent_indent=then,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def _document(kind: str, name: str, spec: dict[str, Any]) -> str:
    return _dump(
        {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec}
    )


class _Dumper(yaml.SafeDumper):
    """Writes equal parts out twice rather than as an alias."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _dump(value: Any) -> str:
    text: str = yaml.dump(
        value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=WIDTH - 4,
        default_flow_style=None,
    )  # fmt: skip
    return text
