"""Customers and all that is kept of them.

Revision ID: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "subjects",
        sa.Column("customer", sa.String(64), primary_key=True),
        sa.Column("pool", sa.String(320), nullable=False),
        sa.Column("survivor", sa.String(64), nullable=False),
        sa.Column("merged_into", sa.String(64), nullable=True),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("changed", sa.BigInteger, nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("seen", sa.Float, nullable=False),
        sa.Column("anonymous", sa.Boolean, nullable=False),
        sa.Column("segments", sa.Text, nullable=False),
        sa.Column("risk_points", sa.Float, nullable=False),
        sa.Column("risk_at", sa.Float, nullable=False),
        sa.Column("risk_half_life", sa.Float, nullable=False),
    )
    op.create_index("ix_subjects_survivor", "subjects", ["survivor"])
    op.create_index("ix_subjects_changed", "subjects", ["changed"])
    op.create_index("ix_subjects_seen", "subjects", ["seen"])
    op.create_table(
        "subject_identifiers",
        sa.Column("key", sa.LargeBinary, primary_key=True),
        sa.Column("customer", sa.String(64), nullable=False),
        sa.Column("holder", sa.String(64), nullable=False),
        sa.Column("sole", sa.LargeBinary, nullable=True),
        sa.Column("type", sa.String(64), nullable=False),
        sa.Column("issuer", sa.Text, nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.UniqueConstraint("holder", "sole", name="one_subject_of_an_issuer"),
    )
    op.create_index("ix_subject_identifiers_customer", "subject_identifiers", ["customer"])
    op.create_index("ix_subject_identifiers_holder", "subject_identifiers", ["holder"])
    op.create_table(
        "subject_remembered",
        sa.Column("customer", sa.String(64), primary_key=True),
        sa.Column("key", sa.LargeBinary, primary_key=True),
        sa.Column("type", sa.String(64), nullable=False),
        sa.Column("issuer", sa.Text, nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
    )
    op.create_table(
        "subject_apart",
        sa.Column("customer", sa.String(64), primary_key=True),
        sa.Column("key", sa.LargeBinary, primary_key=True),
        sa.Column("other", sa.String(64), primary_key=True),
    )
    op.create_index("subject_apart_key", "subject_apart", ["key"])
    op.create_index("subject_apart_other", "subject_apart", ["other"])
    op.create_table(
        "subject_attributes",
        sa.Column("customer", sa.String(64), primary_key=True),
        sa.Column("name", sa.String(320), primary_key=True),
        sa.Column("value", sa.Text, nullable=True),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("at", sa.Float, nullable=True),
        sa.Column("expires", sa.Float, nullable=True),
        sa.Column("declined", sa.Float, nullable=True),
        sa.Column("asked", sa.Float, nullable=True),
    )
    op.create_index("ix_subject_attributes_expires", "subject_attributes", ["expires"])
    op.create_table(
        "subject_consents",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("customer", sa.String(64), nullable=False),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("purpose", sa.String(320), nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("binding", sa.String(128), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("latest", sa.Boolean, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("language", sa.String(64), nullable=False),
        sa.Column("expires", sa.Float, nullable=True),
        sa.Column("max_uses", sa.BigInteger, nullable=True),
        sa.Column("used", sa.BigInteger, nullable=False),
        sa.Column("via", sa.Text, nullable=False),
        sa.Column("by", sa.Text, nullable=False),
    )
    op.create_index(
        "subject_consents_latest", "subject_consents", ["customer", "latest", "purpose", "binding"]
    )
    op.create_table(
        "subject_uses",
        sa.Column("consent", sa.String(64), primary_key=True),
        sa.Column("use", sa.LargeBinary, primary_key=True),
        sa.Column("customer", sa.String(64), nullable=False),
        sa.Column("at", sa.Float, nullable=False),
    )
    op.create_index("ix_subject_uses_customer", "subject_uses", ["customer"])
    op.create_index("ix_subject_uses_at", "subject_uses", ["at"])
    op.create_table(
        "subject_receipts",
        sa.Column("customer", sa.String(64), primary_key=True),
        sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("consent", sa.String(64), nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("jws", sa.Text, nullable=False),
    )
    op.create_table(
        "subject_links",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("customer", sa.String(64), nullable=False),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("key", sa.LargeBinary, nullable=True),
        sa.Column("type", sa.String(64), nullable=False),
        sa.Column("issuer", sa.Text, nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sa.Column("other", sa.String(64), nullable=True),
        sa.Column("why", sa.Text, nullable=False),
        sa.Column("by", sa.Text, nullable=False),
        sa.Column("undone", sa.Boolean, nullable=False),
        sa.Column("moved", sa.Text, nullable=False),
    )
    op.create_index("ix_subject_links_customer", "subject_links", ["customer"])
    op.create_index("ix_subject_links_key", "subject_links", ["key"])
    op.create_index("ix_subject_links_other", "subject_links", ["other"])
    op.create_table(
        "subject_reads",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("customer", sa.String(64), nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("reader", sa.Text, nullable=False),
        sa.Column("why", sa.Text, nullable=False),
        sa.Column("count", sa.Integer, nullable=False),
    )
    op.create_index("ix_subject_reads_customer", "subject_reads", ["customer"])
    op.create_index("ix_subject_reads_at", "subject_reads", ["at"])
    op.create_table(
        "subject_outbox",
        sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("customer", sa.String(64), nullable=False),
        sa.Column("type", sa.String(128), nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("data", sa.Text, nullable=False),
    )
    op.create_index("ix_subject_outbox_customer", "subject_outbox", ["customer"])
    op.create_table(
        "subject_counters",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("value", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "subject_tickets",
        sa.Column("jti", sa.LargeBinary, primary_key=True),
        sa.Column("expires", sa.Float, nullable=False),
    )
    op.create_index("ix_subject_tickets_expires", "subject_tickets", ["expires"])
    op.create_table(
        "subject_challenges",
        sa.Column("ticket", sa.LargeBinary, primary_key=True),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("customer", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(64), nullable=False),
        sa.Column("expires", sa.Float, nullable=False),
    )
    op.create_index("ix_subject_challenges_customer", "subject_challenges", ["customer"])
    op.create_index("ix_subject_challenges_expires", "subject_challenges", ["expires"])
    op.create_table(
        "subject_secrets",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("secret", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "subject_tombstones",
        sa.Column("digest", sa.LargeBinary, primary_key=True),
        sa.Column("changed", sa.BigInteger, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("customer", sa.String(64), nullable=True),
        sa.Column("certificate", sa.Text, nullable=False),
    )
    op.create_index("ix_subject_tombstones_changed", "subject_tombstones", ["changed"])
    op.execute("INSERT INTO subject_counters (name, value) VALUES ('changes', 0), ('delivered', 0)")


def downgrade() -> None:
    raise NotImplementedError("customers are not forgotten by a change of versions")
