"""Import all modules that the command may need, once, before processes are forked."""

import tminus.cli.database
import tminus.cli.dispatch
import tminus.cli.events
import tminus.cli.listing
import tminus.cli.operate
import tminus.cli.process
import tminus.cli.sessions
import tminus.cli.watch
import tminus.cli.webhooks
import tminus.service.main
import tminus.storage.backup
import tminus.storage.check  # noqa: F401
