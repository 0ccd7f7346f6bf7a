"""`sidecar revoke`: a token, a session, a subject or a key; now, and everywhere."""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from sidecar.cli import FINE, FOUND_PROBLEMS
from sidecar.cli.printable import moment, printable, printable_lines
from sidecar.cli.server import add_flags, admin_client
from sidecar.decide.documents import seconds
from sidecar.decide.strict import base64url, json_object
from sidecar.errors import ControlPlaneUnreachable, Misuse
from sidecar.facts.admin import AdminClient
from sidecar.wire import admin_pb2 as pb

DEFAULT_EXPIRES: Final = "7d"
KEY_EXPIRES: Final = "399d"  # what a key signed, or an API key, may be valid for long
MAX_SKEW: Final = 600  # seconds that a sidecar may tolerate beyond a token's expiry

_KINDS: Final = {
    "jti": pb.Withdrawal.KIND_TOKEN,
    "session": pb.Withdrawal.KIND_SESSION,
    "subject": pb.Withdrawal.KIND_SUBJECT,
    "key": pb.Withdrawal.KIND_KEY,
}
_NAMES: Final = {kind: name for name, kind in _KINDS.items()}


def register(subparsers: Any) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "revoke",
        help="withdraw a token, a session, a subject or a key, everywhere",
        description="Withdraw credentials before their time. Every sidecar refuses them from then "
        "on and cuts what is under way for them.",
        epilog="example: sidecar revoke --issuer https://idp.example --subject alice",
    )
    what = parser.add_argument_group("what to withdraw").add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--token", metavar="FILE", help="the JWT in this file (- is standard input), by its jti"
    )
    what.add_argument("--jti", metavar="ID", help="the token with this `jti`")
    what.add_argument("--session", metavar="ID", help="all tokens with this `sid`")
    what.add_argument("--subject", metavar="ID", help="all of this `sub` that were issued so far")
    what.add_argument(
        "--key", metavar="ID",
        help="all that this key signed (its `kid`) or that are bound to it (its thumbprint); the "
        "id of an API key, with --issuer api-key",
    )  # fmt: skip
    what.add_argument("--list", action="store_true", help="show what is withdrawn")
    parser.add_argument("--issuer", default="", metavar="URL", help="the `iss` that it is of")
    parser.add_argument(
        "--before", type=_moment, default=None, metavar="TIME",
        help="only what was issued before then, as in 2027-01-31T08:00:00Z; default now for "
        "--subject, else whenever it was",
    )  # fmt: skip
    parser.add_argument(
        "--expires", type=_duration, default=None, metavar="TIME",
        help="how long to remember it: longer than any such credential is valid "
        f"(default {DEFAULT_EXPIRES}; with --key {KEY_EXPIRES}, with --token until it has expired)",
    )  # fmt: skip
    parser.add_argument("--reason", default="", metavar="TEXT", help="for whoever looks at --list")
    parser.add_argument("--no-wait", action="store_true", help="do not wait for the sidecars")
    parser.add_argument("--output", choices=("text", "json"), default="text")
    add_flags(parser)
    parser.set_defaults(handler=run)


async def run(args: argparse.Namespace) -> int:
    """0: withdrawn, and refused on every sidecar; 1: not, or not on all within the time."""
    async with admin_client(args) as client:
        if args.list:
            request = pb.ListRevocationsRequest(issuer=args.issuer)
            _print_list(await client.revocations(request), args.output)
            return FINE
        withdrawal = _withdrawal(args, time.time())
        response = await client.revoke(pb.RevokeRequest(withdrawals=[withdrawal]))
        for warning in response.warnings:
            print(f"sidecar revoke: warning: {printable_lines(warning)}", file=sys.stderr)
        reach = None if args.no_wait else await _reach(client, response.number, args.timeout)
    if args.output == "json":
        print(json.dumps(_json(withdrawal, response.number, reach), indent=2))
    else:
        _print(withdrawal, response.number, reach)
    if args.no_wait:
        return FINE
    return FINE if reach is not None and reach.live == reach.sidecars else FOUND_PROBLEMS


def _withdrawal(args: argparse.Namespace, now: float) -> pb.Withdrawal:
    """Raises Misuse."""
    if args.token is not None:
        return _of_token(args, now)
    if not args.issuer:
        raise Misuse("--issuer: whose it is; a jti, a sid or a sub means nothing without its `iss`")
    name = next(name for name in _KINDS if getattr(args, name) is not None)
    before = args.before
    _check_text(args.issuer, getattr(args, name), args.reason)
    default = KEY_EXPIRES if name == "key" else DEFAULT_EXPIRES
    return pb.Withdrawal(
        kind=_KINDS[name],
        issuer=args.issuer,
        value=getattr(args, name),
        before_ms=None if before is None else math.ceil(before * 1000),
        # Ours may be off; the control plane's is the one that sidecars are compared with.
        before_now=before is None and name == "subject",
        expires=math.ceil(now + (seconds(default) if args.expires is None else args.expires)),
        reason=args.reason,
    )


def _check_text(*texts: str) -> None:
    """Raises Misuse for what cannot be sent: bytes that are no UTF-8 come as half surrogates."""
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise Misuse(f"{text!r} is not UTF-8") from None


def _of_token(args: argparse.Namespace, now: float) -> pb.Withdrawal:
    try:
        name = args.token
        text = sys.stdin.read() if name == "-" else Path(name).read_text("ascii")
    except (OSError, ValueError) as error:
        raise Misuse(f"--token {args.token}: cannot be read: {error}") from None
    parts = text.strip().removeprefix("Bearer ").encode("ascii", "replace").split(b".")
    try:
        claims = json_object(base64url(parts[1])) if len(parts) == 3 else {}
    except ValueError:
        claims = {}
    issuer, jti, expires = (claims.get(name) for name in ("iss", "jti", "exp"))
    if type(jti) is int:
        jti = str(jti)
    if not isinstance(issuer, str) or not issuer:
        raise Misuse("--token: not a JWT with an `iss`; for an opaque token withdraw its --subject")
    if args.issuer not in ("", issuer):
        raise Misuse("--token: it is of another issuer than --issuer says")
    if not isinstance(jti, str) or not jti:
        raise Misuse("--token: it has no `jti`, so it cannot be told apart; withdraw its --subject")
    until = now + seconds(DEFAULT_EXPIRES)
    if isinstance(expires, int | float) and abs(expires) < 2**53:
        until = max(now, expires) + MAX_SKEW
    if args.expires is not None:
        until = now + args.expires
    return pb.Withdrawal(
        kind=pb.Withdrawal.KIND_TOKEN, issuer=issuer, value=jti, expires=math.ceil(until),
        reason=args.reason,
    )  # fmt: skip


async def _reach(client: AdminClient, number: int, within: float) -> pb.Progress.Reach | None:
    """How far it came, once all refuse it or the time is up. It is withdrawn in any case."""
    reach = None
    try:
        async for progress in client.follow(pb.WatchRequest(withdrawal=number), within=within):
            reach = progress.withdrawal
            if reach.live >= reach.sidecars:
                break
    except ControlPlaneUnreachable as error:
        print(f"sidecar revoke: withdrawn, but where is unknown: {error}", file=sys.stderr)
    return reach


def _print(withdrawal: pb.Withdrawal, number: int, reach: pb.Progress.Reach | None) -> None:
    until = moment(withdrawal.expires)
    name = _NAMES[withdrawal.kind]
    print(f"withdrawn as number {number}: {name} {withdrawal.value!r} of {withdrawal.issuer}")
    print(f"remembered until {until}")
    if reach is None:
        return
    if not reach.sidecars:
        print("no sidecar is connected; each refuses it as soon as it is")
        return
    print(f"refused on {reach.live} of {reach.sidecars} sidecars")
    for error in reach.errors:
        print(f"  not on {printable_lines(error)}", file=sys.stderr)
    if reach.live < reach.sidecars:
        print("the others refuse it as soon as they have heard of it", file=sys.stderr)


def _json(
    withdrawal: pb.Withdrawal, number: int, reach: pb.Progress.Reach | None
) -> dict[str, Any]:
    found: dict[str, Any] = {"number": number, **_body(withdrawal)}
    if reach is not None:
        found["sidecars"], found["refusedOn"] = reach.sidecars, reach.live
        found["errors"] = list(reach.errors)
    return found


def _body(each: pb.Withdrawal) -> dict[str, Any]:
    return {
        "kind": _NAMES.get(each.kind, "unknown"),
        "issuer": each.issuer,
        "value": each.value,
        "before": each.before_ms / 1000 if each.HasField("before_ms") else None,
        "expires": each.expires,
        "reason": each.reason,
    }


def _print_list(response: pb.ListRevocationsResponse, output: str) -> None:
    if output == "json":
        body = [
            {"number": each.number, "created": each.created, "source": each.source, **_body(each)}
            for each in response.withdrawals
        ]
        print(json.dumps({"total": response.total, "withdrawals": body}, indent=2))
        return
    console = Console(highlight=False, markup=False, soft_wrap=True)
    for each in response.withdrawals:
        made = moment(each.created)
        reason = f" ({each.reason!r})" if each.reason else ""
        line = (
            f"{each.number}  {made}  {_NAMES.get(each.kind, 'unknown')} {each.value!r} of "
            f"{each.issuer}, by {each.source}{reason}"
        )
        console.print(printable(line))
    shown = len(response.withdrawals)
    print(f"{response.total} withdrawn" + (f", {shown} shown" if shown < response.total else ""))


def _moment(text: str) -> float:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a moment, such as 2027-01-31T08:00:00Z")
    return found.timestamp()


def _duration(text: str) -> float:
    try:
        return seconds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
