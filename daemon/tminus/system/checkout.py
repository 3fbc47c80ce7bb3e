"""Find the configuration file of a checkout.

The command in a checkout's `.venv`, run in the checkout, reads the same file as `make run`.
"""

from pathlib import Path

_ROOT = Path(__file__).parents[3]
"""The root of the checkout. In an installed tminus: a directory of Python, which has no `pyproject.toml`."""


def configuration_file() -> Path | None:
    """Return `config/tminus.toml` of the checkout that this code runs from, if that is the working directory.

    This is safe: whoever can write that file can also change the code that is running.
    """
    try:
        is_here = Path().samefile(_ROOT) and (_ROOT / "pyproject.toml").is_file()
    except OSError:
        return None  # the working directory was removed, or this user may not read it
    path = _ROOT / "config" / "tminus.toml"
    return path if is_here and path.is_file() else None
