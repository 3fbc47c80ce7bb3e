"""tminus manages the life cycle of remote-support and meeting sessions.

docs/design.md describes its packages and the reasons for its design.
"""

TYPE_CHECKING = (
    False  # not imported from `typing`: Ctrl-C while modules load prints a traceback, so loading is kept short
)

if TYPE_CHECKING:
    __version__: str
else:

    def __getattr__(name: str) -> str:
        """Return the version. It is read on demand, since all commands load this package and few need the version."""
        if name != "__version__":
            raise AttributeError(name)
        from importlib.metadata import version  # noqa: PLC0415

        globals()[name] = found = version("tminus")
        return found
