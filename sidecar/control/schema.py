"""The store's tables, as queries name them. `migrations` creates them; a test compares the two.

contents      documents by the SHA-256 of their canonical form; shared by all releases
releases      append-only and immutable; `manifest` is what was signed
entries       which contents a release consists of
signatures    of a release's manifest, in order; one is added when the key rotates
signing_keys  in order of their making; the last one signs, each after the first is endorsed by
              the one before it
withdrawals   in order of their numbers, which are never used twice: the newest row always stays
events        security events that were received, by a digest of issuer and `jti`, until nobody
              could send them again
rollouts      of releases that are, or were, not given to everybody at once; a release without a
              row is everybody's
proposals     what waits, or waited, for a second person
expiries      releases whose changes are taken back at a time
delegated_keys  keys of others that may sign releases; the private halves are elsewhere
audit         everything that was done, each row with the hash of the one before it; append-only
replicas      control planes on this store that live, and what their sidecars reported
roster        the sidecars that are connected to each of them
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

metadata: Final = MetaData()

contents: Final = Table(
    "contents",
    metadata,
    Column("sha256", String(64), primary_key=True),
    Column("canonical", LargeBinary, nullable=False),
)
releases: Final = Table(
    "releases",
    metadata,
    Column("namespace", String(253), primary_key=True),
    Column("version", BigInteger, primary_key=True, autoincrement=False),
    Column("floor", BigInteger, nullable=False),
    Column("issued", BigInteger, nullable=False),
    Column("manifest", LargeBinary, nullable=False),
    Column("author", Text, nullable=False),
    Column("approver", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("parent", BigInteger, nullable=True),
    Column("restores", BigInteger, nullable=True),
    Column("asked", Float, nullable=False),
    Column("created", Float, nullable=False),
    Column("settled", Float, nullable=True),
)
entries: Final = Table(
    "entries",
    metadata,
    Column("namespace", String(253), primary_key=True),
    Column("version", BigInteger, primary_key=True, autoincrement=False),
    Column("kind", String(64), primary_key=True),
    Column("name", String(253), primary_key=True),
    Column("sha256", String(64), ForeignKey("contents.sha256"), nullable=False),
    ForeignKeyConstraint(["namespace", "version"], ["releases.namespace", "releases.version"]),
)
signatures: Final = Table(
    "signatures",
    metadata,
    Column("namespace", String(253), primary_key=True),
    Column("version", BigInteger, primary_key=True, autoincrement=False),
    Column("place", Integer, primary_key=True, autoincrement=False),
    Column("public_key", LargeBinary, nullable=False),
    Column("signature", LargeBinary, nullable=False),
    ForeignKeyConstraint(["namespace", "version"], ["releases.namespace", "releases.version"]),
)
signing_keys: Final = Table(
    "signing_keys",
    metadata,
    Column("place", Integer, primary_key=True, autoincrement=False),
    Column("public_key", LargeBinary, nullable=False, unique=True),
    Column("private_key", LargeBinary, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("endorsed_by", LargeBinary, nullable=True),
    Column("endorsement", LargeBinary, nullable=True),
)
withdrawals: Final = Table(
    "withdrawals",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("kind", String(16), nullable=False),
    Column("issuer", Text, nullable=False),
    Column("value", Text, nullable=False),
    Column("before_ms", BigInteger, nullable=True),
    Column("expires", BigInteger, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("source", Text, nullable=False),
    Column("reason", Text, nullable=False),
)
events: Final = Table(
    "events",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("expires", BigInteger, nullable=False),
)
rollouts: Final = Table(
    "rollouts",
    metadata,
    Column("namespace", String(253), primary_key=True),
    Column("version", BigInteger, primary_key=True, autoincrement=False),
    Column("stable", BigInteger, nullable=False),
    Column("state", String(16), nullable=False),
    Column("stage", Integer, nullable=False),
    Column("cutoff", Float, nullable=False),
    Column("plan", Text, nullable=False),
    Column("author", Text, nullable=False),
    Column("started", Float, nullable=False),
    Column("stage_since", Float, nullable=False),
    Column("ended", Float, nullable=True),
    Column("settled", Float, nullable=True),
    Column("reason", Text, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("baseline", Text, nullable=False, server_default=""),
    ForeignKeyConstraint(["namespace", "version"], ["releases.namespace", "releases.version"]),
    Index("rollouts_state", "state"),
)
proposals: Final = Table(
    "proposals",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("author", Text, nullable=False),
    Column("created", Float, nullable=False),
    Column("message", Text, nullable=False),
    Column("namespaces", Text, nullable=False),
    Column("application", LargeBinary, nullable=False),
    Column("summary", Text, nullable=False),
    Column("state", String(16), nullable=False),
    Column("reviewer", Text, nullable=False),
    Column("reviewed", Float, nullable=True),
    Column("reason", Text, nullable=False),
    Index("proposals_state", "state"),
)
expiries: Final = Table(
    "expiries",
    metadata,
    Column("namespace", String(253), primary_key=True),
    Column("version", BigInteger, primary_key=True, autoincrement=False),
    Column("at", Float, nullable=False),
    Column("done", Boolean, nullable=False),
    Column("outcome", Text, nullable=False),
    ForeignKeyConstraint(["namespace", "version"], ["releases.namespace", "releases.version"]),
)
delegated_keys: Final = Table(
    "delegated_keys",
    metadata,
    Column("public_key", LargeBinary, primary_key=True),
    Column("name", String(253), nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("endorsed_by", LargeBinary, nullable=False),
    Column("endorsement", LargeBinary, nullable=False),
)
audit: Final = Table(
    "audit",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("content", LargeBinary, nullable=False),
    Column("hash", LargeBinary, nullable=False),
)
replicas: Final = Table(
    "replicas",
    metadata,
    Column("replica", String(64), primary_key=True),
    Column("beat", BigInteger, nullable=False),
    Column("tallies", Text, nullable=False),
)
roster: Final = Table(
    "roster",
    metadata,
    Column("replica", String(64), primary_key=True),
    Column("sidecar_id", String(253), primary_key=True),
    Column("namespace", String(253), nullable=False),
    Column("seen", Text, nullable=False),
)
