"""The tables of release 0.1.0: versions, routes, an append-only audit, an outbox.

The SQL beside this file says how.
"""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables, their constraints and the audit's triggers."""
    connection = op.get_bind()
    text = (
        Path(__file__).with_name(f"0001_{connection.dialect.name}.sql").read_text(encoding="utf-8")
    )
    for statement in text.split("--\n", 1)[1].split(";\n--\n"):
        connection.exec_driver_sql(statement.strip().removesuffix(";"))
