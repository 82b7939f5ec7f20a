"""``python -m postval_assets``: the ``postval`` command where its script is not on the path."""

from __future__ import annotations

from postval_assets.cli import main

if __name__ == "__main__":
    main(prog_name="python -m postval_assets")
