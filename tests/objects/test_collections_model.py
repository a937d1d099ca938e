"""List and Map against a plain list and dict: random changes over many turns, some of which fail and never happened."""

from __future__ import annotations

import copy
from random import Random
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from perdure.objects import List, Map, VirtualObject, handler
from perdure.objects import collections as collections_module
from perdure.objects import entries as entries_module

if TYPE_CHECKING:
    from tests.objects.conftest import Live, MakeLive
else:
    Live = MakeLive = Any


class Box(msgspec.Struct):
    n: int


class Shelf(VirtualObject):
    boxes: List[Box]
    words: List[str]
    places: Map[int, Box]
    names: Map[str, int]

    @handler
    async def act(self) -> None: ...


class Model:
    """The same fields as plain lists and dicts."""

    def __init__(self) -> None:
        self.boxes: list[Box] = []
        self.words: list[str] = []
        self.places: dict[int, Box] = {}
        self.names: dict[str, int] = {}


class Story:
    """One random operation at a time, on the model and on the object alike."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.steps = (self.append, self.extend, self.assign, self.pop, self.bump, self.put, self.drop, self.bump_place)
        self.looks = (self.look_at_one, self.look_at_slice, self.look_at_page, self.look_backwards)
        self.rare = (self.clear_list, self.clear_map)

    def act(self, model: Model, object: Any) -> None:
        random = self.random
        chosen = random.choice(self.rare if random.random() < 0.01 else random.choice((self.steps, self.looks)))
        seed = random.random()
        assert chosen(model, Random(seed)) == chosen(object, Random(seed))

    def append(self, it: Any, random: Random) -> None:
        it.boxes.append(Box(random.randrange(100)))
        it.words.append(random.choice("abc"))

    def extend(self, it: Any, random: Random) -> None:
        it.words.extend(random.choices("xyz", k=random.randrange(8)))

    def assign(self, it: Any, random: Random) -> None:
        if it.words:
            it.words[random.randrange(len(it.words))] = random.choice("abc")
        if it.boxes:
            it.boxes[-random.randint(1, len(it.boxes))] = Box(1)

    def pop(self, it: Any, random: Random) -> object:
        return [values.pop() for values in (it.words, it.boxes) if values and random.random() < 0.8]

    def bump(self, it: Any, random: Random) -> None:
        if it.boxes:
            it.boxes[random.randrange(len(it.boxes))].n += random.randrange(2)

    def put(self, it: Any, random: Random) -> object:
        it.names[random.choice("abcdefgh") * random.randrange(3)] = random.randrange(3)
        return it.places.setdefault(random.randrange(-9, 9), Box(5))

    def drop(self, it: Any, random: Random) -> object:
        return it.names.pop(random.choice("abcdefgh"), None), it.places.pop(random.randrange(-9, 9), None)

    def bump_place(self, it: Any, random: Random) -> None:
        for key in sorted(it.places)[:3]:
            it.places[key].n += random.randrange(2)

    def look_at_one(self, it: Any, random: Random) -> object:
        key = random.randrange(-9, 9)
        return key in it.places, it.places.get(key), len(it.places), len(it.words), bool(it.names)

    def look_at_slice(self, it: Any, random: Random) -> object:
        part = slice(random.randrange(-5, 20), random.randrange(30), random.choice((None, 2, -1)))
        return it.words[part], it.boxes[part]

    def look_at_page(self, it: Any, random: Random) -> object:
        after = random.randrange(-9, 9)
        page: Any = sorted(it.places.items()) if isinstance(it, Model) else it.places.items(after=after)
        return [(key, box.n) for key, box in page if key > after], sorted(it.names.items())

    def look_backwards(self, it: Any, random: Random) -> object:
        return list(reversed(it.words)), [box.n for box in reversed(it.boxes)]

    def clear_list(self, it: Any, random: Random) -> None:
        it.words.clear()
        it.boxes.clear()

    def clear_map(self, it: Any, random: Random) -> None:
        it.places.clear()
        it.names.clear()


def same(model: Model, shelf: Any) -> None:
    assert list(shelf.boxes) == model.boxes
    assert list(shelf.words) == model.words
    assert list(shelf.places.items()) == sorted(model.places.items())
    assert list(shelf.names.items()) == sorted(model.names.items())
    assert [len(shelf.boxes), len(shelf.names)] == [len(model.boxes), len(model.names)]


@pytest.mark.parametrize("seed", range(6))
def test_it_is_a_list_and_a_dict_over_many_turns(live: MakeLive, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Invocations of a few turns each; a turn that fails is thrown away, and the next run sees what was committed."""
    for module in (entries_module, collections_module):
        monkeypatch.setattr(module, "PORTION", 4)  # walks of several portions, with few entries
    random = Random(seed)
    story = Story(random)
    model = Model()
    kept: Any = None
    for _ in range(60):
        shelf: Live = live(Shelf, kept=kept)
        kept = shelf.kept
        for _ in range(random.randrange(1, 5)):
            committed: Model = copy.deepcopy(model)
            for _ in range(random.randrange(12)):
                story.act(model, shelf.object)
            if random.random() < 0.2:
                model = committed
                break
            if random.random() < 0.5:
                same(model, shelf.object)
            shelf.collect_entries()
        same(model, live(Shelf, kept=kept, writable=False).object)
