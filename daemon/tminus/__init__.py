"""tminus keeps the life of remote-support and meeting sessions.

Rooms, top to bottom; imports point only down (`make lint` checks it):

===========================  ==================================================================
`cli`, `client`              the command; the Python client
`app`                        the composition root: the only place that builds and wires anything
`api`, `timers`              HTTP at the rim; APScheduler, no logic
`sessions`                   the verbs, and `advance`: what the clock does
`storage`, `config`, `logs`  the database; the settings; the log
`policy`, `events`           pure: effective settings and deadlines; the event catalogue
`lifecycle`                  pure: the transition table and the one machine built from it
`model`, `errors`,           the vocabulary; the error tree; how an instant is written; the only
`instants`, `clock`          reader of the wall clock
===========================  ==================================================================
"""

from importlib.metadata import version

__version__ = version("tminus")
