"""The tables of customers, as queries name them. `migrations` creates them; a test compares.

subjects             a row for each customer that was ever told apart. `survivor` is who they turned
                     out to be, themselves at first; `merged_into` the one they were merged with
identifiers          by a digest, once each. `customer` is whom it came to, `holder` their survivor;
                     `sole` a digest of the issuer, of which a holder has one subject at most
remembered           identifiers that join nobody: many may have the same device
apart                what a customer is not joined by: split by hand (`other` empty), or noted
attributes           a value, when it was declined, when it was asked for last
consents             every decision; `latest` the last one of its purpose and binding
uses                 of consents, by a digest of the use's id, so that each counts once
receipts             signed, in a chain per customer
links                what was joined, kept apart or undone, and why
reads                who looked at whom
outbox               events in the order of their commits, until they are delivered and old
counters             `changes`: the last number that was given; `delivered`: of the outbox
tickets              redeemed ones, until they expire
challenges           issued ones, until they are answered or expire
secrets              made once
tombstones           that somebody was erased, by a digest that only this store can make

What belongs to a customer who was merged stays in rows of their own, so undoing a merge moves
nothing: a survivor's record is read from all rows whose customer has that survivor.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from sidecar.control.schema import metadata

ID: Final = 64  # characters of an id
NAME: Final = 320  # characters of NAMESPACE/NAME

subjects: Final = Table(
    "subjects",
    metadata,
    Column("customer", String(ID), primary_key=True),
    Column("pool", String(NAME), nullable=False),
    Column("survivor", String(ID), nullable=False, index=True),
    Column("merged_into", String(ID), nullable=True),
    Column("version", BigInteger, nullable=False),
    Column("changed", BigInteger, nullable=False, index=True),
    Column("created", Float, nullable=False),
    Column("seen", Float, nullable=False, index=True),
    Column("anonymous", Boolean, nullable=False),
    Column("segments", Text, nullable=False),
    Column("risk_points", Float, nullable=False),
    Column("risk_at", Float, nullable=False),
    Column("risk_half_life", Float, nullable=False),
)
identifiers: Final = Table(
    "subject_identifiers",
    metadata,
    Column("key", LargeBinary, primary_key=True),
    Column("customer", String(ID), nullable=False, index=True),
    Column("holder", String(ID), nullable=False, index=True),
    Column("sole", LargeBinary, nullable=True),
    Column("type", String(64), nullable=False),
    Column("issuer", Text, nullable=False),
    Column("value", Text, nullable=False),
    Column("at", Float, nullable=False),
    UniqueConstraint("holder", "sole", name="one_subject_of_an_issuer"),
)
remembered: Final = Table(
    "subject_remembered",
    metadata,
    Column("customer", String(ID), primary_key=True),
    Column("key", LargeBinary, primary_key=True),
    Column("type", String(64), nullable=False),
    Column("issuer", Text, nullable=False),
    Column("value", Text, nullable=False),
    Column("at", Float, nullable=False),
)
apart: Final = Table(
    "subject_apart",
    metadata,
    Column("customer", String(ID), primary_key=True),
    Column("key", LargeBinary, primary_key=True),
    Column("other", String(ID), primary_key=True),
    Index("subject_apart_key", "key"),
    Index("subject_apart_other", "other"),
)
attributes: Final = Table(
    "subject_attributes",
    metadata,
    Column("customer", String(ID), primary_key=True),
    Column("name", String(NAME), primary_key=True),
    Column("value", Text, nullable=True),  # JSON; NULL: none
    Column("source", Text, nullable=False),
    Column("at", Float, nullable=True),
    Column("expires", Float, nullable=True, index=True),
    Column("declined", Float, nullable=True),
    Column("asked", Float, nullable=True),
)
consents: Final = Table(
    "subject_consents",
    metadata,
    Column("id", String(ID), primary_key=True),
    Column("customer", String(ID), nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("purpose", String(NAME), nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("binding", String(128), nullable=False),
    Column("state", String(16), nullable=False),
    Column("latest", Boolean, nullable=False),
    Column("at", Float, nullable=False),
    Column("language", String(64), nullable=False),
    Column("expires", Float, nullable=True),
    Column("max_uses", BigInteger, nullable=True),
    Column("used", BigInteger, nullable=False),
    Column("via", Text, nullable=False),
    Column("by", Text, nullable=False),
    Index("subject_consents_latest", "customer", "latest", "purpose", "binding"),
)
uses: Final = Table(
    "subject_uses",
    metadata,
    Column("consent", String(ID), primary_key=True),
    Column("use", LargeBinary, primary_key=True),
    Column("customer", String(ID), nullable=False, index=True),
    Column("at", Float, nullable=False, index=True),
)
receipts: Final = Table(
    "subject_receipts",
    metadata,
    Column("customer", String(ID), primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("id", String(ID), nullable=False),
    Column("consent", String(ID), nullable=False),
    Column("at", Float, nullable=False),
    Column("jws", Text, nullable=False),
)
links: Final = Table(
    "subject_links",
    metadata,
    Column("id", String(ID), primary_key=True),
    Column("customer", String(ID), nullable=False, index=True),
    Column("number", BigInteger, nullable=False),
    Column("at", Float, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("key", LargeBinary, nullable=True, index=True),
    Column("type", String(64), nullable=False),
    Column("issuer", Text, nullable=False),
    Column("value", Text, nullable=False),
    Column("other", String(ID), nullable=True, index=True),
    Column("why", Text, nullable=False),
    Column("by", Text, nullable=False),
    Column("undone", Boolean, nullable=False),
    Column("moved", Text, nullable=False),  # JSON: what an undoing takes back besides rows
)
reads: Final = Table(
    "subject_reads",
    metadata,
    Column("id", String(ID), primary_key=True),
    Column("customer", String(ID), nullable=False, index=True),
    Column("at", Float, nullable=False, index=True),
    Column("reader", Text, nullable=False),
    Column("why", Text, nullable=False),
    Column("count", Integer, nullable=False),
)
outbox: Final = Table(
    "subject_outbox",
    metadata,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("id", String(ID), nullable=False),
    Column("customer", String(ID), nullable=False, index=True),
    Column("type", String(128), nullable=False),
    Column("at", Float, nullable=False),
    Column("data", Text, nullable=False),  # JSON
)
counters: Final = Table(
    "subject_counters",
    metadata,
    Column("name", String(ID), primary_key=True),
    Column("value", BigInteger, nullable=False),
)
tickets: Final = Table(
    "subject_tickets",
    metadata,
    Column("jti", LargeBinary, primary_key=True),
    Column("expires", Float, nullable=False, index=True),
)
challenges: Final = Table(
    "subject_challenges",
    metadata,
    Column("ticket", LargeBinary, primary_key=True),
    Column("id", String(ID), nullable=False),
    Column("customer", String(ID), nullable=False, index=True),
    Column("kind", String(64), nullable=False),
    Column("expires", Float, nullable=False, index=True),
)
secrets: Final = Table(
    "subject_secrets",
    metadata,
    Column("name", String(ID), primary_key=True),
    Column("secret", LargeBinary, nullable=False),
)
tombstones: Final = Table(
    "subject_tombstones",
    metadata,
    Column("digest", LargeBinary, primary_key=True),
    Column("changed", BigInteger, nullable=False, index=True),
    Column("at", Float, nullable=False),
    # Until every cache has heard of it; then only the digest remains.
    Column("customer", String(ID), nullable=True),
    Column("certificate", Text, nullable=False),
)
