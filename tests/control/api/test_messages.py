"""Messages and JSON: both ways, the same as protobuf's own JSON where it is, one reading only."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.control.api import messages
from sidecar.control.api.messages import OBJECTS, RANGES, TEXTS, Unreadable, plain, read
from sidecar.wire import admin_pb2 as pb

SERVICE = pb.DESCRIPTOR.services_by_name["Admin"]
KINDS = [each for method in SERVICE.methods for each in (method.input_type, method.output_type)]
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)


def reached() -> list[Descriptor]:
    found: dict[str, Descriptor] = {}
    left = list(KINDS)
    while left:
        kind = left.pop()
        if kind.full_name not in found:
            found[kind.full_name] = kind
            left += [each.message_type for each in kind.fields if each.message_type is not None]
    return list(found.values())


def scalar(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if field.enum_type is not None:
        return st.sampled_from([each.number for each in field.enum_type.values if each.number])
    if field.type == FieldDescriptor.TYPE_BOOL:
        return st.just(True)
    if field.type == FieldDescriptor.TYPE_STRING:
        return TEXT
    if field.type == FieldDescriptor.TYPE_BYTES:
        if field.full_name in OBJECTS:
            return st.builds(
                lambda text: json.dumps(
                    {"a": text}, separators=(",", ":"), ensure_ascii=False
                ).encode(),
                TEXT,
            )
        if field.full_name in TEXTS:
            return TEXT.map(str.encode)
        return st.binary(max_size=8)
    if field.type == FieldDescriptor.TYPE_DOUBLE:
        return st.floats(allow_nan=False, allow_infinity=False)
    return st.integers(*RANGES[field.type])


def filled(kind: Descriptor) -> st.SearchStrategy[Message]:
    """Any message of this kind, of what may be said."""

    @st.composite
    def made(draw: st.DrawFn) -> Message:
        message = GetMessageClass(kind)()
        for field in kind.fields:
            if not draw(st.booleans()):
                continue
            inner = messages.value_of_map(field)
            count = draw(st.integers(1, 2)) if field.is_repeated else 1
            for _ in range(count):
                if inner is not None:
                    getattr(message, field.name)[draw(TEXT)] = draw(scalar(inner))
                elif field.message_type is not None:
                    value = draw(filled(field.message_type))
                    if field.is_repeated:
                        getattr(message, field.name).append(value)
                    else:
                        getattr(message, field.name).CopyFrom(value)
                elif field.is_repeated:
                    getattr(message, field.name).append(draw(scalar(field)))
                else:
                    setattr(message, field.name, draw(scalar(field)))
        return message

    return made()


def without_what_is_empty(value: Any) -> Any:
    """What an answer has and a request may not say: an enum without a value, no document."""
    if isinstance(value, dict):
        return {
            name: without_what_is_empty(each)
            for name, each in value.items()
            if each is not None and each != "unspecified"
        }
    if isinstance(value, list):
        return [without_what_is_empty(each) for each in value]
    return value


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(KINDS).flatmap(filled))
def test_what_is_written_is_read_as_it_was(message: Message) -> None:
    text = messages.json_of(message)
    assert read(type(message), without_what_is_empty(json.loads(text))) == message


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(KINDS).flatmap(filled))
def test_protobufs_own_json_differs_only_where_it_is_said(message: Message) -> None:
    own = json_format.MessageToDict(message, always_print_fields_with_no_presence=True)
    assert translated(type(message)().DESCRIPTOR, own) == json.loads(messages.json_of(message))


def translated(kind: Any, own: dict[str, Any]) -> dict[str, Any]:
    """Protobuf's JSON with our exceptions, done on the JSON alone."""

    def one(field: FieldDescriptor, value: Any) -> Any:
        if field.message_type is not None:
            return translated(field.message_type, value)
        if field.enum_type is not None:
            prefix = field.enum_type.values_by_number[0].name.removesuffix("UNSPECIFIED")
            return value.removeprefix(prefix).lower()
        if field.full_name in OBJECTS:
            return json.loads(base64.b64decode(value)) if value else None
        if field.full_name in TEXTS:
            return base64.b64decode(value).decode()
        if field.type in messages.SIXTY_FOUR and abs(int(value)) < 2**53:
            return int(value)
        return value

    found: dict[str, Any] = {}
    for field in kind.fields:
        if field.json_name not in own:
            continue
        value = own[field.json_name]
        inner = messages.value_of_map(field)
        if inner is not None:
            found[field.json_name] = {name: one(inner, each) for name, each in value.items()}
        elif field.is_repeated:
            found[field.json_name] = [one(field, each) for each in value]
        else:
            found[field.json_name] = one(field, value)
    return found


def test_everything_in_the_service_can_be_said() -> None:
    names = set()
    for kind in reached():
        for field in kind.fields:
            names.add(field.full_name)
            assert field.type in RANGES or field.type in (
                FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BOOL, FieldDescriptor.TYPE_BYTES,
                FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_ENUM, FieldDescriptor.TYPE_MESSAGE,
            ), field.full_name  # fmt: skip
            if field.enum_type is not None:
                known = messages.words(field.enum_type)
                assert known["unspecified"] == 0
                assert len(known) == len(field.enum_type.values)
    assert names >= OBJECTS | TEXTS


def test_numbers_that_not_everybody_reads_are_strings() -> None:
    for number, written in (
        (2**53 - 1, 2**53 - 1),
        (2**53, str(2**53)),
        (2**64 - 1, str(2**64 - 1)),
    ):
        assert plain(pb.Release(version=number))["version"] == written
    assert read(pb.RollbackRequest, {"to": 7}) == read(pb.RollbackRequest, {"to": "7"})
    assert read(pb.RollbackRequest, {"to": 7.0}).to == 7
    assert read(pb.RollbackRequest, {"to": str(2**63 - 1)}).to == 2**63 - 1


@pytest.mark.parametrize(
    ("kind", "value", "mistake"),
    [
        (pb.RollbackRequest, {"too": 1}, "too: unknown; there are namespace, to, dryRun"),
        (pb.RollbackRequest, {"dry_run": True}, "dry_run: unknown"),
        (pb.RollbackRequest, {"to": -1}, "to: a whole number from 0 to"),
        (pb.RollbackRequest, {"to": 2**63}, "to: a whole number"),
        (pb.RollbackRequest, {"to": 1.5}, "to: a whole number"),
        (pb.RollbackRequest, {"to": 2.0**60}, "to: a whole number"),
        (pb.RollbackRequest, {"to": True}, "to: a whole number"),
        (pb.RollbackRequest, {"to": None}, "to: a whole number"),
        (pb.RollbackRequest, {"to": ""}, "to: a whole number"),
        (pb.RollbackRequest, {"to": "\u0661"}, "to: a whole number"),
        (pb.RollbackRequest, {"to": "9" * 21}, "to: a whole number"),
        (pb.RollbackRequest, {"to": [1]}, "to: a whole number"),
        (pb.RollbackRequest, {"dryRun": "true"}, "dryRun: true or false"),
        (pb.RollbackRequest, {"dryRun": 1}, "dryRun: true or false"),
        (pb.RollbackRequest, {"message": "a\0"}, "message: no NUL"),
        (pb.RollbackRequest, {"message": 1}, "message: text is expected"),
        (pb.RollbackRequest, {"manifests": {}}, "manifests: a list is expected"),
        (pb.RollbackRequest, {"manifests": ["x"]}, "manifests[0]: an object is expected"),
        (pb.RollbackRequest, {"manifests": [{"manifest": "a-_b"}]}, "manifests[0].manifest: base64"),
        (pb.RollbackRequest, {"manifests": [{"manifest": "é"}]}, "manifests[0].manifest: base64"),
        (pb.ApplyRequest, {"documents": ["e30="]}, "documents[0]: an object is expected"),
        (pb.ApplyRequest, {"documents": {}}, "documents: a list is expected"),
        (pb.ApplyRequest, {"documents": [{}] * 100_001}, "documents: at most 100000"),
        (pb.ApplyRequest, {"namespaces": ["a", 1]}, "namespaces[1]: text is expected"),
        (pb.ApplyRequest, {"baseVersions": []}, "baseVersions: an object is expected"),
        (pb.ApplyRequest, {"baseVersions": {"a": "x"}}, "baseVersions.a: a whole number"),
        (pb.ApplyRequest, {"baseVersions": {"a\0": 1}}, "baseVersions: no NUL"),
        (pb.ApplyRequest, {"rollout": []}, "rollout: an object is expected"),
        (pb.ApplyRequest, {"rollout": None}, "rollout: an object is expected"),
        (pb.ApplyRequest, {"rollout": {"stages": [{"percent": "10"}]}}, "rollout.stages[0].percent: a number"),
        (pb.ApplyRequest, {"rollout": {"stages": [{"percent": True}]}}, "rollout.stages[0].percent: a number"),
        (pb.ApplyRequest, {"rollout": {"bake": 2**32}}, "rollout.bake: a whole number from 0 to 4294967295"),
        (pb.RevokeRequest, {"withdrawals": [{"kind": "KIND_TOKEN"}]}, "withdrawals[0].kind: one of token, session, subject, key"),
        (pb.RevokeRequest, {"withdrawals": [{"kind": "unspecified"}]}, "withdrawals[0].kind: one of"),
        (pb.RevokeRequest, {"withdrawals": [{"kind": 1}]}, "withdrawals[0].kind: one of"),
    ],
)  # fmt: skip
def test_what_is_no_message_is_said_with_its_place(kind: Any, value: Any, mistake: str) -> None:
    with pytest.raises(Unreadable) as error:
        read(kind, value)
    assert str(error.value).startswith(mistake)


def test_mistakes_are_told_together_and_not_without_end() -> None:
    with pytest.raises(Unreadable) as error:
        read(pb.ApplyRequest, {"documents": [1] * 100, "prune": 1, "x": 1})
    assert len(error.value.mistakes) == messages.MOST_MISTAKES
    with pytest.raises(Unreadable) as error:
        read(pb.ApplyRequest, {"prune": 1, "x" * 1000: 1})
    assert len(error.value.mistakes) == 2
    assert len(str(error.value)) < 1000


def test_what_the_path_says_is_unknown_to_the_body() -> None:
    with pytest.raises(Unreadable, match="namespace: it is said by the path"):
        read(pb.RollbackRequest, {"namespace": "a"}, ["namespace"], "the path")
