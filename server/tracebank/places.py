"""Where everything is kept. Standard library only: the front needs it, and every client pays for that."""

from __future__ import annotations

import os

DATA_DIR_VARIABLE = "TRACEBANK_DATA_DIR"
# In the data directory: its settings.
CONFIG_NAME = "tracebank.toml"


def default_data_dir() -> str:
    """Return the data directory from the environment, else the platform's place for a user's data."""
    if named := os.environ.get(DATA_DIR_VARIABLE):
        return os.path.abspath(os.path.expanduser(named))
    from platformdirs import user_data_path  # only where it is needed

    return str(user_data_path("tracebank", appauthor=False))
