"""`sidecar journey preview`: what a kind of customer is asked on a route, in which order."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from sidecar.cli import FINE, FOUND_PROBLEMS
from sidecar.cli.printable import printable
from sidecar.errors import BadRequest, Misuse

if TYPE_CHECKING:
    from sidecar.decide.preview import Preview, Step

DESCRIPTION: Final = """Play a customer's way through a route: each challenge is answered as it asks
and the request comes again, until it is admitted or nothing more can be done.

The kind of customer is described by a token's claims and by what is known of them already. Values
that are JSON may be written @FILE."""
_KINDS: Final[Mapping[str, str]] = {
    "authentication": "log in",
    "proof": "bind the token to a key",
    "scope": "get a token with more scopes",
    "step_up": "log in more strongly, or again",
    "consent": "agree",
    "profile": "tell",
}


def register(subparsers: Any) -> None:
    """Adds the command."""
    from sidecar.cli import explain, policies

    parser = subparsers.add_parser(
        "journey",
        help="what a kind of customer is asked on a route, in which order",
        description="What customers go through.",
        epilog="example: sidecar journey preview --policies policies/ --request 'POST /transfers' "
        """--body '{"amount": 5000, "to": "bob"}' --header content-type:application/json""",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    preview = actions.add_parser(
        "preview",
        help="what would be asked",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    policies.add_flags(preview, required=True)
    preview.add_argument(
        "--request", metavar="'METHOD /PATH'", required=True, help="the request's line"
    )
    explain.add_request(preview)
    preview.add_argument("--language", default="en", metavar="TAG", help="of the words shown")
    preview.add_argument("--output", choices=("text", "json"), default="text")
    parser.set_defaults(handler=run)


def run(args: argparse.Namespace) -> int:
    """0: admitted in the end; 1: not, whatever the customer does."""
    from sidecar.cli.explain import described
    from sidecar.decide.preview import preview
    from sidecar.decide.scenario import ScenarioInvalid
    from sidecar.facts.files import load

    scenario, snapshot = described(args)
    documents, _ = load([str(args.policies)])
    try:
        seen = preview(scenario, snapshot, documents)
    except ScenarioInvalid as error:
        raise Misuse(f"--{error.where}: {error.message}") from None
    except BadRequest as error:
        raise Misuse(f"no sidecar lets this request in: {error.reason} ({error.status})") from None
    words = _words(documents, args.language)
    if args.output == "json":
        print(json.dumps(_plain(seen, words), indent=2))
    else:
        _print(seen, words)
    return FINE if seen.admitted else FOUND_PROBLEMS


def _words(documents: Any, language: str) -> dict[str, str]:
    """What people read of purposes and attributes, by name."""
    from sidecar.decide.documents import ConsentPurpose, ProfileAttribute

    found: dict[str, str] = {}
    for document in documents:
        spec = document.spec
        if isinstance(spec, ConsentPurpose):
            said = spec.words.get(language) or next(iter(spec.words.values()))
            found[document.name] = said.title
        elif isinstance(spec, ProfileAttribute):
            asked = spec.words.get(language) or next(iter(spec.words.values()))
            found[spec.attribute or document.name] = asked.label
    return found


def _plain(seen: Preview, words: Mapping[str, str]) -> dict[str, Any]:
    return {
        "steps": [
            {"kind": each.kind, "code": each.status, "needs": dict(each.needs), "rule": each.rule,
             "words": _shown(each, words)}
            for each in seen.steps
        ],
        "admitted": seen.admitted,
        "refused": seen.refused,
        "optional": seen.optional,
        "known_from_token": list(seen.known),
    }  # fmt: skip


def _shown(step: Step, words: Mapping[str, str]) -> list[str]:
    names = [*step.needs.get("consent", []), *step.needs.get("profile", [])]
    return [words.get(each, each) for each in names]


def _print(seen: Preview, words: Mapping[str, str]) -> None:
    if seen.known:
        print(f"known from the token, so never asked: {', '.join(seen.known)}")
    for place, step in enumerate(seen.steps, 1):
        print(f"{place}. {_KINDS.get(step.kind, step.kind)} ({step.status}, {step.rule})")
        for name, value in step.needs.items():
            print(f"   {name}: {printable(json.dumps(value))}")
        for shown in _shown(step, words):
            print(f"   they read: {printable(shown)}")
    if seen.optional:
        shown = words.get(seen.optional, seen.optional)
        print(f"   and by the way, if they like: {printable(shown)}")
    if seen.admitted:
        asked = len(seen.steps)
        print(f"admitted by {seen.admitted}, after {asked} challenge{'' if asked == 1 else 's'}")
    else:
        print(f"never admitted: {seen.refused}")
