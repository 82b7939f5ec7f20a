"""What the warehouse notes of its replicas: which of them hold the present state.

Here: the table ``publication``, over an open connection. Not here: the replica's file (replica.py), and when one is
made (warehouse.py).
"""

from __future__ import annotations

from datetime import UTC, datetime

from postval_assets.io.warehouse_file import Connection


def current_replicas(connection: Connection) -> dict[str, datetime]:
    """When each replica that holds the present state was made."""
    rows = connection.execute(
        "SELECT p.replica, p.published_at FROM publication AS p JOIN revision AS r ON r.revision = p.revision"
    ).fetchall()
    return {replica: published_at.astimezone(UTC) for replica, published_at in rows}


def note_publication(connection: Connection, label: str, published_at: datetime) -> None:
    """Says that a replica holds the present state."""
    connection.execute("DELETE FROM publication WHERE replica = ?", [label])
    connection.execute(
        "INSERT INTO publication (replica, revision, published_at, created_at) "
        "SELECT ?, revision, ?, ? FROM revision",
        [label, published_at, published_at],
    )


def forget_publications(connection: Connection) -> None:
    """Every replica counts as stale from now on."""
    connection.execute("DELETE FROM publication")
