"""What the supervisor and its workers say to each other, as types. Documents go as canonical JSON.

Order to a worker: `Begin`; keys; what was withdrawn; `Documents` and `Adopt` where there is a
release; `Serve`. From
then on anything, until `Drain` or the end of the channel, which means the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import msgspec

from sidecar.config import RunSettings
from sidecar.decide.journey import Introduction
from sidecar.decide.subjects import Subject
from sidecar.facts.shared_keys import SharedKeys
from sidecar.telemetry.merged import Family

# To a worker.


class Begin(msgspec.Struct, tag=True, frozen=True):
    """Who you are. `key` is the secret that the shared memory is keyed with, `nonce_key` what DPoP
    nonces are made with."""

    worker: int
    version: str
    settings: bytes
    key: bytes
    nonce_key: bytes = b""


class Documents(msgspec.Struct, tag=True, frozen=True):
    """Some of the documents of the release that `Adopt` names next."""

    canonical: list[bytes]


class Adopt(msgspec.Struct, tag=True, frozen=True):
    """Decide with the `documents` documents that came. Answered with Adopted or Refused."""

    release: int
    version: str
    documents: int


class Keys(msgspec.Struct, tag=True, frozen=True):
    """An issuer's keys were fetched, or could not be."""

    keys: SharedKeys


class KeysAnswered(msgspec.Struct, tag=True, frozen=True):
    """After a NeedKeys: what is known of this issuer has been sent."""

    issuer: str


class Withdrawn(msgspec.Struct, tag=True, frozen=True):
    """Refuse these from now on (`decide.revocations.unpack`)."""

    packed: bytes


class Record(msgspec.Struct, tag=True, frozen=True):
    """A customer's record, by its key (`facts.customers`); None: there is none any more."""

    key: str
    subject: Subject | None


class NoRecord(msgspec.Struct, tag=True, frozen=True):
    """Nobody can say who is behind this key."""

    key: str
    reason: str


class Spent(msgspec.Struct, tag=True, frozen=True):
    """What came of a `Spend`."""

    use: str
    outcome: str


class Taken(msgspec.Struct, tag=True, frozen=True):
    """Events of a `Report` that are in safe hands."""

    ids: list[str]


class CustomerKeys(msgspec.Struct, tag=True, frozen=True):
    """What visitors' cookies and tickets are sealed with."""

    visitor: bytes
    ticket: bytes


class CustomersLost(msgspec.Struct, tag=True, frozen=True):
    """Since when nobody can be asked about customers; None: somebody can. `away`: nor will anybody
    in a moment."""

    since: float | None
    away: bool = False


class Serve(msgspec.Struct, tag=True, frozen=True):
    """Accept connections at this port of the address in the settings. Answered."""

    port: int


class Ask(msgspec.Struct, tag=True, frozen=True):
    """Answered with a Decided, if asked for, and a Counted of the same number."""

    number: int
    decisions: bool = False


class Reload(msgspec.Struct, tag=True, frozen=True):
    """SIGHUP."""


class Drain(msgspec.Struct, tag=True, frozen=True):
    """Stop accepting, finish what is in flight, exit."""


AboutCustomers = Record | NoRecord | Spent | Taken | CustomerKeys | CustomersLost
ToWorker = (
    Begin
    | Documents
    | Adopt
    | Keys
    | KeysAnswered
    | Withdrawn
    | Record
    | NoRecord
    | Spent
    | Taken
    | CustomerKeys
    | CustomersLost
    | Serve
    | Ask
    | Reload
    | Drain
)

# From a worker.


class Adopted(msgspec.Struct, tag=True, frozen=True):
    """No request is decided with an older release from here on."""

    release: int


class Refused(msgspec.Struct, tag=True, frozen=True):
    """The release could not be adopted here."""

    release: int
    error: str


class Serving(msgspec.Struct, tag=True, frozen=True):
    """Connections are accepted."""


class Failed(msgspec.Struct, tag=True, frozen=True):
    """It cannot serve, for the settings' mistakes."""

    mistakes: list[str]


class NeedKeys(msgspec.Struct, tag=True, frozen=True):
    """A decision needs this issuer's keys. Answered with KeysAnswered."""

    issuer: str


class Introduce(msgspec.Struct, tag=True, frozen=True):
    """Who was met. Answered with Record or NoRecord, and with each Record that it becomes."""

    key: str
    introduction: Introduction


class Release(msgspec.Struct, tag=True, frozen=True):
    """Customers that it holds no more."""

    keys: list[str]


class Spend(msgspec.Struct, tag=True, frozen=True):
    """Count one use of a consent. Answered with Spent."""

    use: str
    customer: str
    purpose: str
    binding: str


class Report(msgspec.Struct, tag=True, frozen=True):
    """What became of customers' requests: id, customer, type, Unix time, JSON."""

    events: list[tuple[str, str, str, float, bytes]]


class Counted(msgspec.Struct, tag=True, frozen=True):
    """Everything that is counted, since the worker's start. `number` is 0 at its end."""

    number: int
    families: list[Family]


class Decided(msgspec.Struct, tag=True, frozen=True):
    """The latest decision records, oldest first, as JSON."""

    records: bytes


AskingCustomers = Introduce | Release | Spend | Report
FromWorker = (
    Adopted
    | Refused
    | Serving
    | Failed
    | NeedKeys
    | Counted
    | Decided
    | Introduce
    | Release
    | Spend
    | Report
)

TO_WORKER: Final[msgspec.msgpack.Decoder[ToWorker]] = msgspec.msgpack.Decoder(ToWorker)
FROM_WORKER: Final[msgspec.msgpack.Decoder[FromWorker]] = msgspec.msgpack.Decoder(FromWorker)


def settings_to_bytes(settings: RunSettings) -> bytes:
    """Settings as they travel."""
    return msgspec.json.encode(settings, enc_hook=str)


def settings_from_bytes(data: bytes) -> RunSettings:
    """The same settings."""
    return msgspec.json.decode(data, type=RunSettings, dec_hook=_decoded)


def _decoded(wanted: type, value: Any) -> Any:
    if wanted is Path:
        return Path(value)
    raise NotImplementedError(wanted)
