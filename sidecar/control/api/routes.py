"""Which method and path is which call of the Admin service: one table. No I/O.

It only says where a request's fields stand: in the path, fixed by the path, in the query or in the
body. What a call does is said in proto/sidecar/v1/admin.proto, once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal
from urllib.parse import parse_qsl, unquote_to_bytes

from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from sidecar.control.api.messages import Unreadable, read
from sidecar.decide.parse import NAME
from sidecar.wire import admin_pb2 as pb

ROOT: Final = "/v1/"
OPENAPI: Final = "/v1/openapi.json"
MOST_QUERY: Final = 200  # parameters of one request
_SERVICE: Final = pb.DESCRIPTOR.services_by_name["Admin"]
_NAMED: Final = re.compile(r"\{([a-z]+)\}")
_ENCODING: Final = re.compile(r"%(?![0-9a-fA-F]{2})")


@dataclass(frozen=True, slots=True)
class Route:
    """`path` names fields of the request in braces; `fixed` are those that it decides, as JSON has
    them. What else the request has stands in the query of a GET, in the body of a POST."""

    verb: Literal["GET", "POST"]
    path: str
    rpc: str
    summary: str
    fixed: Mapping[str, Any] = field(default_factory=dict)

    @property
    def method(self) -> MethodDescriptor:
        """The call."""
        return _SERVICE.methods_by_name[self.rpc]

    @property
    def request(self) -> type[Message]:
        """What the call takes."""
        return GetMessageClass(self.method.input_type)

    @property
    def named(self) -> Sequence[str]:
        """Fields that stand in the path."""
        return _NAMED.findall(self.path)

    @property
    def streams(self) -> bool:
        """Whether it has answers one after the other."""
        return self.method.server_streaming

    @property
    def open_fields(self) -> Sequence[FieldDescriptor]:
        """What is left for the query or the body."""
        taken = {*self.named, *self.fixed}
        return [each for each in self.method.input_type.fields if each.name not in taken]


_ROLLOUT: Final = "/v1/namespaces/{namespace}/rollout/"
_PROPOSAL: Final = "/v1/proposals/{id}/"
ROUTES: Final = (
    Route("POST", "/v1/apply", "Apply", "Publish documents, all or nothing"),
    Route("GET", "/v1/documents", "Get", "What is published now, or was in an earlier release"),
    Route(
        "GET", "/v1/namespaces/{namespace}/history", "History",
        "Every release of a namespace, newest first",
    ),
    Route(
        "GET", "/v1/namespaces/{namespace}/diff", "Diff",
        "What differs between two releases, and what that means for requests",
    ),
    Route(
        "POST", "/v1/namespaces/{namespace}/rollback", "Rollback",
        "Make a new release with the documents of an earlier one; ends a rollout under way",
    ),
    Route("GET", "/v1/rollouts", "Rollouts", "How releases spread that go to some sidecars first"),
    Route("POST", _ROLLOUT + "pause", "Steer", "Hold a rollout", {"action": "pause"}),
    Route(
        "POST", _ROLLOUT + "resume", "Steer",
        "Go on with a rollout; of one that runs, to its next stage at once", {"action": "resume"},
    ),
    Route("POST", _ROLLOUT + "abort", "Steer", "End a rollout", {"action": "abort"}),
    Route("GET", "/v1/proposals", "Proposals", "What waits for a second person"),
    Route(
        "POST", _PROPOSAL + "approve", "Review", "Approve a proposal, which publishes it",
        {"approve": True},
    ),
    Route("POST", _PROPOSAL + "reject", "Review", "Reject a proposal", {"approve": False}),
    Route("GET", "/v1/audit", "Audit", "Everything that was done, in order"),
    Route("GET", "/v1/signing-keys", "SigningKeys", "The keys that sign releases"),
    Route(
        "POST", "/v1/signing-keys", "DelegateSigning", "Let somebody else's key sign releases, too"
    ),
    Route(
        "POST", "/v1/signing-keys/rotate", "RotateSigningKey",
        "Make a new signing key, endorsed by the one before it",
    ),
    Route("GET", "/v1/sidecars", "Status", "Which connected sidecar enforces what"),
    Route(
        "GET", "/v1/progress", "Watch",
        "How far given releases have come: a line at once and after every change",
    ),
    Route(
        "POST", "/v1/revocations", "Revoke",
        "Withdraw tokens, sessions, subjects or keys, all or nothing",
    ),
    Route("GET", "/v1/revocations", "ListRevocations", "What is withdrawn, newest first"),
    Route("GET", "/v1/whoami", "WhoAmI", "Who the caller is taken for, and what they may do"),
)  # fmt: skip
"""Every method of the service has one; a test looks."""


def find(raw_path: str) -> tuple[Mapping[str, Route], Mapping[str, str]]:
    """Routes by verb, and the fields that the path holds; none where there is no such path."""
    parts = raw_path.split("/")
    for path, verbs in _PATHS.items():
        values = _matched(path.split("/"), parts)
        if values is not None:
            return verbs, values
    return {}, {}


def _matched(pattern: Sequence[str], parts: Sequence[str]) -> dict[str, str] | None:
    if len(pattern) != len(parts):
        return None
    values = {}
    for wanted, part in zip(pattern, parts, strict=True):
        name = _NAMED.fullmatch(wanted)
        if name is None:
            if wanted != part:
                return None
            continue
        value = _decoded(part)
        if not value or "/" in value:
            return None
        values[name[1]] = value
    return values


def of_query(route: Route, query: str) -> dict[str, Any]:
    """The parameters as members of a JSON object. Raises Unreadable."""
    try:
        if _ENCODING.search(query):
            raise ValueError
        pairs = parse_qsl(
            query, keep_blank_values=True, strict_parsing=bool(query), errors="strict",
            max_num_fields=MOST_QUERY,
        )  # fmt: skip
    except ValueError:
        raise Unreadable(["the query cannot be read"]) from None
    fields = {each.json_name: each for each in route.open_fields} if route.verb == "GET" else {}
    found: dict[str, Any] = {}
    mistakes = []
    for name, text in pairs:
        known = fields.get(name)
        if known is None:
            there = ", ".join(fields) or "none"
            mistakes.append(f"?{name[:64]}: unknown; there are: {there}")
        elif known.is_repeated:
            found.setdefault(name, []).append(_version(text))
        elif name in found:
            mistakes.append(f"?{name}: given twice")
        elif known.type == FieldDescriptor.TYPE_BOOL:
            found[name] = {"true": True, "false": False}.get(text, text)
        else:
            found[name] = text
    if mistakes:
        raise Unreadable(mistakes)
    return found


def message(route: Route, values: Mapping[str, str], members: Mapping[str, Any]) -> Message:
    """The request, of what the path, the query and the body hold. Raises Unreadable."""
    taken = {**values, **route.fixed}
    found = read(route.request, members, without=taken, where="the path")
    found.MergeFrom(read(route.request, taken))
    for name in values:
        if name == "namespace" and not NAME.fullmatch(values[name]):
            raise Unreadable(["the path: this is not the name of a namespace"])
    return found


def _version(text: str) -> Any:
    """NAMESPACE@VERSION, as the command line writes it; there is nothing else of which a query has
    several."""
    namespace, at, version = text.rpartition("@")
    return {"namespace": namespace, "version": version} if at else text


def _decoded(part: str) -> str:
    """Of a segment; empty where its encoding is none."""
    if _ENCODING.search(part):
        return ""
    try:
        return unquote_to_bytes(part).decode()
    except UnicodeDecodeError:
        return ""


_PATHS: Final[Mapping[str, Mapping[str, Route]]] = {
    path: {each.verb: each for each in ROUTES if each.path == path}
    for path in dict.fromkeys(each.path for each in ROUTES)
}
