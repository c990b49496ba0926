"""The tables of release 0.1.0: versions, routes, an append-only audit, an outbox."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

STATUSES = "'training', 'evaluating', 'staging', 'production', 'deprecated'"
JSON = sa.JSON(none_as_null=True)
REFUSE = "BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END"
APPEND_ONLY = {  # the third one: INSERT OR REPLACE deletes without telling the DELETE trigger
    "sqlite": (
        f"CREATE TRIGGER audit_no_update BEFORE UPDATE ON audit {REFUSE}",
        f"CREATE TRIGGER audit_no_delete BEFORE DELETE ON audit {REFUSE}",
        f"CREATE TRIGGER audit_no_replace BEFORE INSERT ON audit WHEN EXISTS (SELECT 1 FROM audit WHERE id = NEW.id) {REFUSE}",
    ),
    "postgresql": (
        "CREATE OR REPLACE FUNCTION audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'the audit is append-only'; END $$",
        "CREATE TRIGGER audit_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON audit "
        "FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only()",
    ),
}


def needed(kind: sa.types.TypeEngine, *names: str) -> list[sa.Column]:
    """Columns that are never null."""
    return [sa.Column(name, kind, nullable=False) for name in names]


def optional(kind: sa.types.TypeEngine, *names: str) -> list[sa.Column]:
    """Columns that may be null."""
    return [sa.Column(name, kind) for name in names]


def upgrade() -> None:
    """Make the tables, their indexes and the triggers."""
    text, number = sa.Text(), sa.Integer()
    op.create_table(
        "versions",
        sa.Column("id", text, primary_key=True),
        *needed(text, "task", "run_id", "model_id", "base_model", "status", "trained_at", "created_at", "updated_at"),
        *optional(text, "dataset_version", "evaluated_at"),
        *needed(text, "provider", "artifact", "artifact_sha256", "evaluation_sha256", "reason"),
        *needed(JSON, "fingerprints", "metadata"),
        *optional(JSON, "eval_results"),
        sa.CheckConstraint(f"status IN ({STATUSES})", name="known_status"),
    )
    op.create_index("ix_versions_task", "versions", ["task"])
    serving = sa.text("status = 'production'")
    one = {"unique": True, "sqlite_where": serving, "postgresql_where": serving}
    op.create_index("one_production_version_per_task", "versions", ["task"], **one)
    op.create_table(
        "routes",
        sa.Column("task", text, primary_key=True),
        sa.Column("version", text, sa.ForeignKey("versions.id")),
        sa.Column("previous", text, sa.ForeignKey("versions.id")),
        *needed(number, "generation"),
        *needed(text, "since"),
    )
    op.create_table(
        "audit",
        sa.Column("id", number, primary_key=True, autoincrement=True),
        *needed(text, "at", "actor", "version", "action", "because", "task"),
        *optional(text, "from_status", "to_status"),
        *needed(JSON, "evidence"),
        *optional(number, "generation"),
    )
    op.create_index("ix_audit_task", "audit", ["task"])
    op.create_table(
        "outbox",
        sa.Column("id", number, primary_key=True, autoincrement=True),
        sa.Column("event_id", text, nullable=False, unique=True),
        *needed(JSON, "event"),
        *needed(text, "created_at"),
        *optional(text, "delivered_at"),
    )
    for statement in APPEND_ONLY[op.get_bind().dialect.name]:
        op.execute(statement)
