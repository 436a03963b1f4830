"""Where everything is kept. Standard library only: the front needs it, and every client pays for that."""

from __future__ import annotations

import os

from tracebank.errors import SettingsError

DATA_DIR_VARIABLE = "TRACEBANK_DATA_DIR"
# In the data directory: its settings.
CONFIG_NAME = "tracebank.toml"


def default_data_dir() -> str:
    """Return the data directory from the environment, else the platform's place for a user's data. Raises: SettingsError."""
    if named := os.environ.get(DATA_DIR_VARIABLE):
        return data_dir_at(named)
    from platformdirs import user_data_path  # only where it is needed

    return str(user_data_path("tracebank", appauthor=False))


def data_dir_at(path: str) -> str:
    """Return the directory that is meant, whose beginning, ~ or ~user, may stand for a home. Raises: SettingsError."""
    if (meant := os.path.expanduser(path)).startswith("~"):
        raise SettingsError(f"setting data_dir: begins with the home directory of a user who is not known: {path}")
    return os.path.abspath(meant)
