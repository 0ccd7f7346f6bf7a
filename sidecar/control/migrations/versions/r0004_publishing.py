"""Who published what and why, how it spreads, what waits for a second person, and the audit trail.

Releases, their contents and the audit trail can be added to and nothing else, whoever tries: the
database itself refuses to change them.

Revision ID: 0004
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

APPEND_ONLY = ("audit", "contents", "entries")
KEYS = {
    "audit": "number = NEW.number",
    "contents": "sha256 = NEW.sha256",
    "entries": "namespace = NEW.namespace AND version = NEW.version AND kind = NEW.kind "
    "AND name = NEW.name",
    "releases": "namespace = NEW.namespace AND version = NEW.version",
}


def upgrade() -> None:
    for column in (
        sa.Column("author", sa.Text, nullable=False, server_default=""),
        sa.Column("approver", sa.Text, nullable=False, server_default=""),
        sa.Column("message", sa.Text, nullable=False, server_default=""),
        sa.Column("parent", sa.BigInteger, nullable=True),
        sa.Column("restores", sa.BigInteger, nullable=True),
        sa.Column("asked", sa.Float, nullable=False, server_default="0"),
        sa.Column("created", sa.Float, nullable=False, server_default="0"),
        sa.Column("settled", sa.Float, nullable=True),
    ):
        op.add_column("releases", column)
    # Until now each release changed the one before it.
    op.execute("UPDATE releases SET asked = issued, created = issued")
    op.execute(
        "UPDATE releases SET parent = version - 1 "
        "WHERE version > 1 OR (namespace = 'platform' AND version > 0)"
    )
    op.create_table(
        "rollouts",
        sa.Column("namespace", sa.String(253), primary_key=True),
        sa.Column("version", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("stable", sa.BigInteger, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("stage", sa.Integer, nullable=False),
        sa.Column("cutoff", sa.Float, nullable=False),
        sa.Column("plan", sa.Text, nullable=False),
        sa.Column("author", sa.Text, nullable=False),
        sa.Column("started", sa.Float, nullable=False),
        sa.Column("stage_since", sa.Float, nullable=False),
        sa.Column("ended", sa.Float, nullable=True),
        sa.Column("settled", sa.Float, nullable=True),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.ForeignKeyConstraint(
            ["namespace", "version"], ["releases.namespace", "releases.version"]
        ),
    )
    op.create_index("rollouts_state", "rollouts", ["state"])
    op.create_table(
        "proposals",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("author", sa.Text, nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("namespaces", sa.Text, nullable=False),
        sa.Column("application", sa.LargeBinary, nullable=False),
        sa.Column("summary", sa.Text, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("reviewer", sa.Text, nullable=False),
        sa.Column("reviewed", sa.Float, nullable=True),
        sa.Column("reason", sa.Text, nullable=False),
    )
    op.create_index("proposals_state", "proposals", ["state"])
    op.create_table(
        "expiries",
        sa.Column("namespace", sa.String(253), primary_key=True),
        sa.Column("version", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("done", sa.Boolean, nullable=False),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.ForeignKeyConstraint(
            ["namespace", "version"], ["releases.namespace", "releases.version"]
        ),
    )
    op.create_table(
        "delegated_keys",
        sa.Column("public_key", sa.LargeBinary, primary_key=True),
        sa.Column("name", sa.String(253), nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("endorsed_by", sa.LargeBinary, nullable=False),
        sa.Column("endorsement", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "audit",
        sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
        sa.Column("hash", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "replicas",
        sa.Column("replica", sa.String(64), primary_key=True),
        sa.Column("beat", sa.BigInteger, nullable=False),
        sa.Column("tallies", sa.Text, nullable=False),
    )
    op.create_table(
        "roster",
        sa.Column("replica", sa.String(64), primary_key=True),
        sa.Column("sidecar_id", sa.String(253), primary_key=True),
        sa.Column("namespace", sa.String(253), nullable=False),
        sa.Column("seen", sa.Text, nullable=False),
    )
    if op.get_bind().dialect.name == "postgresql":
        _append_only_postgresql()
    else:
        _append_only_sqlite()


def _append_only_postgresql() -> None:
    op.execute(
        "CREATE FUNCTION sidecar_append_only() RETURNS trigger LANGUAGE plpgsql AS $$ "
        "BEGIN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME; END $$"
    )
    for table in APPEND_ONLY:
        op.execute(
            f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION sidecar_append_only()"
        )
    op.execute(
        "CREATE TRIGGER releases_kept BEFORE DELETE OR TRUNCATE ON releases "
        "FOR EACH STATEMENT EXECUTE FUNCTION sidecar_append_only()"
    )
    op.execute(
        "CREATE TRIGGER releases_unchanged BEFORE UPDATE OF namespace, version, floor, issued, "
        "manifest, author, approver, message, parent, restores, asked, created ON releases "
        "FOR EACH STATEMENT EXECUTE FUNCTION sidecar_append_only()"
    )


def _append_only_sqlite() -> None:
    refused = "BEGIN SELECT RAISE(ABORT, '{} is append-only'); END"
    for table in APPEND_ONLY:
        for what in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {table}_no_{what.lower()} BEFORE {what} ON {table} "
                + refused.format(table)
            )
    for table, same in KEYS.items():
        # INSERT OR REPLACE deletes without asking the triggers for it.
        there = f"SELECT 1 FROM {table} WHERE {same}"  # noqa: S608 - names of ours
        op.execute(
            f"CREATE TRIGGER {table}_no_replace BEFORE INSERT ON {table} WHEN EXISTS ({there}) "
            + refused.format(table)
        )
    op.execute(
        "CREATE TRIGGER releases_kept BEFORE DELETE ON releases " + refused.format("releases")
    )
    op.execute(
        "CREATE TRIGGER releases_unchanged BEFORE UPDATE OF namespace, version, floor, issued, "
        "manifest, author, approver, message, parent, restores, asked, created ON releases "
        + refused.format("releases")
    )


def downgrade() -> None:
    raise NotImplementedError("what is in the audit trail stays there")
