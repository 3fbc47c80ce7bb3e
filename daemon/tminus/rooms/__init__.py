"""The daemon's own rooms: people connect by WebSocket, join, knock, are admitted, and leave.

=============  =============================================================================
`hub`          all rooms of this daemon; the task that reads events for them; leases
`visitor`      one connection: its states and its messages
`commands`     jobs for the store's writer: what people do, as commands of `sessions`
`protocol`     the messages, declared once
`asyncapi`     the description of the protocol, made from the declarations
=============  =============================================================================

Everything that happens in a room is a command of `sessions`, and what people receive comes from the event table. So
people on several daemons are in one room, and whatever closes a session disconnects everybody.
"""

from tminus.rooms.hub import Hub
from tminus.rooms.visitor import Visitor

__all__ = ["Hub", "Visitor"]
