"""tminus keeps the life of remote-support and meeting sessions.

Rooms, top to bottom; imports point only down (`make imports` checks it):

===========================  ==================================================================
`cli`, `client`              the command; the Python client
`app`                        the composition root: the only place that builds and wires anything
`server`, `clockwork`        uvicorn, as the daemon runs it; what time does
`api`, `timers`,             HTTP at the rim; APScheduler, no logic; committed events to log lines
`announcer`
`sessions`, `metrics`        the verbs, and `advance`: what the clock does; what Prometheus is told
`storage`, `config`, `logs`  the database; the settings; the log
`policy`, `events`, `draws`  effective settings and deadlines; the event catalogue; drawn by lot
`lifecycle`                  pure: the transition table and the one machine built from it
`model`, `wire`, `errors`    what is kept; the shapes of answers; the error tree
`vocabulary`, `instants`,    the words of the field; how an instant is written; the only reader of the
`clock`                      wall clock
===========================  ==================================================================
"""

from importlib.metadata import version

__version__ = version("tminus")
