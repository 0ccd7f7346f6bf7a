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
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
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
