"""The audit trail as values: what one is, and every way in which one is broken."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import pytest

from sidecar.facts.audit import START, Head, Record, broken, content_of, hash_of


def trail(count: int = 4, head: Head = START) -> list[Record]:
    records = []
    for _ in range(count):
        number = head.number + 1
        content = content_of(number, 1000.5, "alice", "apply", {"b": 1, "a": [2]}, head.hash)
        head = Head(number, hash_of(content))
        records.append(Record(number, content, head.hash))
    return records


WHOLE = trail()
END = Head(4, WHOLE[-1].hash)


def test_the_form_of_a_record_is_a_contract() -> None:
    content = content_of(1, 1000.5, "alice", "apply", {"b": 1, "a": "ü"}, b"\x01\x02")
    assert content.decode() == (
        '{"about":{"a":"ü","b":1},"action":"apply","at":1000.5,"by":"alice","number":1,'
        '"previous":"0102"}'
    )
    assert hash_of(content) == hashlib.sha256(b"sidecar audit v1\n" + content).digest()


def test_a_whole_one_in_one_go_or_several() -> None:
    assert broken(WHOLE) == (END, "")
    half, problem = broken(WHOLE[:2])
    assert (half, problem) == (Head(2, WHOLE[1].hash), "")
    assert broken(WHOLE[2:], half) == (END, "")
    assert broken([]) == (START, "")


def forged(record: Record, **fields: object) -> Record:
    """With another content, and the hash that goes with it."""
    content = json.dumps({**json.loads(record.content), **fields}).encode()
    return Record(record.number, content, hash_of(content))


def replaced(place: int, record: Record) -> list[Record]:
    return [*WHOLE[:place], record, *WHOLE[place + 1 :]]


@pytest.mark.parametrize(
    ("records", "says", "upto"),
    [
        (WHOLE[1:], "record 1 is missing: 2 follows", 0),
        ([*WHOLE[:2], *WHOLE[3:]], "record 3 is missing: 4 follows", 2),
        ([*WHOLE[:2], *WHOLE[1:]], "record 3 is missing: 2 follows", 2),
        ([WHOLE[1], WHOLE[0]], "record 1 is missing: 2 follows", 0),
        (replaced(1, WHOLE[1]._replace(hash=b"\0" * 32)), "record 2 is not what its hash", 1),
        (replaced(1, WHOLE[1]._replace(content=WHOLE[1].content.replace(b"alice", b"malic"))),
         "record 2 is not what its hash says: it was changed", 1),
        # With a new hash it is the next one that does not fit.
        (replaced(1, forged(WHOLE[1], by="mallory")), "record 3 does not follow", 2),
        (replaced(1, forged(WHOLE[1], number=7)), "record 2 does not follow", 1),
        (replaced(1, forged(WHOLE[1], previous="00")), "record 2 does not follow", 1),
        ([Record(1, b"[]", hash_of(b"[]"))], "record 1 is not of this form", 0),
        ([Record(1, b"{", hash_of(b"{"))], "record 1 is not of this form", 0),
        ([Record(1, b"{}", hash_of(b"{}"))], "record 1 is not of this form", 0),
        (trail(1, Head(0, b"\x01")), "record 1 does not follow", 0),
    ],
)  # fmt: skip
def test_each_way_in_which_it_is_broken(records: list[Record], says: str, upto: int) -> None:
    head, problem = broken(records)
    assert says in problem
    assert head.number == upto


def test_nothing_after_the_break_is_looked_at() -> None:
    @dataclass
    class Never:
        def __iter__(self) -> object:
            yield WHOLE[0]
            yield WHOLE[2]
            raise AssertionError

    assert broken(Never())[0] == Head(1, WHOLE[0].hash)  # type: ignore[arg-type]
