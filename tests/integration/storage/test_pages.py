"""Pages are limited in bytes and rows, and the next page continues where one ends early. On both databases."""

import orjson
import pytest
from tests.support.factories import AGENT, HOUR, MONITOR
from tests.support.worlds import World

from tminus.domain.model import Delivery
from tminus.domain.types import DeliveryKind
from tminus.sessions import queries
from tminus.storage import EventFilter, SessionFilter, outbox, view
from tminus.storage.view import ROW_BYTES, STREAMED

LARGE = {"id": "1", "notes": "ü" * 1000}
SIZE = 3 * (ROW_BYTES + 3000)
"""Size of a page that holds two or three of these sessions or events, but not four."""


def make(world: World, number: int) -> list[str]:
    return [world.create(parent_object=LARGE, external_mapping="case.1").id for _ in range(number)]


@pytest.mark.parametrize("limit", [5, STREAMED + 1])
def test_a_page_of_events_ends_at_its_size_limit_and_the_next_continues_there(world: World, limit: int) -> None:
    made, after, pages = make(world, 7), 0, []
    while (page := world.store.read(lambda view: view.page(after, limit, EventFilter(), SIZE))).events:  # noqa: B023
        pages.append([entry.event.session_id for entry in page.events])
        after = page.through
    assert [one for page in pages for one in page] == made
    assert all(2 <= len(page) <= 3 for page in pages[:-1])


def test_a_page_has_at_least_one_row_of_any_length(world: World) -> None:
    [made] = make(world, 1)
    page = world.store.read(lambda view: view.page(0, 10, EventFilter(), 1))
    assert [entry.event.session_id for entry in page.events] == [made]
    assert world.store.read(lambda view: view.sessions(SessionFilter(), 1))[0] == 1


@pytest.mark.parametrize("limit", [5, STREAMED + 1])
def test_a_page_of_a_list_ends_at_its_size_limit_and_its_count_is_of_all_sessions(world: World, limit: int) -> None:
    made = make(world, 7)
    listed: list[str] = []
    while True:
        wanted = SessionFilter(descending=False, limit=limit, offset=len(listed))
        count, rows = world.store.read(lambda view: view.sessions(wanted, SIZE))  # noqa: B023 - called at once
        assert count == 7
        assert len(rows) <= 3
        if not rows:
            break
        listed += [row.id for row in rows]
    assert sorted(listed) == sorted(made)


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("agent_id", [None, AGENT.agent_id])
def test_sessions_with_the_same_start_are_listed_in_the_order_of_their_creation(
    world: World, agent_id: int | None, descending: bool
) -> None:
    start, made = world.now + 24 * HOUR, []
    for _ in range(6):
        made.append(world.create(start_time=start).id)
        world.clock.passes(seconds=1)
    wanted = SessionFilter(agent_id, order_by="start_time", descending=descending)

    _, rows = world.store.read(lambda view: view.sessions(wanted))

    assert [row.id for row in rows] == (made[::-1] if descending else made)


@pytest.mark.parametrize(("window", "limit", "at_most"), [(3, 5, SIZE), (3, 1, SIZE), (100, 2, SIZE), (100, 50, 1)])
def test_the_pages_of_a_search_cover_all_sessions(
    world: World, monkeypatch: pytest.MonkeyPatch, window: int, limit: int, at_most: int
) -> None:
    monkeypatch.setattr(view, "WINDOW", window)
    wanted = [
        world.create(label="ÄPFEL und Birnen").id,
        world.create(label="A", external_mapping="case.äpfel1").id,
        world.create(label="A", external_mapping="case.1", parent_object={"name": 'Frische "Äpfel"'}).id,
        world.create(label="100 % Äpfel_").id,
    ]
    make(world, 7)
    world.create(label="A", external_mapping="case.1", parent_object={"name": 7, "notes": "äpfel"})
    found: list[str] = []
    offset: int | None = 0
    while offset is not None:
        one = SessionFilter(limit=limit, offset=offset)
        rows, following = world.store.read(lambda view: view.search(one, "äPFEL", at_most))  # noqa: B023
        assert len(rows) <= limit
        assert following is None or following > offset
        found += [row.id for row in rows]
        offset = following
    assert sorted(found) == sorted(wanted)
    monkeypatch.setattr(view, "WINDOW", 100)
    assert world.store.read(lambda view: view.search(SessionFilter(), "%")[0])[0].id == wanted[3]


def test_a_page_of_the_delivery_log_ends_at_its_size_limit_and_has_the_next_cursor(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "PAGE_BYTES", SIZE)
    for _ in range(7):
        attempt = Delivery(
            endpoint="crm", kind=DeliveryKind.PING, webhook_id="m", at=world.now, ok=False, ms=1, answer="\ufffd" * 700
        )
        world.run(lambda tx: outbox.add_delivery(tx, attempt))  # noqa: B023 - called at once
    found: list[int] = []
    before: int | None = None
    while True:
        rows, before = world.store.read(
            lambda view: outbox.deliveries(view, "crm", failed=True, before=before, limit=1000)  # noqa: B023
        )
        assert 1 <= len(rows) <= 4
        found += [row.id for row in rows]
        if before is None:
            break
    assert found == sorted(found, reverse=True)
    assert len(found) == 7


@pytest.mark.parametrize(
    "parent",
    [
        {"id": "1", "deep": {"ü": [1.5, None, True, {"a": []}]}, "s": 'quote " and \\ and }'},
        {"id": "1", "externalMapping": "another"},
        {"id": 'says "externalMapping" itself'},
    ],
)
def test_stored_json_is_returned_without_changes(world: World, parent: dict[str, object]) -> None:
    session = world.create(parent_object=parent, external_mapping='case."1', meta_data={"a": {"b": [1, 2.5, "ü"]}})
    assert orjson.loads(world.stored(session).parent_object or "") == parent
    assert orjson.loads(world.stored(session).meta_data or "") == {"a": {"b": [1, 2.5, "ü"]}}
    [entry] = world.store.read(lambda view: queries.feed(view, MONITOR, 0, 10, EventFilter())).events
    sent = orjson.loads(entry.json("db"))
    assert sent["crmSyncTarget"] == {**parent, "externalMapping": 'case."1'}
    assert entry.json("db").count(b'"externalMapping":') == 1, "each name occurs once"
    assert sent["createdByAgentSession"] == orjson.loads(session.created_by)
    assert sent["user"]["externalId"] == AGENT.external_id
