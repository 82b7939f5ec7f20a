"""A data directory made ready: folders, Dagster's instance, and the file that a plain ``dagster dev`` reads.

Here: what must be there before anything runs. Not here: starting anything.
"""

from __future__ import annotations

import tempfile
from importlib.resources import files
from pathlib import Path

import dagster as dg

from postval_assets.core.failures import Unavailable
from postval_assets.io.disk_full import is_disk_full, unavailable
from postval_assets.io.durable import write_durably
from postval_assets.settings import Settings, environment, export_environment

_MADE_BY = "# Written by postval, so that a plain `dagster dev` in this folder keeps its history.\n"


def prepare_home(settings: Settings) -> None:
    """Make the data directory's folders and Dagster's instance file; what is there stays.

    Raises:
        Unavailable: where the data directory cannot be written.
    """
    home = settings.data_dir / "dagster"
    if settings.data_dir.is_dir() and (problem := writing_problem(settings.data_dir)) is not None:
        raise Unavailable(
            f"data directory {settings.data_dir} cannot be written: {problem}; make it writable for this user, or "
            "give another with --data-dir or POSTVAL_DATA_DIR"
        )
    try:
        for folder in (settings.inbox, home, settings.data_dir / "logs"):
            folder.mkdir(parents=True, exist_ok=True)
        config = home / "dagster.yaml"
        if not config.exists():
            # Whole or not at all: half of it would count as somebody's own, and be kept for ever.
            write_durably(config, files("postval_assets.defs").joinpath("dagster.yaml").read_bytes())
    except OSError as error:
        if is_disk_full(error):
            raise unavailable(
                "the data directory could not be made ready:", settings.data_dir, error
            ) from error
        raise Unavailable(
            f"data directory {settings.data_dir} cannot be written: {error}; "
            "give another with --data-dir or POSTVAL_DATA_DIR"
        ) from error


def writing_problem(folder: Path) -> str | None:
    """Why nothing can be written into a folder; None where something can."""
    try:
        with tempfile.TemporaryFile(dir=folder):  # it never gets a name where the system can do without
            return None
    except OSError as error:
        return error.strerror or str(error)


def open_instance(settings: Settings) -> dg.DagsterInstance:
    """Dagster's instance of this data directory, for this process."""
    prepare_home(settings)
    export_environment(settings)
    return dg.DagsterInstance.get()


def write_dotenv(settings: Settings, folder: Path) -> Path | None:
    """Tell a plain ``dagster dev`` in ``folder`` where this data directory is; a file of somebody else's stays."""
    if not (folder / "workspace.yaml").is_file():
        return None
    path = folder / ".env"
    if path.exists() and not path.read_text(encoding="utf-8").startswith(_MADE_BY):
        return None
    # Where, not how: bars and plans stay the business of postval.toml and the environment.
    where = {k: v for k, v in environment(settings).items() if k in ("DAGSTER_HOME", "POSTVAL_DATA_DIR")}
    lines = [f"{name}={value}\n" for name, value in where.items()]
    write_durably(path, (_MADE_BY + "".join(lines)).encode())
    return path
