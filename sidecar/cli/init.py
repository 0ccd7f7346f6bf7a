"""`sidecar init`: a first, commented, working set of documents, perhaps from an OpenAPI file."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sidecar.cli import FINE

if TYPE_CHECKING:
    from sidecar.errors import Problem

_ISSUER: Final = "https://idp.example"  # where nobody says another
_AUDIENCE: Final = "my-service"
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
        description="Write a first, commented, working set of documents into a folder: a sample, "
        "or rules for the operations of an OpenAPI 3.0 or 3.1 description.",
        epilog="example: sidecar init openapi.yaml --audience payments",
    )
    parser.add_argument(
        "openapi", nargs="?", metavar="OPENAPI",
        help="an OpenAPI description (YAML or JSON; - is standard input); what cannot be carried "
        "over is said, and stays refused",
    )  # fmt: skip
    parser.add_argument(
        "--into", dest="folder", metavar="DIR", type=Path, default=Path("policies"),
        help="the folder to write into (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--issuer",
        help=f"the `iss` of your tokens (default: that of OPENAPI, or {_ISSUER})",
    )
    parser.add_argument(
        "--audience",
        help=f"the `aud` of your tokens (default: from the title of OPENAPI, or {_AUDIENCE})",
    )
    parser.add_argument("--name", help="the service's name (default: the audience)")
    parser.add_argument(
        "--namespace", type=_namespace,
        help="that of the sidecars that it is for; on Kubernetes, of the pods (default: default)",
    )  # fmt: skip
    parser.set_defaults(handler=run)


def _namespace(text: str) -> str:
    from sidecar.config_values import to_name

    try:
        return to_name(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def run(args: argparse.Namespace) -> int:
    from sidecar.decide.compile import validate
    from sidecar.decide.parse import Source, parse
    from sidecar.errors import Misuse

    existing = [name for name in _FILES if (args.folder / name).exists()]
    if existing:
        raise Misuse(f"{args.folder} already holds {', '.join(existing)}; name another folder")
    texts, said = _sample(args) if args.openapi is None else _translated(args)
    if args.namespace is not None:
        texts = {name: _placed(text, args.namespace) for name, text in texts.items()}
    documents, problems = parse([Source(name, text) for name, text in texts.items()])
    problems = problems or validate(documents)
    if problems:  # of what was given; nothing was written that a line could be named of
        raise Misuse([_blame(problem) for problem in problems])
    try:
        args.folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            with open(args.folder / name, "x", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        raise Misuse(f"cannot write into {args.folder}: {error.strerror}") from None
    if said:
        print("Not carried over, or in need of a look; policy.yaml says it too:\n", file=sys.stderr)
        for each in said:
            print(f"  - {each}", file=sys.stderr)
        print(file=sys.stderr)
    print(f"Wrote {', '.join(texts)} into {args.folder}/. Next:\n")
    print(f"  sidecar check {args.folder}")
    where = "" if args.namespace is None else f" --namespace {args.namespace}"
    print(f"  sidecar run --upstream http://127.0.0.1:8080 --policies {args.folder}{where}")
    return FINE


def _placed(text: str, namespace: str) -> str:
    """The same documents in this namespace."""
    return re.sub(
        r"^(metadata: \{name: .*)\}$", rf"\1, namespace: '{namespace}'}}", text, flags=re.M
    )


def _sample(args: argparse.Namespace) -> tuple[dict[str, str], list[str]]:
    issuer = _ISSUER if args.issuer is None else args.issuer
    audience = _AUDIENCE if args.audience is None else args.audience
    name = audience if args.name is None else args.name
    values = {"issuer": issuer, "audience": audience, "name": name}
    return {name: text.format(**values) for name, text in _FILES.items()}, []


def _translated(args: argparse.Namespace) -> tuple[dict[str, str], list[str]]:
    """The same from the description, and what must be said of it."""
    from sidecar.cli.openapi.write import translate
    from sidecar.errors import Misuse
    from sidecar.facts.files import STDIN, read_sources

    if args.openapi != STDIN and Path(args.openapi).is_dir():
        raise Misuse(f"{args.openapi} is a folder; name the OpenAPI file")
    sources, problems = read_sources([args.openapi])
    if problems or not sources:
        raise Misuse([str(problem) for problem in problems])
    return translate(
        sources[0], issuer=args.issuer, audience=args.audience, name=args.name, unknown=_ISSUER
    )


def _blame(problem: Problem) -> str:
    """The flag whose value no document can hold, and why."""
    flags = {"issuer.yaml": "--issuer", "service.yaml": "--audience, --name"}
    flag = flags.get(problem.file, "--name")
    hint = f"; {problem.hint}" if problem.hint else ""
    return f"{flag}: {problem.message}{hint}"
