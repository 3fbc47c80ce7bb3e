"""tminus keeps the life of remote-support and meeting sessions.

docs/design.md has its rooms, and why it is so.
"""

from importlib.metadata import version

__version__ = version("tminus")
