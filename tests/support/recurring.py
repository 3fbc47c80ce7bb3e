"""Print which occurrences `recurring_ical_events` finds in calendars.

A script that runs in an environment of its own, because this library needs an older python-dateutil than tminus. Each
line of its input is JSON, `{"calendar": …, "since": …, "until": …}`, and so is each of its output: a list of instants.
"""

import json
import sys
from datetime import UTC, datetime


def main() -> None:
    import icalendar
    import recurring_ical_events  # type: ignore[import-not-found]

    for line in sys.stdin:
        query = json.loads(line)
        calendar = icalendar.Calendar.from_ical(query["calendar"])
        since, until = datetime.fromisoformat(query["since"]), datetime.fromisoformat(query["until"])
        found = {
            event["DTSTART"].dt.astimezone(UTC).isoformat()
            for event in recurring_ical_events.of(calendar).between(since, until)
        }
        print(json.dumps(sorted(found)), flush=True)


if __name__ == "__main__":
    main()
