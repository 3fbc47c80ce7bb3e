"""The configuration of a checkout: the command of its `.venv`, run in it, reads the file that `make run` reads."""

from pathlib import Path

_ROOT = Path(__file__).parents[3]
"""The checkout, if this is one; where tminus is installed otherwise, a directory of Python's without our files."""


def configuration_file() -> Path | None:
    """Return `config/tminus.toml` of the checkout that this code is run from, if it is the working directory.

    Nobody else can put that file there: whoever writes to the checkout can change the code that is running.
    """
    try:
        is_here = Path().samefile(_ROOT) and (_ROOT / "pyproject.toml").is_file()
    except OSError:
        return None  # the working directory was removed, or may not be looked at
    path = _ROOT / "config" / "tminus.toml"
    return path if is_here and path.is_file() else None
