"""A data directory made ready: folders, Dagster's instance, and the file that a plain ``dagster dev`` reads.

Here: what must be there before anything runs. Not here: starting anything.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import dagster as dg

from postval_assets.core.failures import Unavailable
from postval_assets.settings import Settings, environment, export_environment

_MADE_BY = "# Written by postval, so that a plain `dagster dev` in this folder keeps its history.\n"


def prepare_home(settings: Settings) -> None:
    """Make the data directory's folders and Dagster's instance file; what is there stays.

    Raises:
        Unavailable: where the data directory cannot be written.
    """
    home = settings.data_dir / "dagster"
    try:
        for folder in (settings.inbox, home, settings.data_dir / "logs"):
            folder.mkdir(parents=True, exist_ok=True)
        config = home / "dagster.yaml"
        if not config.exists():
            template = files("postval_assets.defs").joinpath("dagster.yaml").read_text(encoding="utf-8")
            config.write_text(template, encoding="utf-8")
    except OSError as error:
        raise Unavailable(
            f"data directory {settings.data_dir} cannot be written: {error}; "
            "give another with --data-dir or POSTVAL_DATA_DIR"
        ) from error


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
    path.write_text(_MADE_BY + "".join(lines), encoding="utf-8")
    return path
