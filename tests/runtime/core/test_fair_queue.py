"""Who is next of those that wait: by class in turn, within a class by weight, and nobody for ever last."""

from __future__ import annotations

import random

from perdure.runtime.fair_queue import BEGUN, HIGH, LOW, NORMAL, WEIGHTS, Line, Places

SEED = 20_261_123


def taken(line: Line[str, None], count: int) -> list[str]:
    return [line.pop()[0] for _ in range(count)]


def test_one_level_is_first_in_first_out() -> None:
    line: Line[str, None] = Line()
    for n in range(10):
        line.add(str(n), NORMAL, None)
    assert taken(line, 10) == [str(n) for n in range(10)]


def test_the_higher_goes_first() -> None:
    line: Line[str, None] = Line()
    for name, level in (("low", LOW), ("normal", NORMAL), ("high", HIGH), ("begun", BEGUN)):
        line.add(name, level, None)
    assert taken(line, 4) == ["begun", "high", "normal", "low"]


def test_places_are_given_by_weight_while_all_wait() -> None:
    line: Line[str, None] = Line()
    for level in range(4):
        for n in range(1_000):
            line.add(f"{level} {n}", level, None)
    got = [int(name[0]) for name in taken(line, 850)]
    assert [got.count(level) for level in range(4)] == [640, 160, 40, 10]


def test_the_lowest_is_not_starved_whatever_keeps_arriving() -> None:
    """The n-th of a level begins after at most n * (all weights / its own) of its class."""
    line: Line[str, None] = Line()
    for n in range(5):
        line.add(f"low {n}", LOW, None)
    begun: list[str] = []
    for n in range(5 * sum(WEIGHTS)):
        line.add(f"high {n}", HIGH, None)
        line.add(f"begun {n}", BEGUN, None)
        begun.append(line.pop()[0])
    for n in range(5):
        assert begun.index(f"low {n}") < (n + 1) * sum(WEIGHTS)


def test_a_level_saves_nothing_up_while_nobody_waits_there() -> None:
    line: Line[str, None] = Line()
    for n in range(1_000):
        line.add(f"high {n}", HIGH, None)
    taken(line, 900)
    for n in range(100):
        line.add(f"low {n}", LOW, None)
    assert sum(name.startswith("low") for name in taken(line, 50)) <= 4


def test_a_class_with_many_waiting_does_not_hold_up_another() -> None:
    given: list[str] = []
    places: Places[str, None] = Places(1, {}, lambda id, _: given.append(id))
    places.enter("A", "a0", NORMAL, None)
    for n in range(1, 100_000):
        places.enter("A", f"a{n}", NORMAL, None)
    for n in range(3):
        places.enter("B", f"b{n}", LOW, None)
    for id in ["a0", *range(6)]:
        places.leave(str(id) if id == "a0" else given[-1])
    assert given == ["a1", "b0", "a2", "b1", "a3", "b2", "a4"]


def test_a_class_that_is_full_is_passed_over() -> None:
    given: list[str] = []
    places: Places[str, None] = Places(3, {"A": 1}, lambda id, _: given.append(id))
    assert places.enter("A", "a0", NORMAL, None)
    assert not places.enter("A", "a1", NORMAL, None)
    assert places.enter("B", "b0", NORMAL, None)
    assert places.enter("B", "b1", NORMAL, None)
    assert not places.enter("B", "b2", NORMAL, None)
    places.leave("b0")
    assert given == ["b2"]
    places.leave("a0")
    assert given == ["b2", "a1"]


def test_the_books_balance_whatever_is_done() -> None:
    """Against a plain count: never over a cap, nobody waits beside a free place, and in the end nobody is left."""
    dice = random.Random(SEED)
    caps = {"A": 1, "B": 3}
    held: set[str] = set()
    waiting: dict[str, str] = {}

    def give(id: str, _: None) -> None:
        assert waiting.pop(id)
        held.add(id)

    places: Places[str, None] = Places(4, caps, give)
    for n in range(20_000):
        service = dice.choice("ABCD")
        if dice.random() < 0.55:
            id = f"{service}{n}"
            if places.enter(service, id, dice.randrange(4), None):
                held.add(id)
            else:
                waiting[id] = service
        else:
            anybody = held and dice.random() < 0.02
            id = dice.choice(sorted(held | waiting.keys())) if anybody else next(iter(held), "nobody")
            held.discard(id)
            waiting.pop(id, None)
            places.leave(id)
        of = {service: sum(id[0] == service for id in held) for service in "ABCD"}
        assert len(held) == places.held() <= 4
        assert all(of[service] <= cap for service, cap in caps.items())
        assert places.waiting() == len(waiting)
        if len(held) < 4:
            assert all(of[service] == caps.get(service, 4) for service in waiting.values())
    for id in [*waiting, *held]:
        places.leave(id)
        held.discard(id)
        waiting.pop(id, None)
    while held:
        id = held.pop()
        places.leave(id)
    assert (places.held(), places.waiting()) == (0, 0)
