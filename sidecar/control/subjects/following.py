"""The customers of one stream: whom its sidecar follows, what it was sent of them, what is next.

One unanswered push, as of any type; changes made meanwhile are one. No I/O.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from sidecar.control.catalogue import Target
from sidecar.control.sayings import said
from sidecar.control.subjects.messages import held, identity_of, number
from sidecar.control.subjects.records import VISITOR, Identifier, Record
from sidecar.decide.journey_view import View
from sidecar.facts.customers import key_of
from sidecar.wire import convert
from sidecar.wire.discovery_pb2 import (
    Ack,
    FromControl,
    FromSidecar,
    Idle,
    Nack,
    Push,
    Resource,
    Subscription,
)
from sidecar.wire.subject_pb2 import JourneyEvent

BATCH: Final = 500  # records in one push
MOST: Final = 50_000  # that one sidecar follows
MOST_CAME: Final = 8  # visitors that are remembered with one key
MOST_SAID: Final = 4_096  # messages beside pushes that wait
_CURRENT: Final = Resource()


class Following:
    """One per stream of a sidecar that asked for customers."""

    def __init__(self, subscription: Subscription) -> None:
        self.last_error = ""
        self.asking = 0  # introductions that are being looked into
        self.view: View | None = None  # what it reads of them
        self.target: Target | None = None  # the documents that say so
        self.looking = False  # whether that is being worked out
        self.reports: list[JourneyEvent] = []  # that wait to be taken, in order
        self.reporting = False  # whether they are being taken
        self.early: list[FromSidecar] = []  # what it said before that was known
        self._customers: dict[str, str] = {}  # key -> customer
        self._visitors: dict[str, str] = {}  # key -> visitor, of those that are one
        self._came: dict[str, tuple[str, ...]] = {}  # key -> visitors that came with it
        self._introduced: dict[str, Identifier] = {}  # key -> who that is, once it was said
        self._keys: dict[str, set[str]] = {}
        self._versions: dict[str, str] = {}  # key -> version that it holds
        self._waiting: OrderedDict[str, Resource | None] = OrderedDict()
        self._sent: str | None = None  # nonce, unanswered
        self._said: list[FromControl] = []
        self._pushes = 0
        self._greeted = False
        self._ready = False
        for each in subscription.held[:MOST]:
            key = convert.subject_key(each.name)
            customer, visitor = held(each.version)
            if key and customer:
                self.follow(key, customer, visitor)
                self._versions[key] = each.version

    def __len__(self) -> int:
        return len(self._customers)

    def brought(self) -> list[tuple[str, str]]:
        """What the sidecar brought along and nobody has looked at yet: keys and customers."""
        return [] if self._ready else list(self._customers.items())

    def customer(self, key: str) -> str:
        """Whom it knows by this key; empty: nobody."""
        return self._customers.get(key, "")

    def visitor(self, key: str) -> str:
        """The visitor's cookie that this key stands for; empty: it is a token's subject."""
        return self._visitors.get(key, "")

    def came(self, key: str, visitor: str) -> None:
        """A visitor's cookie came with whom the key stands for."""
        others = [each for each in self._came.get(key, ()) if each != visitor]
        self._came[key] = (*others[1 - MOST_CAME :], visitor)

    def visitors(self, key: str) -> tuple[str, ...]:
        """Those that came lately; of these the sidecar need not say so again."""
        return self._came.get(key, ())

    def introduced(self, key: str, identifier: Identifier) -> None:
        """Whom the sidecar means by a key."""
        self._introduced[key] = identifier

    def means(self, key: str, record: Record) -> bool:
        """Whether the sidecar means this customer by a key. Links can be taken back: then it holds
        the record of somebody else, and has to ask anew. Of what it brought along it did not say
        who it is; its key does, where it is made as ours are."""
        identifier = self._introduced.get(key)
        if identifier is None and key in self._visitors:
            identifier = Identifier(VISITOR, "", self._visitors[key])
        if identifier is not None:
            return identifier in record.identifiers
        return key in [key_of(identity_of(each)) for each in record.identifiers]

    def ready(self) -> None:
        """What it brought along was looked at: from now on what is not pushed is current."""
        self._ready = True

    def follow(self, key: str, customer: str, visitor: str | None = None) -> bool:
        """It hears of this customer from now on; not where there are too many. `visitor` None: it
        stands for whom it stood for."""
        if key not in self._customers and len(self._customers) >= MOST:
            return False
        version, waiting = self._versions.get(key), self._waiting.get(key)
        if visitor is None:
            visitor = self._visitors.get(key, "")
        came, introduced = self._came.get(key), self._introduced.get(key)
        before = self.drop(key)
        if introduced is not None:
            self._introduced[key] = introduced
        if came is not None:
            self._came[key] = came
        if visitor:
            self._visitors[key] = visitor
        if version is not None:
            self._versions[key] = version
        if waiting is not None and before == customer:
            self._waiting[key] = waiting
        self._customers[key] = customer
        self._keys.setdefault(customer, set()).add(key)
        return True

    def drop(self, key: str) -> str:
        """It has let go of it. Whom that was; empty: nobody."""
        customer = self._customers.pop(key, None)
        self._versions.pop(key, None)
        self._waiting.pop(key, None)
        self._visitors.pop(key, None)
        self._came.pop(key, None)
        self._introduced.pop(key, None)
        if customer is not None:
            keys = self._keys[customer]
            keys.discard(key)
            if not keys:
                del self._keys[customer]
        return customer or ""

    def keys_of(self, customer: str) -> frozenset[str]:
        """By which it knows a customer."""
        return frozenset(self._keys.get(customer, ()))

    def knows(self, customer: str) -> bool:
        """Whether it may speak of a customer. What it brought along it only claims to know: what
        was found to be none of its own counts no more, also before it was told so."""
        keys = self._keys.get(customer, ())
        return any(self._waiting.get(key, _CURRENT) is not None for key in keys)

    def customers(self) -> list[str]:
        """All that it follows."""
        return list(self._keys)

    def offer(self, key: str, resource: Resource | None, *, again: bool = False) -> None:
        """What a record that it follows is found to be; None: there is none any more. `again`: also
        where it holds this version, of which it may now read something else. Whoever read earlier
        may come later: what is older than what was offered before is left out."""
        if key not in self._customers or (resource is not None and self._outdated(key, resource)):
            return
        if resource is None or again or self._versions.get(key) != resource.version:
            self._waiting[key] = resource

    def _outdated(self, key: str, resource: Resource) -> bool:
        waiting = self._waiting.get(key)
        if waiting is None and key in self._waiting:
            return True  # it is gone
        known = waiting.version if waiting is not None else self._versions.get(key, "")
        return held(known)[0] == held(resource.version)[0] and number(resource.version) < number(
            known
        )

    def rid_of(self, customers: Iterable[str]) -> bool:
        """Whether the sidecar has confirmed that it holds nothing of these."""
        return (
            not any(each in self._keys for each in customers)
            and self._sent is None
            and not self._removing()
        )

    def _removing(self) -> bool:
        return any(each is None for each in self._waiting.values())

    def say(self, message: FromControl) -> None:
        """Something beside pushes. Beyond the bound it is lost: who waits for it asks again."""
        if len(self._said) < MOST_SAID:
            self._said.append(message)

    def next(self) -> FromControl | None:
        """The message to send now, if there is one."""
        if self._said:
            return self._said.pop(0)
        if self._sent is not None:
            return None
        if not self._ready:
            return None  # what it brought along comes first, so that a push means: all is current
        if self._waiting:
            return self._push()
        if not self._greeted:
            self._greeted = True
            return FromControl(idle=Idle(type=convert.SUBJECT))
        return None

    def _push(self) -> FromControl:
        push = Push(type=convert.SUBJECT)
        while self._waiting and len(push.resources) + len(push.removed) < BATCH:
            key, resource = self._waiting.popitem(last=False)
            if resource is None:
                push.removed.append(convert.subject_name(key))
                self.drop(key)
            else:
                push.resources.append(resource)
                self._versions[key] = resource.version
        self._pushes += 1
        push.nonce = self._sent = f"subjects-{self._pushes}"
        self._greeted = True
        return FromControl(push=push)

    def ack(self, ack: Ack) -> bool:
        """They hold there from now on. False if it answers nothing that is waiting."""
        if self._sent is None or self._sent != ack.nonce:
            return False
        self._sent = None
        self.last_error = ""
        return True

    def nack(self, nack: Nack) -> bool:
        """They could not be taken; nothing is sent again until it changes."""
        if self._sent is None or self._sent != nack.nonce:
            return False
        self._sent = None
        self.last_error = said(nack.error) or "refused without a reason"
        return True
