"""The schema of the warehouse: which version a file is at, and how it is brought to this code's.

Here: the numbered migrations, views and comments over an open connection. Not here: locks, copies and connections
(warehouse.py), what tables mean (dictionary.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from postval_assets.core.failures import Rejected
from postval_assets.io.dictionary import TABLES, VIEWS, comments_on
from postval_assets.io.warehouse_file import Connection, schema_version, table_names, transaction

MIGRATIONS = Path(__file__).parent / "migrations"
VIEWS_SQL = Path(__file__).parent / "views.sql"


class Schema:
    """This code's schema, as numbered migrations and the views on top of them."""

    def __init__(self, migrations: Path = MIGRATIONS) -> None:
        """Take the directory of the migrations: ``NNNN_name.sql``."""
        self._files = {int(file.name[:4]): file for file in sorted(migrations.glob("[0-9]*.sql"))}

    @property
    def version(self) -> int:
        """The newest migration."""
        return max(self._files)

    def pending(self, version: int) -> list[int]:
        """The migrations that a file of that version has not been through."""
        return [number for number in sorted(self._files) if number > version]

    def is_current(self, connection: Connection, path: Path, way_back: Callable[[], str]) -> bool:
        """Whether an open file is at this code's version; false where it is older.

        Args:
            connection: to the file.
            path: of the file, for messages.
            way_back: says what to do about a file that cannot be used.

        Raises:
            Rejected: it is newer than this code, or a database of something else.
        """
        version = schema_version(connection)
        if version > self.version:
            raise Rejected(
                f"{path} has schema version {version}, this code knows versions up to {self.version}: install a "
                f"newer postval; or {way_back()}"
            )
        if version == 0 and (strange := table_names(connection)):
            raise Rejected(
                f"{path} is a database of something else (it has the tables {', '.join(strange[:5])}): move it "
                f"away; {way_back()}"
            )
        return version == self.version

    def bring_up(self, connection: Connection, pending: Sequence[int], now: datetime) -> None:
        """Runs these migrations, each in a transaction of its own, then makes views and comments anew.

        These come with the last of the migrations: a file at this code's version always has its views.
        """
        for number in pending[:-1]:
            with transaction(connection):
                self._migrate(connection, number, now)
        with transaction(connection):
            for number in pending[-1:]:
                self._migrate(connection, number, now)
            connection.execute(VIEWS_SQL.read_text(encoding="utf-8"))
            for name in (*TABLES, *VIEWS):
                columns = [row[0] for row in connection.execute(f'DESCRIBE "{name}"').fetchall()]
                connection.execute(comments_on(name, columns))
            # the replica lacks this until it is published again
            connection.execute("UPDATE revision SET revision = revision + 1")

    def _migrate(self, connection: Connection, number: int, now: datetime) -> None:
        file = self._files[number]
        connection.execute(file.read_text(encoding="utf-8"))
        connection.execute(
            "INSERT INTO schema_versions (version, name, created_at) VALUES (?, ?, ?)",
            [number, file.stem, now],
        )
        if number == 1:
            connection.execute("INSERT INTO revision VALUES (0, 'migration', ?)", [now])
