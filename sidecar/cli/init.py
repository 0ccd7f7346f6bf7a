"""`sidecar init`: a first, commented, working set of documents."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sidecar.cli import FINE

if TYPE_CHECKING:
    from sidecar.errors import Problem

_FILES: Final = {
    "issuer.yaml": """\
# Whose tokens are admitted. `issuer` must equal the `iss` claim of the tokens, to the letter.
apiVersion: authz.sidecar/v1
kind: TokenIssuer
metadata: {{name: main}}
spec:
  issuer: {issuer}
  # The keys are found by OpenID discovery below that address. Or say where they are:
  # jwks: {{uri: https://idp.example/jwks}}     # fetched, refreshed, kept when the issuer is down
  # jwks: {{file: keys.jwks}}                   # a JWK Set beside this file
  # algorithms: [RS256, ES256]                  # default: every asymmetric one
  # clockSkew: 30s
""",
    "service.yaml": """\
# What the sidecar stands in front of. A token must name one of the audiences in its `aud`.
apiVersion: authz.sidecar/v1
kind: ProtectedService
metadata: {{name: {name}}}
spec:
  # selector: {{app: {name}}}                   # only sidecars started with --label app={name}
  audiences: [{audience}]
  mode: enforce                                 # observe: decide, log, count, forward; for adoption
  # credentials: [{{header: authorization}}, {{cookie: session}}]
""",
    "policy.yaml": """\
# What is admitted. Nothing is, unless a rule allows it: start from deny.
#   allow (the default) widens; guard narrows whatever it selects; deny refuses.
apiVersion: authz.sidecar/v1
kind: AccessPolicy
metadata: {{name: {name}}}
spec:
  rules:
  - name: health checks need no credential
    match: {{methods: [GET], paths: [/health, /healthz]}}
    auth: none

  - name: reading needs a token
    match: {{methods: [GET]}}

  - name: writing needs a scope
    match: {{methods: [POST, PUT, PATCH, DELETE]}}
    require: {{scopes: ["{audience}:write"]}}

  # A path variable held against a claim:
  # - name: own accounts
  #   match: {{methods: [GET], paths: ["/accounts/{{id}}/**"]}}
  #   when: request.params.id == token.sub

  # Whatever else admits them, administrators' paths need this scope:
  - name: administration
    effect: guard
    match: {{paths: ["/admin/**"]}}
    require: {{scopes: ["{audience}:admin"]}}

  - name: frozen accounts do nothing
    effect: deny
    when: token.?status.orValue('') == 'frozen'
""",
}


def register(commands: Any) -> None:
    parser = commands.add_parser(
        "init",
        help="write a first set of documents",
        description="Write a first, commented, working set of documents into a folder.",
        epilog="example: sidecar init --issuer https://idp.example --audience payments",
    )
    parser.add_argument(
        "--into", dest="folder", metavar="DIR", type=Path, default=Path("policies"),
        help="the folder to write into (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--issuer",
        default="https://idp.example",
        help="the `iss` of your tokens (default: %(default)s)",
    )
    parser.add_argument(
        "--audience", default="my-service", help="the `aud` of your tokens (default: %(default)s)"
    )
    parser.add_argument("--name", help="the service's name (default: the audience)")
    parser.set_defaults(handler=run)


def run(args: argparse.Namespace) -> int:
    from sidecar.decide.compile import validate
    from sidecar.decide.parse import Source, parse
    from sidecar.errors import Misuse

    existing = [name for name in _FILES if (args.folder / name).exists()]
    if existing:
        raise Misuse(f"{args.folder} already holds {', '.join(existing)}; name another folder")
    values = {"issuer": args.issuer, "audience": args.audience, "name": args.name or args.audience}
    texts = {name: text.format(**values) for name, text in _FILES.items()}
    documents, problems = parse([Source(name, text) for name, text in texts.items()])
    problems = problems or validate(documents)
    if problems:  # of what was given; nothing was written that a line could be named of
        raise Misuse([_blame(problem) for problem in problems])
    try:
        args.folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (args.folder / name).write_text(text)
    except OSError as error:
        raise Misuse(f"cannot write into {args.folder}: {error.strerror}") from None
    print(f"Wrote {', '.join(texts)} into {args.folder}/. Next:\n")
    print(f"  sidecar check {args.folder}")
    print(f"  sidecar run --upstream http://127.0.0.1:8080 --policies {args.folder}")
    return FINE


def _blame(problem: Problem) -> str:
    """The flag whose value no document can hold, and why."""
    flag = "--issuer" if problem.file == "issuer.yaml" else "--audience, --name"
    hint = f"; {problem.hint}" if problem.hint else ""
    return f"{flag}: {problem.message}{hint}"
