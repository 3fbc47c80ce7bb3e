"""The error tree: one class for each cause, with a stable refcode and a description of its own."""

import re
from collections.abc import Iterator
from http import HTTPStatus

import pytest
from tests.support.clocks import NOW

from tminus.api.errors import answer, status_of
from tminus.domain import errors
from tminus.domain.errors import FieldError, RequestError, StartupError, TminusError

SAMPLES: list[tuple[TminusError, str]] = [
    (
        errors.InvalidRequest((FieldError("label", "is missing"), FieldError("type", "must be text"))),
        "Invalid request: label is missing; type must be text",
    ),
    (errors.UnknownPath(), "No such path"),
    (errors.CrossSite(), "another site"),
    (errors.MethodNotAllowed("PATCH"), "PATCH"),
    (errors.RequestTimeout(), "in time"),
    (errors.BodyTooLarge(65536), "65536 bytes"),
    (errors.UnsupportedMediaType("must be JSON"), "The body must be JSON"),
    (errors.HeadTooLarge(65536, 128), "65536 bytes, or more than 128 fields"),
    (errors.InternalError("r-9"), "r-9"),
    (errors.BadStartTime(NOW, "is in the past"), "startTime 2030-01-07T09:00:00.000Z is in the past"),
    (errors.UnknownSession("xoKwKRBrbwRF"), "Session not found xoKwKRBrbwRF"),
    (errors.WrongStatus("reschedule", "new"), "Cannot reschedule while the session's status is new"),
    (errors.StaleVersion(4), 'at version "4" now'),
    (errors.StaleSeries(4), 'at version "4" now'),
    (errors.TooManySessions(3), "3 open sessions"),
    (errors.NoPinFree(), "PIN"),
    (errors.TooManySessions(3, wanted=4), "4 sessions, and one agent may have at most 3 open (limits."),
    (
        errors.TooManyMails("50/hour", 30, 20, 12.4),
        "30 mails, with 20 left of 50/hour for one agent (limits.mails_per_agent): try",
    ),
    (errors.TooManyMails("50/hour", 1, 0, 12.4), "cause 1 mail, with 0 left"),
    (
        errors.TooManyMails("50/hour", 60, 20, None),
        "60 mails, and the limit for one agent is 50/hour (limits.mails_per_agent): invite fewer",
    ),
    (errors.UnknownParticipant("p-1"), "p-1"),
    (errors.NoKnocking("Nobody knocks here"), "Nobody knocks here"),
    (errors.TooManyParticipants(1000, at_once=True), "1000 participants, the maximum at once"),
    (errors.TooManyParticipants(9, at_once=False), "create another session"),
    (errors.KeyReused("xoKwKRBrbwRF"), "xoKwKRBrbwRF"),
    (errors.KeyReused("xoKwKRBrbwRF", series=True), "created series xoKwKRBrbwRF"),
    (errors.KeyReused("xoKwKRBrbwRF", batch=True), "the batch of session xoKwKRBrbwRF"),
    (errors.WrongCode(), "once"),
    (errors.NotAuthenticated(), "token"),
    (errors.Forbidden("the role agent"), "needs the role agent"),
    (errors.TooManyAttempts("PIN look-ups", 12.4), "Too many PIN look-ups from your address: try again in 13 s"),
    (errors.ChallengeNeeded(12.4), "wrong PINs from your address: answer a new challenge"),
    (errors.ChallengeNeeded(60, "is wrong"), "The answer is wrong"),
    (errors.TooManyGuesses(12.4), "try again in 13 s"),
    (errors.InvalidMessage("is not JSON"), "The message is not JSON"),
    (errors.WrongRoomKey(), "host key"),
    (errors.AgentRevoked(), "nobody can be its host"),
    (errors.AgentShutOut(7), "Agent 7 is shut out"),
    (errors.UnknownAgent(7), "no agent 7"),
    (errors.UnknownSeries("s-1"), "s-1"),
    (errors.SeriesEnded(), "ended"),
    (errors.SeriesConfigured("weekly"), '"weekly"'),
    (errors.TooManySeries(1000), "1000 series"),
    (errors.UnknownCalendar(), "calendar"),
    (errors.Overlap("kX3wQz"), "session kX3wQz"),
    (errors.Overlap(None), "another session"),
    (errors.BadClockMove("to", "is in the past"), "to is in the past"),
    (errors.NoTestClock(), "--test-clock"),
    (errors.WrongClock("sqlite:///x", "no"), "sqlite:///x: no"),
    (
        errors.BatchRefused([FieldError("sessions.3.label", "is missing")]),
        "Nothing was done: sessions.3.label is missing",
    ),
    (errors.BatchConflict([FieldError("ids.3", "is closed")] * 9), "ids.3 is closed; and 6 more"),
    (errors.BatchConflict([FieldError("ids.3", "is closed")] * 2003), "ids.3 is closed; and 2000 more"),
    (errors.BatchRefused([FieldError("ids.3", "is closed")] * 9, 5003), "ids.3 is closed; and 5000 more"),
    (errors.WrongResumeKey(), "join without it"),
    (errors.OtherPresence(own=True), "own room"),
    (errors.OtherPresence(own=False), "Another system"),
    (errors.UnknownOrganization(5), "5"),
    (errors.UnknownWebhook("desk"), "Webhook not found desk"),
    (errors.UpgradeRequired("send Upgrade: websocket"), "WebSocket"),
    (errors.TooManyWebSockets(200), "200"),
    (errors.WebSocketsFull(), "WebSockets"),
    (errors.Overloaded(), "try again"),
    (errors.StoreUnavailable(), "with the same Idempotency-Key"),
    (errors.Draining(), "stopping"),
    (errors.Starting(), "starting"),
    (errors.StateDirectoryUnusable("/x", "cannot be used"), "/x: cannot be used"),
    (errors.AlreadyRunning("/x", "stop it first"), "/x: stop it first"),
    (errors.CannotListen(":1", "is in use"), ":1: is in use"),
    (errors.CannotOpenDatabase("sqlite:///x", "no"), "sqlite:///x: no"),
    (errors.DatabaseCorrupt("sqlite:///x", "no"), "sqlite:///x: no"),
    (errors.DatabaseTooNew("sqlite:///x", "no"), "sqlite:///x: no"),
    (errors.CannotBackUp("/x", "is there already"), "/x: is there already"),
    (errors.CannotCompact("/x", "a daemon uses it"), "/x: a daemon uses it"),
    (errors.CannotRestore("/x", "is no backup"), "/x: is no backup"),
]


def _leaves(of: type[TminusError]) -> Iterator[type[TminusError]]:
    for child in of.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from _leaves(child) if child.__subclasses__() else (child,)


LEAVES = list(_leaves(TminusError))
REFUSALS = [leaf for leaf in LEAVES if issubclass(leaf, RequestError)]


def _drawn() -> dict[str, tuple[str, str | None, str]]:
    """Parse the tree in the docstring: name -> (parent, the digits after x, the note of its part of the tree)."""
    tree: dict[str, tuple[str, str | None, str]] = {}
    ancestors: list[str] = []
    note = ""
    for line in (errors.__doc__ or "").splitlines():
        match = re.fullmatch(r"    ((?:[│ ]   )*(?:[├└]── )?)([A-Z]\w+) *(?:x(\d{3}))? *(.*)", line)
        if match is None:
            continue
        depth = len(match[1]) // 4
        note = match[4] or note
        ancestors[depth:] = [match[2]]
        tree[match[2]] = (ancestors[depth - 1] if depth else "", match[3], note)
    return tree


def test_the_tree_in_the_docstring_is_the_tree_of_the_classes() -> None:
    classes = {TminusError, RequestError, StartupError, *LEAVES}
    parents = {child.__name__: child.__bases__[0].__name__ for child in classes if child is not TminusError}
    assert {name: parent for name, (parent, *_) in _drawn().items() if parent} == parents


@pytest.mark.parametrize("leaf", REFUSALS)
def test_the_tree_shows_the_last_digits_of_each_refcode_under_its_area(leaf: type[RequestError]) -> None:
    areas = {
        "the request's shape": {100},
        "sessions": {101},
        "participants": {102},
        "idempotency": {103},
        "callers": {104, 106, 169},
        "webhooks": {109},
        "WebSockets": {111},
        "rooms": {112},
        "agents": {113},
        "batches": {115},
        "series": {119},
        "mail": {116},
        "calendars": {118},
        "the test clock": {120},
        "the daemon": {105, 107, 108, 110},
    }
    _, digits, note = _drawn()[leaf.__name__]
    assert digits == str(leaf.refcode)[3:]
    assert leaf.refcode // 1000 in areas[note]


def test_no_two_refcodes_are_the_same() -> None:
    assert len({leaf.refcode for leaf in REFUSALS}) == len(REFUSALS) > 40


@pytest.mark.parametrize("leaf", REFUSALS)
def test_a_refcode_is_an_area_followed_by_the_http_status(leaf: type[RequestError]) -> None:
    assert HTTPStatus(status_of(leaf)) >= HTTPStatus.BAD_REQUEST
    assert leaf.refcode // 1000 in {*range(100, 114), 115, 116, 118, 119, 120, 169}


@pytest.mark.parametrize(("error", "text"), SAMPLES, ids=lambda value: type(value).__name__)
def test_the_description_of_an_error_has_the_details_of_the_case(error: TminusError, text: str) -> None:
    assert text in error.description
    assert str(error) == error.description


@pytest.mark.parametrize(
    "error",
    [
        errors.InvalidRequest([FieldError("s3cret", "is not known")]),
        errors.InvalidRequest([FieldError("label", "must not be s3cret")]),
        errors.UnknownSession("s3cret"),
        errors.UnknownParticipant("s3cret"),
        errors.UnknownWebhook("s3cret"),
        errors.UnknownSeries("s3cret"),
        errors.BatchRefused([FieldError("sessions.0.s3cret", "is not known")]),
        errors.BatchConflict([FieldError("ids.0", "Session not found s3cret")]),
    ],
)
def test_the_text_for_the_log_has_nothing_that_the_caller_sent(error: RequestError) -> None:
    assert "s3cret" in error.description
    assert "s3cret" not in error.log_text


def test_every_cause_has_a_sample_here_and_a_docstring_of_its_own() -> None:
    assert {type(error) for error, _ in SAMPLES} == set(LEAVES)
    assert all(leaf.__doc__ and "(" not in leaf.__doc__.split()[0] for leaf in LEAVES)


def test_errors_that_may_be_temporary_have_retry_after() -> None:
    assert {type(error) for error, _ in SAMPLES if isinstance(error, RequestError) and error.retry_after} == {
        errors.ChallengeNeeded,  # 400, as in the original product
        *(leaf for leaf in REFUSALS if status_of(leaf) in {429, 503}),
    }


def test_a_bad_start_time_is_an_error_in_the_field_start_time() -> None:
    assert errors.BadStartTime(NOW, "is in the past").errors == (FieldError("startTime", "is in the past"),)


@pytest.mark.parametrize(("seconds", "header"), [(1.0, "1"), (2.4, "3"), (2.5, "3"), (59.01, "60"), (0.2, "1")])
def test_retry_after_is_rounded_up(seconds: float, header: str) -> None:
    refusal = answer(errors.TooManyAttempts("wrong tokens", seconds))
    assert (b"retry-after", header.encode()) in refusal.headers
    assert f"try again in {header} s".encode() in refusal.body


def test_text_from_the_caller_is_cut_in_descriptions() -> None:
    long = "x" * 100_000
    for error in (
        errors.UnknownSession(long),
        errors.UnknownParticipant(long),
        errors.UnknownWebhook(long),
        errors.MethodNotAllowed(long),
        errors.InvalidRequest([errors.FieldError(long, long)] * 100),
    ):
        assert len(bytes(answer(error).body)) < 20_000


def test_an_error_that_is_permanent_has_no_retry_after() -> None:
    assert errors.TooManySessions(10, wanted=10).retry_after == 60
    assert errors.TooManySessions(10, wanted=11).retry_after is None
    assert errors.TooManyParticipants(10, at_once=True).retry_after == 60
    assert errors.TooManyParticipants(10, at_once=False).retry_after is None
