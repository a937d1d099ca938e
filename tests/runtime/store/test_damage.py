"""A damaged store says so, or does no harm; it never gives a wrong answer, not even after more commits."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections import Counter
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from perdure.runtime.store import Put, Store, StoreDamaged, StoreError, StoreForeign, StoreNewer, verify
from perdure.runtime.store.sqlite_file import beside
from tests.runtime.store.damage import (
    AS_TABLES,
    FILES,
    ONE,
    PAGES,
    SQL,
    WAL,
    Damage,
    Scene,
    flip,
    kinds_of_pages,
    on_index,
    point_elsewhere,
    sql,
)

UUID, OTHER_UUID = bytes(range(16)), bytes(range(1, 17))
ROWS, COMMITS = 1_200, 4
ABSENT = [b"absent %d" % number for number in range(20)]
FLIPS = 120
POINTERS = 150

Model = dict[bytes, bytes]


def group_of(key: bytes) -> bytes | None:
    """Half of the keys are in groups of ten."""
    return None if key < b"key 0600" else key[:-1]


@dataclass
class Originals:
    """Untouched stores, and what each LSN stands for. A pair of them is closed, a pair is of a killed process."""

    folder: Path
    models: dict[int, Model] = field(default_factory=dict[int, Model])

    def scene(self, name: str, folder: Path, dice: random.Random) -> Scene:
        """A copy of the store `name` in `folder`."""
        folder.mkdir()
        for file in (self.folder / name, *beside(self.folder / name)):
            if file.exists():
                shutil.copyfile(file, folder / file.name.replace(name, "store"))
        return Scene(folder / "store", self.folder / "older", self.folder / "foreign", dice)

    def expected(self, lsn: int) -> Model:
        return self.models[lsn]


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Originals:
    folder = tmp_path_factory.mktemp("originals")
    made = Originals(folder, {0: {}})
    dice = random.Random(1)
    store, foreign = Store.open(folder / "store", UUID), Store.open(folder / "foreign", OTHER_UUID)
    model: Model = {}
    for lsn in range(1, COMMITS + 1):
        puts = [Put(key, value, group_of(key)) for key, value in changes(dice, lsn).items()]
        store.commit(puts, lsn, b"summary %d" % lsn)
        foreign.commit(puts, lsn, b"summary %d" % lsn)
        for key, value, _ in puts:
            model.pop(key, None)
            if value is not None:
                model[key] = value
        made.models[lsn] = dict(model)
        if lsn == 2:
            store.snapshot(folder / "older")
    for end in ("", "-wal", "-shm"):
        copy_of_another_process(folder / f"store{end}", folder / f"killed{end}")
    copy_of_another_process(folder / "foreign-wal", folder / "kept")
    store.close()
    foreign.close()
    (folder / "kept").rename(folder / "foreign-wal")
    return made


def copy_of_another_process(source: Path, target: Path) -> None:
    """A file that is closed here would take SQLite's locks with it."""
    subprocess.run(["cp", source, target], check=True)


def changes(dice: random.Random, lsn: int) -> dict[bytes, bytes | None]:
    """All rows, then some of them again; some with values of many pages, which are gone at the end."""
    chosen = range(ROWS) if lsn == 1 else dice.sample(range(ROWS), 150)
    values: dict[bytes, bytes | None] = {b"key %04d" % number: dice.randbytes(60) for number in chosen}
    values |= {b"large %d" % number: dice.randbytes(20_000) if lsn < COMMITS else None for number in range(3)}
    return values | {b"larger": dice.randbytes(30_000)}


@dataclass
class Outcome:
    where: str
    what: str

    @property
    def word(self) -> str:
        return self.where.split()[0]


def outcome(path: Path, originals: Originals) -> Outcome:
    """Reads everything there is in every way; AssertionError for a wrong answer."""
    try:
        store = Store.open(path, UUID)
    except (StoreDamaged, StoreForeign, StoreNewer) as error:
        return Outcome("open", str(error))
    try:
        seen = read_all(store, originals.expected(store.lsn))
        lsn = store.lsn
    finally:
        close(store)
    report = verify(path)
    if seen is not None:
        assert not report.whole, "told by a read, unseen by verify"
        return seen
    if not report.whole:
        return Outcome("verify", report.problems[0])
    return Outcome("harmless" if lsn == COMMITS else f"older (LSN {lsn})", "every read is right")


def read_all(store: Store, model: Model) -> Outcome | None:
    """The first damage that was told; each answer is compared, also those that come after it."""
    told: list[Outcome] = []
    for key in [*model, *ABSENT]:
        try:
            assert store.get(key, group_of(key)) == model.get(key), key
        except StoreDamaged as error:
            told.append(Outcome("get", error.what))
    groups = {group_of(key) or key for key in [*model, *ABSENT]}
    for begin, end, limit in [(b"", b"\xff", 5000), (b"key 0600", b"key 0700", 5000), (b"key 0900", b"l", 7)]:
        within = sorted((key, value) for key, value in model.items() if begin <= key < end)
        try:
            assert store.range(begin, end, limit, groups) == within[:limit]
        except StoreDamaged as error:
            told.append(Outcome("range", error.what))
    return told[0] if told else None


def close(store: Store) -> None:
    with suppress(StoreDamaged):
        store.close()


def after_more_commits(path: Path, originals: Originals) -> None:
    """Commits over the damage don't turn it into data: answers are right or refused, before and after a restart."""
    try:
        store = Store.open(path, UUID)
    except StoreError:
        return
    model = dict(originals.expected(store.lsn))
    changed = [*list(model)[::11], *ABSENT[:5], b"key 0054"]  # the row that SQL damages, and its neighbour
    gone = [*list(model)[5::11], b"key 0055"]
    try:
        store.commit([Put(key, b"new", group_of(key)) for key in changed], COMMITS + 1, b"")
        model |= dict.fromkeys(changed, b"new")
        store.commit([Put(key, None, group_of(key)) for key in gone], COMMITS + 2, b"")
        for key in gone:
            model.pop(key, None)
    except StoreDamaged:
        pass
    read_all(store, model)
    close(store)
    try:
        store = Store.open(path, UUID)
    except StoreDamaged:
        return
    read_all(store, model)
    close(store)


def table(outcomes: dict[str, Outcome]) -> None:
    width = max(map(len, outcomes))
    for name, each in outcomes.items():
        print(f"{name:<{width}}  {each.where:<14} {each.what[:90]}")
    print(f"{len(outcomes)} ways: {dict(Counter(each.word for each in outcomes.values()))}")


@pytest.mark.parametrize(
    ("original", "ways"),
    [("store", PAGES), ("store", FILES), ("store", SQL), ("killed", WAL)],
    ids=["pages", "files", "sql", "wal"],
)
def test_no_damage_gives_a_wrong_answer(
    original: str, ways: dict[str, Damage], originals: Originals, tmp_path: Path
) -> None:
    """Told when it is opened, when it is read, or by verify; or else every answer is right for the LSN it names."""
    outcomes: dict[str, Outcome] = {}
    for number, (name, damage) in enumerate(ways.items()):
        scene = originals.scene(original, tmp_path / str(number), random.Random(number))
        damage(scene)
        outcomes[name] = outcome(scene.path, originals)
        again = originals.scene(original, tmp_path / f"again {number}", random.Random(number))
        damage(again)
        after_more_commits(again.path, originals)

    table(outcomes)


def test_every_kind_of_page_is_there(originals: Originals) -> None:
    """Or the damage done to it above would have been none."""
    assert set(kinds_of_pages(originals.folder / "store")) >= {name.split(": ")[1] for name in PAGES}


def test_no_flipped_bit_gives_a_wrong_answer(originals: Originals, tmp_path: Path) -> None:
    """Anywhere where rows, their index and the head are; most of the file is sums."""
    outcomes: dict[str, Outcome] = {}
    for number in range(FLIPS):
        dice = random.Random(number)
        scene = originals.scene("store", tmp_path / str(number), dice)
        kinds = kinds_of_pages(scene.path)
        page = dice.choice([page for kind, pages in kinds.items() for page in pages if "sums" not in kind])
        offset = (page - 1) * 4096 + dice.randrange(4096)
        flip(scene.path, offset, dice.randrange(8))
        outcomes[f"bit of byte {offset}"] = outcome(scene.path, originals)
        if number % 3 == 0:
            after_more_commits(scene.path, originals)
        shutil.rmtree(scene.path.parent)

    print(dict(Counter(each.word for each in outcomes.values())))


def test_no_cell_out_of_place_hides_rows_of_a_range(originals: Originals, tmp_path: Path) -> None:
    """Each group's rows are asked for alone, so that only their buckets are verified first."""
    told = 0
    model = originals.models[COMMITS]
    groups = sorted({key[:-1] for key in model if group_of(key) is not None})
    for number in range(POINTERS):
        scene = originals.scene("store", tmp_path / str(number), random.Random(number))
        point_elsewhere(scene)
        store = Store.open(scene.path, UUID)
        for group in groups:
            within = sorted((key, value) for key, value in model.items() if key[:-1] == group)
            try:
                assert store.range(group, group + b"\xff", 100, [group]) == within, (number, group)
            except StoreDamaged:
                told += 1
        close(store)
        shutil.rmtree(scene.path.parent)

    print(f"{told} ranges refused")
    assert told


def test_a_row_is_checked_at_each_get(originals: Originals, tmp_path: Path) -> None:
    """Its bucket was verified before it rotted."""
    scene = originals.scene("store", tmp_path / "scene", random.Random(0))
    with closing(Store.open(scene.path, UUID)) as store:
        assert store.get(b"key 0054") == originals.models[COMMITS][b"key 0054"]
        sql(f"UPDATE rows SET value = x'00' WHERE key = {ONE}")(scene)

        with pytest.raises(StoreDamaged, match="the row of key b'key 0054' is not what was written"):
            store.get(b"key 0054")


def test_a_commit_overwrites_no_other_keys_row(originals: Originals, tmp_path: Path) -> None:
    """The index of keys leads from one key to another's row."""
    scene = originals.scene("store", tmp_path / "scene", random.Random(0))
    on_index("rows_by_key", f"UPDATE rows_by_key SET id = id + 1 WHERE key = {ONE}")(scene)
    with closing(Store.open(scene.path, UUID)) as store:
        for value in (b"new", None):
            with pytest.raises(StoreDamaged, match="leads to other keys' rows"):
                store.commit([Put(b"key 0054", value)], COMMITS + 1, b"")

        assert store.lsn == COMMITS
        assert store.get(b"key 0055") == originals.models[COMMITS][b"key 0055"]


def test_a_row_that_was_hidden_from_a_commit_is_not_taken_for_the_new_one(originals: Originals, tmp_path: Path) -> None:
    """The commit wrote a second one for its key; then a search finds either."""
    scene = originals.scene("store", tmp_path / "scene", random.Random(0))
    for index in AS_TABLES:
        on_index(index, f"DELETE FROM {index} WHERE key = {ONE}")(scene)
    with closing(Store.open(scene.path, UUID)) as store:
        store.commit([Put(b"key 0054", b"new")], COMMITS + 1, b"")
    on_index("rows_by_key", "INSERT INTO rows_by_key SELECT key, id FROM rows WHERE id = 55")(scene)

    with closing(Store.open(scene.path, UUID)) as store, pytest.raises(StoreDamaged):
        store.get(b"key 0054")


def test_untouched_copies_are_whole(originals: Originals, tmp_path: Path) -> None:
    """Also that of a killed process, with its WAL."""
    for name in ("store", "killed"):
        scene = originals.scene(name, tmp_path / name, random.Random(0))
        assert outcome(scene.path, originals).word == "harmless"
