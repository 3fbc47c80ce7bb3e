"""The documentation agrees with the code."""

import json
import re
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]
from tests.support import reference

from tminus.api.errors import status_of
from tminus.cli import catalogue, connection
from tminus.domain.diagram import mermaid
from tminus.domain.errors import RequestError
from tminus.domain.events import CATALOGUE
from tminus.domain.lifecycle import TABLE
from tminus.domain.types import EventType, Role
from tminus.logs.catalogue import LOG_LINES
from tminus.logs.event_fields import EVENT_FIELDS
from tminus.logs.fields import FIELDS, HEAD, Kind
from tminus.rooms import asyncapi, protocol

ROOT = Path(__file__).parents[3]

PAGES = ["README.md", *sorted(str(page.relative_to(ROOT)) for page in ROOT.glob("docs/*.md"))]


def page(name: str) -> str:
    return (ROOT / name).read_text()


def rows(text: str) -> list[tuple[str, ...]]:
    """Return the cells of every table row; the first cell without its backquotes."""
    lines = (line for line in text.splitlines() if line.startswith("|") and not line.startswith("|--"))
    cells = ([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines)
    return [(first.strip("`"), *others) for first, *others in cells]


def test_the_description_of_rooms_equals_the_declared_messages() -> None:
    assert page("docs/asyncapi.json") == reference.rooms(), "run `make docs`"


def test_the_page_of_rooms_lists_every_message_and_every_close_code() -> None:
    listed = {first for first, *_ in rows(page("docs/rooms.md"))}
    messages = {asyncapi.name(one) for one in (*protocol.CLIENT_MESSAGES, *protocol.SERVER_MESSAGES)}
    assert messages <= listed, "docs/rooms.md: the tables of messages"
    codes = {code for cell in listed for code in re.findall(r"\d{4}", cell)}
    assert {str(code) for code in protocol.CLOSE_CODES} <= codes, "docs/rooms.md: the table of codes"


def test_the_answers_for_a_service_desk_name_lines_fields_and_refcodes_that_exist() -> None:
    section = page("docs/pages.md").partition("## Answers for a service desk")[2].partition("\n## ")[0]
    table = [cells for cells in rows(section) if cells[0].startswith('"')]
    lines = {name for _, names, _ in table for name in re.findall(r"`([^`]+)`", names)}
    assert lines <= {*LOG_LINES, *EventType}
    meanings = " ".join(meaning for _, _, meaning in table)
    assert set(re.findall(r"\b1\d{5}\b", meanings)) <= {str(one.refcode) for one in RequestError.__subclasses__()}
    sentences = " ".join(sentence for entry in CATALOGUE.values() for sentence in entry.sentences.values())
    for words in re.findall(r"(?<!\*)\*([^*]+)\*", meanings):
        assert words in sentences, words


def test_the_diagram_in_the_readme_equals_that_of_the_state_machine() -> None:
    assert f"```mermaid\n{mermaid()}\n```" in page("README.md")


def test_the_diagram_has_every_transition_and_no_other() -> None:
    edges = re.findall(r"^    (\[\*\]|\w+) --> (\w+): (.+)$", mermaid(), re.MULTILINE)

    drawn = {(source, dest, trigger) for source, dest, triggers in edges for trigger in triggers.split(" | ")}
    assert drawn == {(row.source or "[*]", row.dest, row.trigger) for row in TABLE}


def test_every_refcode_is_in_the_api_page_with_its_status_and_meaning() -> None:
    documented = [row for row in rows(page("docs/api.md")) if re.fullmatch(r"\d{6}", row[0])]

    causes = [cause for cause in RequestError.__subclasses__() if cause.__module__ == RequestError.__module__]
    assert documented == sorted((str(cause.refcode), str(status_of(cause)), cause.__doc__ or "") for cause in causes)


def test_every_role_is_in_the_api_page() -> None:
    assert {role.value for role in Role} <= {row[0] for row in rows(page("docs/api.md"))}


def test_the_tables_of_the_events_page_are_the_catalogue() -> None:
    text = page("docs/events.md")

    assert reference.written(text) == text, "run `make docs`"


def test_the_mapping_for_elasticsearch_has_every_field_of_the_log_and_no_other() -> None:
    assert reference.mapping() == reference.MAPPING.read_text(), "run `make docs`"
    assert set(json.loads(reference.mapping())["template"]["mappings"]["properties"]) == set(FIELDS)


def test_the_fields_to_search_sessions_by_are_metadata_for_loki() -> None:
    [scraped] = yaml.safe_load(page("config/promtail/tminus.yml"))["scrape_configs"]
    stages = {name: stage for one in scraped["pipeline_stages"] for name, stage in one.items()}
    labels, metadata = set(stages["labels"]), set(stages["structured_metadata"])
    found = set(stages["json"]["expressions"])
    assert found == labels | metadata | {"ts"}
    assert labels == {"level", "event"}, "Loki keeps a stream for each combination of label values"
    assert found <= set(FIELDS)
    keywords = {name for name in (*HEAD, *EVENT_FIELDS) if FIELDS[name].kind is Kind.KEYWORD}
    assert keywords <= found
    assert stages["timestamp"] == {"source": "ts", "format": "RFC3339Nano"}


def test_every_command_is_in_the_page_and_the_page_names_no_other() -> None:
    commands = set(catalogue.COMMANDS)
    for name, group in catalogue.GROUPS.items():
        commands |= {f"{name} {command}" for command in group.commands}

    assert {row[0] for row in rows(page("docs/cli.md").partition("\n## ")[0])} == commands | {"command"}


def test_every_exit_code_is_in_the_page() -> None:
    documented = {row[0] for row in rows(page("docs/cli.md")) if row[0].isdigit()}

    assert documented == {*(str(code) for code in connection.EXIT_CODES), "130"}


@pytest.mark.parametrize("name", PAGES)
def test_every_link_of_a_page_has_a_target(name: str) -> None:
    links = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page(name))

    missing = [link for link in links if "://" not in link and not (ROOT / name).parent.joinpath(link).exists()]
    assert not missing


def anchors(name: str) -> set[str]:
    """Return the anchors of a page: its headings, in the form that GitHub uses."""
    prose = re.sub(r"^```.*?^```", "", page(name), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", PAGES)
def test_every_link_to_a_heading_has_a_target(name: str) -> None:
    links = re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page(name))

    missing = [
        (file, anchor)
        for file, anchor in links
        if anchor
        not in anchors(str((ROOT / name).parent.joinpath(file or Path(name).name).resolve().relative_to(ROOT)))
    ]
    assert not missing


def test_every_fault_of_the_page_names_an_existing_test() -> None:
    named = [row[2].strip("`") for row in rows(page("docs/faults.md")) if "::" in row[2]]

    assert len(named) > 20
    for one in named:
        file, _, name = one.partition("::")
        assert re.search(rf"^def {name}\(", page(file), re.MULTILINE), one


def test_the_readme_is_short_and_shows_the_command() -> None:
    text = page("README.md")

    assert len(text.splitlines()) <= 150
    assert "](docs/watch.svg)" in text
    assert "Open: 2" in page("docs/watch.svg").replace("&#160;", " "), "run `make picture`"
    assert "http" not in page("docs/watch.svg").replace("http://www.w3.org/2000/svg", ""), "it loads no other file"


def test_the_readme_shows_three_pictures_of_the_page_for_people_who_were_invited() -> None:
    shown = re.findall(r"!\[[^\]]+\]\((docs/[\w-]+\.png)\)", page("README.md"))

    assert shown == sorted(shown, key=["docs/page-early.png", "docs/page-door.png", "docs/page-in.png"].index)
    assert {ROOT / name for name in shown} == set(ROOT.glob("docs/*.png")), "run `make picture`"
    for name in shown:
        content = (ROOT / name).read_bytes()
        assert content.startswith(b"\x89PNG")
        assert len(content) <= 60_000, f"{name} has {len(content)} bytes"


@pytest.mark.parametrize("name", [name for name in PAGES if name != "README.md"])
def test_every_page_begins_with_its_readers_and_what_they_can_do_after_it(name: str) -> None:
    title, first, _ = page(name).split("\n\n", maxsplit=2)

    assert re.fullmatch("# .+", title)
    assert re.match(r"This page is for .+?\. After reading it you (can|know) ", first.replace("\n", " "))


def test_every_module_and_package_of_the_design_page_exists() -> None:
    named = re.findall(r"`([\w/]+(?:\.py|/))`", page("docs/design.md"))

    files = [f"/{path.relative_to(ROOT)}" for path in (*ROOT.glob("daemon/**/*.py"), *ROOT.glob("tests/**/*.py"))]
    missing = [name for name in named if not any(f"/{name}" in file for file in files)]
    assert (missing, len(named) > 40) == ([], True)


def test_the_readme_links_to_every_page() -> None:
    linked = set(re.findall(r"\]\((docs/\w+\.md)\)", page("README.md")))

    assert linked == {str(path.relative_to(ROOT)) for path in ROOT.glob("docs/*.md")}
