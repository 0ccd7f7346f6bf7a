"""`sidecar explain`: why a request is decided so, step by step."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sidecar.cli import FINE
from sidecar.errors import BadRequest, Misuse

if TYPE_CHECKING:
    from sidecar.decide.scenario import Scenario
    from sidecar.decide.snapshot import Snapshot

DESCRIPTION: Final = """Show the decision on a request as a tree: the caller as seen, each rule
whose path matches with its condition and requirements, the outcome, the ways in and what each would
cost, and the exact answer.

Tokens are given by their claims; their signature is taken for good. Values that are JSON may be
written @FILE. A time among the claims below 100000000 is so many seconds from the request."""


def register(commands: Any) -> None:
    from sidecar.cli import policies

    parser = commands.add_parser(
        "explain",
        help="why a request is decided so, step by step",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: sidecar explain --policies policies/ --request 'POST /transfers' "
        """--token '{"sub": "alice", "scope": "transfers:write"}'""",
    )
    policies.add_flags(parser, required=False)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--request", metavar="'METHOD /PATH'", help="the request's line")
    which.add_argument(
        "--case", metavar="FILE:NAME", help="the request of a test case (see `sidecar test`)"
    )
    add_request(parser)
    parser.add_argument("--output", choices=("text", "json"), default="text")
    described = {name: parser.get_default(name) for name in _DESCRIBED}
    parser.set_defaults(handler=run, described=described)


def add_request(parser: argparse.ArgumentParser) -> None:
    """The flags that describe a request beyond its line, and who sends it: for `described`."""
    parser.add_argument("--host", default="localhost", help="its Host (default localhost)")
    parser.add_argument("--scheme", choices=("https", "http"), default="https")
    parser.add_argument("--address", default="192.0.2.1", help="the client's IP address")
    parser.add_argument(
        "--header", dest="headers", metavar="NAME:VALUE", action="append", default=[],
        help="a header; may be repeated",
    )  # fmt: skip
    parser.add_argument("--body", metavar="TEXT|@FILE", default="", help="its body")
    caller = parser.add_mutually_exclusive_group()
    caller.add_argument("--token", metavar="JSON|@FILE|bad", help="the claims of its token")
    caller.add_argument(
        "--jwt", metavar="FILE", help="a JWT whose claims count (- is standard input)"
    )
    caller.add_argument("--api-key", metavar="ID", default="", help="the id of an ApiKey")
    parser.add_argument("--workload", metavar="SPIFFE-ID", default="", help="of its certificate")
    parser.add_argument(
        "--proof", choices=("dpop", "mtls"), action="append", default=[],
        help="shown with the token; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--subject", metavar="JSON|@FILE|unavailable",
        help='what is known of the caller: {"consents": [], "profile": {}, "segments": [], '
        '"risk": 0}',
    )  # fmt: skip
    parser.add_argument(
        "--enriched", metavar="JSON|@FILE", help='what enrichers answer: {"NAME": {...} or null}'
    )
    parser.add_argument("--time", metavar="RFC-3339", help="when it is made (default: now)")


_DESCRIBED: Final = (
    "host", "scheme", "address", "headers", "body", "token", "jwt", "api_key", "workload", "proof",
    "subject", "enriched", "time",
)  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """0: explained, however it is decided."""
    from sidecar.cli.explaining import show, tree_of
    from sidecar.decide.advice import advice
    from sidecar.decide.explain import explain
    from sidecar.decide.scenario import ScenarioInvalid, decide

    scenario, snapshot = _of_case(args) if args.case else described(args)
    try:
        seen = explain(decide(scenario, snapshot), snapshot)
    except ScenarioInvalid as error:
        where, dot, name = error.where.partition(".")
        what = f"{name}: " if dot else ""
        raise Misuse(f"--{_FLAGS.get(where, where)}: {what}{error.message}") from None
    except BadRequest as error:
        raise Misuse(f"no sidecar lets this request in: {error.reason} ({error.status})") from None
    if args.output == "json":
        print(json.dumps({**seen.plain(), "advice": advice(seen)}, indent=2, default=str))
    else:
        tree = tree_of(seen)
        mends = advice(seen)
        if mends:
            branch = tree.add("what would mend it", "bold")
            for each in mends:
                branch.add(each)
        show(tree)
    return FINE


_FLAGS: Final = {"apiKey": "api-key"}


def _of_case(args: argparse.Namespace) -> tuple[Scenario, Snapshot]:
    from sidecar.cli.test import Snapshots, read_files
    from sidecar.decide.nodes import closest

    for name, default in args.described.items():
        if getattr(args, name) != default:
            flag = "--header" if name == "headers" else f"--{name.replace('_', '-')}"
            raise Misuse(
                f"{flag}: the request is that of --case; say --request to describe another"
            )
    place, colon, name = args.case.partition(":")
    if not colon:
        raise Misuse("--case: FILE:NAME, with the name of a case in that file")
    [file, *_] = read_files([place])
    case = next((each for each in file.cases if each.name == name), None)
    if case is None:
        known = [each.name for each in file.cases]
        hint = closest(name, known) or f"there are {', '.join(known)}"
        raise Misuse(f"--case: {place} has no case {name!r}; {hint}")
    return case.scenario, Snapshots(args).of(file)


def described(args: argparse.Namespace) -> tuple[Scenario, Snapshot]:
    """The request, and what decides on it, as the flags say. Raises Misuse, DocumentsInvalid."""
    from sidecar.cli.policies import snapshot_at
    from sidecar.decide.cases import is_address
    from sidecar.decide.scenario import JUNK, Scenario

    if args.policies is None:
        raise Misuse("--policies: a file or folder of documents")
    if not is_address(args.address):
        raise Misuse(f"--address: {args.address!r} is not an IP address")
    method, space, target = args.request.strip().partition(" ")
    if not space or not target.startswith("/") or " " in target:
        raise Misuse("--request: a method and a path, as in 'POST /transfers'")
    bad = args.token == "bad"  # noqa: S105  (a word, no secret)
    claims = None if bad else _jwt(args.jwt) if args.jwt else _object(args.token, "--token")
    scenario = Scenario(
        method=method,
        target=target,
        host=args.host,
        scheme=args.scheme,
        address=args.address,
        headers=tuple(_header(each) for each in args.headers),
        body=_text(args.body, "--body"),
        claims=claims,
        bad=JUNK if bad else None,
        api_key=args.api_key,
        workload=args.workload,
        proof=tuple(args.proof),
        subject=_subject(args.subject),
        enriched=_enriched(args.enriched),
        now=_moment(args.time),
    )
    return scenario, snapshot_at(args.policies, args.namespace or "default", dict(args.labels))


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.isascii() or not name.strip():
        raise Misuse(f"--header: {text!r} is not NAME:VALUE")
    if name.strip().lower() == "authorization":
        raise Misuse("--header: a credential is not written there; say --token, --jwt or --api-key")
    return name.strip(), value.strip()


def _text(value: str, flag: str) -> bytes:
    """The value, or what is in the file that it names."""
    if not value.startswith("@"):
        return value.encode("utf-8", "surrogateescape")
    try:
        return Path(value[1:]).read_bytes()
    except OSError as error:
        raise Misuse(f"{flag}: {value[1:]} cannot be read: {error.strerror}") from None


def _object(value: str | None, flag: str) -> dict[str, Any] | None:
    if value is None:
        return None
    from sidecar.decide.strict import json_object

    try:
        return json_object(_text(value, flag))
    except ValueError:
        raise Misuse(f'{flag}: not a JSON object, such as {{"sub": "alice"}}') from None


def _jwt(name: str) -> dict[str, Any]:
    """The claims of a JWT; whether it is signed well is not looked at."""
    from sidecar.decide.strict import base64url, json_object

    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text("ascii")
        parts = text.strip().removeprefix("Bearer ").encode("ascii").split(b".")
        claims = json_object(base64url(parts[1])) if len(parts) == 3 else None
    except OSError as error:
        raise Misuse(f"--jwt: {name} cannot be read: {error.strerror}") from None
    except ValueError:
        claims = None
    if claims is None:
        raise Misuse(f"--jwt: {name} is not a JWT")
    return claims


def _subject(value: str | None) -> Any:
    import msgspec

    from sidecar.decide.cases import subject_of
    from sidecar.decide.kinds.case import SubjectSpec

    if value is None or value == "unavailable":
        return subject_of(value)
    try:
        return subject_of(msgspec.json.decode(_text(value, "--subject"), type=SubjectSpec))
    except msgspec.DecodeError as error:
        raise Misuse(f"--subject: {error}") from None


def _enriched(value: str | None) -> dict[str, Any]:
    from sidecar.decide.scenario import UNREACHED

    found: dict[str, Any] = {}
    for name, answer in (_object(value, "--enriched") or {}).items():
        if answer is not None and not isinstance(answer, dict):
            raise Misuse(f"--enriched: {name} is neither an object nor null (not reached)")
        found[name] = UNREACHED if answer is None else answer
    return found


def _moment(text: str | None) -> float:
    from sidecar.decide.api_keys import expiry

    if text is None:
        return time.time()
    try:
        return expiry(text)
    except ValueError:
        raise Misuse(f"--time: {text!r} is not a time, such as 2027-01-15T12:00:00Z") from None
