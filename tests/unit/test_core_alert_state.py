"""One firing and one resolved for each time that something is amiss, whatever the figures do and whenever we crash."""

from hypothesis import given
from hypothesis import strategies as st

from judgify_engine.core.alert_state import START, CauseState, Event, Observation, Timing, advance, end

AT_ONCE = Timing(0.0, 0.0, "warning")
PATIENT = Timing(10.0, 30.0, "warning")
LOOK_S = 5


def seen(at_s: float, word: str) -> Observation:
    """`bad`, `worse`, `clear`, or `between` the two."""
    return Observation(
        at_s, bad=word in ("bad", "worse"), clear=word == "clear", reason=word, numbers={"at": at_s}, severe=word == "worse"
    )


def every_look(*words: str) -> list[Observation]:
    return [seen(100.0 + place * LOOK_S, word) for place, word in enumerate(words)]


def kinds(events: list[Event]) -> list[str]:
    return [event.kind for event in events]


def test_what_is_bad_once_fires_at_once_where_nothing_is_to_be_waited_for() -> None:
    state, events = advance(START, every_look("clear", "bad"), AT_ONCE)
    assert kinds(events) == ["fired"]
    assert (events[0].since_s, events[0].severity, events[0].observation.reason) == (105.0, "warning", "bad")
    assert state.open


def test_it_fires_when_it_was_bad_for_as_long_as_was_said_and_not_before() -> None:
    state, events = advance(START, every_look("bad", "bad"), PATIENT)
    assert (kinds(events), state.phase) == ([], "pending")
    _, events = advance(state, [seen(110.0, "bad")], PATIENT)
    assert kinds(events) == ["fired"]
    assert (events[0].since_s, events[0].observation.at_s) == (100.0, 110.0)


def test_a_pause_starts_the_wait_anew() -> None:
    _, events = advance(START, every_look("bad", "bad", "clear", "bad", "bad"), PATIENT)
    assert events == []


def test_a_flapping_metric_gives_one_firing_and_one_resolved() -> None:
    flapping = ["bad", "bad", "bad", *["clear", "bad"] * 50, *["clear"] * 7]
    state, events = advance(START, every_look(*flapping), PATIENT)
    assert kinds(events) == ["fired", "resolved"]
    assert state.phase == "inactive"
    assert events[1].observation.at_s - (100.0 + LOOK_S * (len(flapping) - 7)) == PATIENT.clear_for_s


def test_between_the_two_conditions_nothing_changes() -> None:
    state, events = advance(START, every_look("between", "bad", *["between"] * 100), AT_ONCE)
    assert (kinds(events), state.phase) == (["fired"], "firing")
    _, events = advance(START, every_look(*["between"] * 100), AT_ONCE)
    assert events == []


def test_it_worsens_once_and_stays_so_until_it_is_over() -> None:
    looks = every_look("bad", "worse", "bad", "worse", "clear", "bad")
    state, events = advance(START, looks, AT_ONCE)
    assert [(event.kind, event.severity) for event in events] == [
        ("fired", "warning"), ("worsened", "critical"), ("resolved", "critical"), ("fired", "warning"),
    ]  # fmt: skip
    assert state.severity == "warning"


def test_what_is_severe_from_the_beginning_fires_critical() -> None:
    _, events = advance(START, every_look("worse", "worse"), AT_ONCE)
    assert [(event.kind, event.severity) for event in events] == [("fired", "critical")]


def test_a_cause_that_is_looked_at_no_more_is_resolved_where_it_fires_and_forgotten_where_not() -> None:
    firing, _ = advance(START, every_look("bad"), AT_ONCE)
    state, events = end(firing, 500.0, "the rule was deleted")
    assert (state, kinds(events)) == (START, ["resolved"])
    assert events[0].observation.reason == "the rule was deleted"
    pending, _ = advance(START, every_look("bad"), PATIENT)
    assert end(pending, 500.0, "") == (START, [])


words = st.lists(st.sampled_from(["bad", "worse", "clear", "between"]), max_size=80)
timings = st.builds(
    Timing,
    st.sampled_from([0.0, 4.0, 5.0, 12.0]),
    st.sampled_from([0.0, 4.0, 5.0, 12.0]),
    st.sampled_from(["info", "critical"]),
)


@given(words, timings)
def test_firing_and_resolved_take_turns(spoken: list[str], timing: Timing) -> None:
    state, events = advance(START, every_look(*spoken), timing)
    told = [kind for kind in kinds(events) if kind != "worsened"]
    assert told == ["fired", "resolved"] * (len(told) // 2) + ["fired"] * (len(told) % 2)
    assert state.open == bool(len(told) % 2)


@given(words, timings)
def test_what_fires_was_never_anything_but_bad_for_its_time(spoken: list[str], timing: Timing) -> None:
    looks = every_look(*spoken)
    _, events = advance(START, looks, timing)
    for event in events:
        if event.kind == "fired":
            before = [look for look in looks if event.since_s <= look.at_s <= event.observation.at_s]
            assert all(look.bad for look in before)
            assert event.observation.at_s - event.since_s >= timing.for_s
        if event.kind == "resolved":
            last = [
                look for look in looks if event.observation.at_s - timing.clear_for_s <= look.at_s <= event.observation.at_s
            ]
            assert all(look.clear for look in last)


@given(words, timings, st.data())
def test_crashes_between_evaluations_change_nothing(spoken: list[str], timing: Timing, data: st.DataObject) -> None:
    """State and events commit together; after a crash all or some of the same observations are given again."""
    looks = every_look(*spoken)
    expected = advance(START, looks, timing)
    state: CauseState = START
    told: list[Event] = []
    place = 0
    while place < len(looks):
        again = data.draw(st.integers(0, place))
        until = data.draw(st.integers(place + 1, len(looks)))
        after, events = advance(state, looks[again:until], timing)
        if data.draw(st.booleans()):  # else the transaction was lost
            state, place = after, until
            told += events
    assert (state, told) == expected
