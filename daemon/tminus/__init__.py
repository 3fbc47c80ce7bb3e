"""tminus keeps the life of remote-support and meeting sessions.

docs/design.md names its packages, and says why it is built so.
"""

TYPE_CHECKING = False  # without loading `typing`: until a command runs, Ctrl-C ends in a traceback

if TYPE_CHECKING:
    __version__: str
else:

    def __getattr__(name: str) -> str:
        """The version, read when it is asked for: every command loads this package, and few name the version."""
        if name != "__version__":
            raise AttributeError(name)
        from importlib.metadata import version  # noqa: PLC0415

        globals()[name] = found = version("tminus")
        return found
