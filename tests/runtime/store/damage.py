"""Ways to damage a store, for test_damage.py: whole files, pages of each kind, the WAL, and SQL behind its back.

Pages are found as SQLite's file format says (https://www.sqlite.org/fileformat2.html), by walking the trees.
"""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from perdure.runtime.store import layout

PAGE = 4096
WAL_HEADER, WAL_FRAME = 32, 24 + PAGE
INTERIOR = {2: "interior", 5: "interior"}

Damage = Callable[["Scene"], object]


@dataclass
class Scene:
    """One copy to be damaged, and the untouched ones that it may be damaged with."""

    path: Path
    older: Path
    """The same store some commits before."""
    foreign: Path
    """Another log's store with the same rows."""
    dice: random.Random

    @property
    def wal(self) -> Path:
        return self.path.with_name(self.path.name + "-wal")

    @property
    def shm(self) -> Path:
        return self.path.with_name(self.path.name + "-shm")


# --- pages ------------------------------------------------------------------------------------------------------------


def kinds_of_pages(path: Path) -> dict[str, list[int]]:
    """The numbers of the pages of each kind; all are in a closed store's file."""
    data = path.read_bytes()
    count = len(data) // PAGE
    kinds: dict[str, list[int]] = {"first": [1], "pointer map": list(range(2, count + 1, PAGE // 5 + 1))}
    with closing(sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)) as connection:
        roots = dict(connection.execute("SELECT name, rootpage FROM sqlite_schema WHERE rootpage > 0"))
    for name, root in roots.items():
        for number, interior in walk(data, root):
            kinds.setdefault(f"{name} {'interior' if interior else 'leaf'}", []).append(number)
    kinds["free"] = list(free_pages(data))
    known = {number for numbers in kinds.values() for number in numbers}
    kinds["overflow"] = [number for number in range(1, count + 1) if number not in known]
    return {kind: numbers for kind, numbers in kinds.items() if numbers}


def page_of(data: bytes, number: int) -> bytes:
    return data[(number - 1) * PAGE : number * PAGE]


def walk(data: bytes, root: int) -> Iterator[tuple[int, bool]]:
    page = page_of(data, root)
    interior = page[0] in INTERIOR
    yield root, interior
    if interior:
        cells = int.from_bytes(page[3:5], "big")
        pointers = [int.from_bytes(page[12 + 2 * n : 14 + 2 * n], "big") for n in range(cells)]
        for child in [int.from_bytes(page[at : at + 4], "big") for at in [*pointers, 8]]:
            yield from walk(data, child)


def free_pages(data: bytes) -> Iterator[int]:
    trunk = int.from_bytes(data[32:36], "big")
    while trunk:
        yield trunk
        page = page_of(data, trunk)
        for n in range(int.from_bytes(page[4:8], "big")):
            yield int.from_bytes(page[8 + 4 * n : 12 + 4 * n], "big")
        trunk = int.from_bytes(page[:4], "big")


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def flip(path: Path, offset: int, bit: int) -> None:
    overwrite(path, offset, bytes([path.read_bytes()[offset] ^ 1 << bit]))


def choose(scene: Scene, kind: str) -> int:
    return scene.dice.choice(kinds_of_pages(scene.path)[kind])


def flip_in_head(kind: str) -> Damage:
    """In the page's own header or its first cell pointers, which are used in every kind but free ones."""
    return lambda scene: flip(
        scene.path, (choose(scene, kind) - 1) * PAGE + scene.dice.randrange(16), scene.dice.randrange(8)
    )


def flip_in_tail(kind: str) -> Damage:
    """Where its cells are."""
    return lambda scene: flip(
        scene.path, choose(scene, kind) * PAGE - 1 - scene.dice.randrange(400), scene.dice.randrange(8)
    )


def zero_page(kind: str) -> Damage:
    return lambda scene: overwrite(scene.path, (choose(scene, kind) - 1) * PAGE, bytes(PAGE))


def garble_page(kind: str) -> Damage:
    return lambda scene: overwrite(scene.path, (choose(scene, kind) - 1) * PAGE, scene.dice.randbytes(PAGE))


def half_old_page(kind: str) -> Damage:
    """A torn write: the second half is of the older file."""

    def damage(scene: Scene) -> None:
        start = (choose(scene, kind) - 1) * PAGE + PAGE // 2
        overwrite(scene.path, start, scene.older.read_bytes()[start : start + PAGE // 2])

    return damage


def old_page(kind: str) -> Damage:
    """A lost write: of the pages that differ from the older file's, one is as it was."""

    def damage(scene: Scene) -> None:
        new, old = scene.path.read_bytes(), scene.older.read_bytes()
        numbers = kinds_of_pages(scene.path)[kind]
        changed = [number for number in numbers if page_of(new, number) != page_of(old, number)]
        number = scene.dice.choice(changed or numbers)
        overwrite(scene.path, (number - 1) * PAGE, page_of(old, number))

    return damage


def swap_pages(kind: str) -> Damage:
    """A misdirected write: a page lies where another of its kind, or else any other, belongs."""

    def damage(scene: Scene) -> None:
        kinds = kinds_of_pages(scene.path)
        one = scene.dice.choice(kinds[kind])
        others = [number for number in kinds[kind] if number != one] or kinds["rows leaf"]
        other, data = scene.dice.choice(others), scene.path.read_bytes()
        overwrite(scene.path, (one - 1) * PAGE, page_of(data, other))
        overwrite(scene.path, (other - 1) * PAGE, page_of(data, one))

    return damage


def point_elsewhere(scene: Scene) -> None:
    """A cell of a leaf becomes a second way to another cell: searches that meet it go astray, others don't."""
    page = choose(scene, "rows_by_key leaf")
    start = (page - 1) * PAGE
    data = page_of(scene.path.read_bytes(), page)
    cells = int.from_bytes(data[3:5], "big")
    one, other = scene.dice.sample(range(cells), 2)
    overwrite(scene.path, start + 8 + 2 * one, data[8 + 2 * other : 10 + 2 * other])


PAGE_KINDS = [
    *["first", "pointer map", "free", "overflow", "meta leaf", "sums interior", "sums leaf"],
    *["rows interior", "rows leaf", "rows_by_key interior", "rows_by_key leaf"],
    *["rows_by_bucket interior", "rows_by_bucket leaf"],
]
PAGE_DAMAGE = {
    "a bit flipped in the head of": flip_in_head,
    "a bit flipped in the cells of": flip_in_tail,
    "zeros in": zero_page,
    "garbage in": garble_page,
    "a torn write of": half_old_page,
    "a lost write of": old_page,
    "a misdirected write of": swap_pages,
}
PAGES: dict[str, Damage] = {
    f"{name} a page: {kind}": damage(kind) for kind in PAGE_KINDS for name, damage in PAGE_DAMAGE.items()
}

# --- whole files ------------------------------------------------------------------------------------------------------


def resize(change: Callable[[int], int]) -> Damage:
    def damage(scene: Scene) -> None:
        with scene.path.open("r+b") as file:
            file.truncate(change(scene.path.stat().st_size))

    return damage


def copy_over(source: str) -> Damage:
    return lambda scene: shutil.copyfile(getattr(scene, source), scene.path)


def foreign_page(scene: Scene) -> None:
    """The file of another log, restored but for the pages that come first."""
    data = scene.foreign.read_bytes()
    overwrite(scene.path, 100 * PAGE, data[100 * PAGE : scene.path.stat().st_size])


def half_old(scene: Scene) -> None:
    """A checkpoint that was under way when the process was killed, and whose WAL is lost."""
    older = scene.older.read_bytes()
    overwrite(scene.path, 0, older[: len(older) // 2 // PAGE * PAGE])


def half_new(scene: Scene) -> None:
    older = scene.older.read_bytes()
    half = len(older) // 2 // PAGE * PAGE
    overwrite(scene.path, half, older[half:])


FILES: dict[str, Damage] = {
    "the file is zeroed": lambda scene: overwrite(scene.path, 0, bytes(scene.path.stat().st_size)),
    "the file is garbage": lambda scene: overwrite(scene.path, 0, scene.dice.randbytes(scene.path.stat().st_size)),
    "the file is empty": resize(lambda size: 0),
    "the file is cut to its first page": resize(lambda size: PAGE),
    "the file is cut in half": resize(lambda size: size // 2 // PAGE * PAGE),
    "the file is cut by a page": resize(lambda size: size - PAGE),
    "the file is cut within a page": resize(lambda size: size - 1000),
    "zeros follow the file": resize(lambda size: size + 10 * PAGE),
    "the first 100 bytes are zeroed": lambda scene: overwrite(scene.path, 0, bytes(100)),
    "an older copy": copy_over("older"),
    "another log's store": copy_over("foreign"),
    "another log's pages": foreign_page,
    "its first half is older": half_old,
    "its second half is older": half_new,
    "text instead": lambda scene: scene.path.write_text("not a store\n" * 1000),
}

# --- the WAL of a killed process --------------------------------------------------------------------------------------


def frames(scene: Scene) -> int:
    return (scene.wal.stat().st_size - WAL_HEADER) // WAL_FRAME


def cut_wal(change: Callable[[int], int]) -> Damage:
    def damage(scene: Scene) -> None:
        with scene.wal.open("r+b") as file:
            file.truncate(change(scene.wal.stat().st_size))

    return damage


def in_frame(share: float, offset: int) -> Damage:
    """A bit of a frame: `share` of the way through the WAL."""
    return lambda scene: flip(scene.wal, WAL_HEADER + int((frames(scene) - 1) * share) * WAL_FRAME + offset, 3)


def zero_frame(share: float) -> Damage:
    return lambda scene: overwrite(
        scene.wal, WAL_HEADER + int((frames(scene) - 1) * share) * WAL_FRAME, bytes(WAL_FRAME)
    )


def foreign_wal(scene: Scene) -> None:
    shutil.copyfile(scene.foreign.with_name(scene.foreign.name + "-wal"), scene.wal)


WAL: dict[str, Damage] = {
    "the WAL is missing": lambda scene: scene.wal.unlink(),
    "the WAL is empty": cut_wal(lambda size: 0),
    "the WAL is zeroed": lambda scene: overwrite(scene.wal, 0, bytes(scene.wal.stat().st_size)),
    "the WAL is garbage": lambda scene: overwrite(scene.wal, 0, scene.dice.randbytes(scene.wal.stat().st_size)),
    "the WAL is cut in half": cut_wal(lambda size: size // 2),
    "the WAL is cut within its last frame": cut_wal(lambda size: size - 100),
    "the WAL is cut to its header": cut_wal(lambda size: WAL_HEADER),
    "a bit flipped in the WAL's header": lambda scene: flip(scene.wal, 17, 2),
    "a bit flipped in the WAL's first frame": in_frame(0, 2000),
    "a bit flipped in the WAL's middle": in_frame(0.5, 2000),
    "a bit flipped in the WAL's last frame": in_frame(1, 2000),
    "a bit flipped in the head of a frame": in_frame(0.5, 2),
    "zeros in the WAL's middle": zero_frame(0.5),
    "zeros follow the WAL": cut_wal(lambda size: size + 3 * WAL_FRAME),
    "another log's WAL": foreign_wal,
    "an older file under a newer WAL": copy_over("older"),
    "another log's file under the WAL": copy_over("foreign"),
    "the -shm is garbage": lambda scene: scene.shm.write_bytes(scene.dice.randbytes(32768)),
    "the -shm is zeroed": lambda scene: scene.shm.write_bytes(bytes(32768)),
    "the -shm is missing": lambda scene: scene.shm.unlink(),
}

# --- SQL behind its back ----------------------------------------------------------------------------------------------


def sql(*statements: str) -> Damage:
    def damage(scene: Scene) -> None:
        with closing(sqlite3.connect(scene.path, isolation_level=None)) as connection:
            for statement in statements:
                connection.execute(statement).fetchall()

    return damage


def unchecked(statement: str) -> Damage:
    """A change that the table's NOT NULL would refuse."""

    def damage(scene: Scene) -> None:
        with closing(sqlite3.connect(scene.path, isolation_level=None)) as connection:
            [(made,)] = connection.execute("SELECT sql FROM sqlite_schema WHERE name = 'rows'").fetchall()
            connection.execute("PRAGMA writable_schema = ON")
            connection.execute("UPDATE sqlite_schema SET sql = replace(sql, ' NOT NULL', '') WHERE name = 'rows'")
        with closing(sqlite3.connect(scene.path, isolation_level=None)) as connection:
            connection.execute(statement)
            connection.execute("PRAGMA writable_schema = ON")
            connection.execute("UPDATE sqlite_schema SET sql = ? WHERE name = 'rows'", (made,))

    return damage


AS_TABLES = {
    "rows_by_key": "CREATE TABLE rows_by_key (key, id, PRIMARY KEY (key, id)) WITHOUT ROWID",
    "rows_by_bucket": "CREATE TABLE rows_by_bucket (bucket, key, id, PRIMARY KEY (bucket, key)) WITHOUT ROWID",
}


def hidden(index: str, statement: str) -> Damage:
    """A change that the index doesn't get: it is hidden from SQLite meanwhile."""
    return _with_another_schema(index, None, statement)


def on_index(index: str, statement: str) -> Damage:
    """A change of the index alone: it is passed off as a table of its own meanwhile."""
    return _with_another_schema(index, AS_TABLES[index], statement)


def _with_another_schema(index: str, table: str | None, statement: str) -> Damage:
    def damage(scene: Scene) -> None:
        with closing(sqlite3.connect(scene.path, isolation_level=None)) as connection:
            [entry] = connection.execute("SELECT * FROM sqlite_schema WHERE name = ?", (index,)).fetchall()
            connection.execute("PRAGMA writable_schema = ON")
            connection.execute("DELETE FROM sqlite_schema WHERE name = ?", (index,))
            if table is not None:
                made = ("table", index, index, entry[3], table)
                connection.execute("INSERT INTO sqlite_schema VALUES (?, ?, ?, ?, ?)", made)
        with closing(sqlite3.connect(scene.path, isolation_level=None)) as connection:
            assert connection.execute(statement).rowcount > 0
            connection.execute("PRAGMA writable_schema = ON")
            connection.execute("DELETE FROM sqlite_schema WHERE name = ?", (index,))
            connection.execute("INSERT INTO sqlite_schema VALUES (?, ?, ?, ?, ?)", entry)

    return damage


ONE = "(SELECT key FROM rows WHERE id = 55)"
ADDED = "INSERT INTO rows SELECT 0, x'00', bucket, value, hash FROM rows LIMIT 1"
OTHER = "(SELECT key FROM rows WHERE id = 56)"
SQL: dict[str, Damage] = {
    "a row deleted": sql(f"DELETE FROM rows WHERE key = {ONE}"),
    "all rows deleted": sql("DELETE FROM rows"),
    "a row added": sql(ADDED),
    "a row renamed": sql(f"UPDATE rows SET key = key || x'00' WHERE key = {ONE}"),
    "a value changed": sql(f"UPDATE rows SET value = x'FF' WHERE key = {ONE}"),
    "a value made text": sql(f"UPDATE rows SET value = 'text' WHERE key = {ONE}"),
    "a value made a number": sql(f"UPDATE rows SET value = 5 WHERE key = {ONE}"),
    "a hash changed": sql(f"UPDATE rows SET hash = hash + 1 WHERE key = {ONE}"),
    "a value made nothing": unchecked(f"UPDATE rows SET value = NULL WHERE key = {ONE}"),
    "a hash made nothing": unchecked(f"UPDATE rows SET hash = NULL WHERE key = {ONE}"),
    "a bucket made nothing": unchecked(f"UPDATE rows SET bucket = NULL WHERE key = {ONE}"),
    "value and hash made nothing": unchecked(f"UPDATE rows SET value = NULL, hash = NULL WHERE key = {ONE}"),
    "a hash made text": sql(f"UPDATE rows SET hash = 'text' WHERE key = {ONE}"),
    "a bucket changed": sql(f"UPDATE rows SET bucket = bucket + 1 WHERE key = {ONE}"),
    "another row's value": sql(
        f"UPDATE rows SET value = (SELECT value FROM rows WHERE key = {OTHER}) WHERE key = {ONE}"
    ),
    "another row's value and hash": sql(
        f"UPDATE rows SET (value, hash) = (SELECT value, hash FROM rows WHERE key = {OTHER}) WHERE key = {ONE}"
    ),
    "an older row": lambda scene: sql(
        f"ATTACH '{scene.older}' AS older",
        "UPDATE rows SET (value, hash) = (SELECT value, hash FROM older.rows WHERE key = rows.key) "
        "WHERE key IN (SELECT key FROM older.rows)",
    )(scene),
    "older rows and their sums": lambda scene: sql(
        f"ATTACH '{scene.older}' AS older",
        *("DELETE FROM rows", "INSERT INTO rows SELECT * FROM older.rows"),
        *("DELETE FROM sums", "INSERT INTO sums SELECT * FROM older.sums"),
    )(scene),
    "older sums": lambda scene: sql(
        f"ATTACH '{scene.older}' AS older", "DELETE FROM sums", "INSERT INTO sums SELECT * FROM older.sums"
    )(scene),
    "an older head": lambda scene: sql(
        f"ATTACH '{scene.older}' AS older", "DELETE FROM meta", "INSERT INTO meta SELECT * FROM older.meta"
    )(scene),
    "a page of sums deleted": sql("DELETE FROM sums WHERE page = 3"),
    "a page of sums added": sql(f"INSERT INTO sums VALUES ({layout.PAGES}, zeroblob({layout.PAGE_BYTES}))"),
    "a page of sums zeroed": sql(f"UPDATE sums SET data = zeroblob({layout.PAGE_BYTES})"),
    "a page of sums cut": sql("UPDATE sums SET data = x'00' WHERE page = 3"),
    "a page of sums made a number": sql("UPDATE sums SET data = 1 WHERE page = 3"),
    "two pages of sums swapped": sql(
        *("UPDATE sums SET page = -1 WHERE page = 3", "UPDATE sums SET page = 3 WHERE page = 4"),
        "UPDATE sums SET page = 4 WHERE page = -1",
    ),
    "the head deleted": sql("DELETE FROM meta"),
    "a second head": sql("INSERT INTO meta SELECT 2, version, uuid, lsn, summary, sums, hash FROM meta"),
    "the LSN changed": sql("UPDATE meta SET lsn = lsn + 1"),
    "the LSN made text": sql("UPDATE meta SET lsn = 'seven'"),
    "the LSN made negative": sql("UPDATE meta SET lsn = -1"),
    "the summary changed": sql("UPDATE meta SET summary = x'00'"),
    "the uuid changed": sql("UPDATE meta SET uuid = zeroblob(16)"),
    "the uuid cut": sql("UPDATE meta SET uuid = x'00'"),
    "the format version changed": sql("PRAGMA user_version = 0"),
    "the format version raised": sql("PRAGMA user_version = 9"),
    "the application id changed": sql("PRAGMA application_id = 1"),
    "the table of rows dropped": sql("DROP TABLE rows"),
    "the table of sums dropped": sql("DROP TABLE sums"),
    "the table of heads dropped": sql("DROP TABLE meta"),
    "the index dropped": sql("DROP INDEX rows_by_bucket"),
    "another index of that name": sql("DROP INDEX rows_by_bucket", "CREATE INDEX rows_by_bucket ON rows (hash)"),
    "a trigger added": sql("CREATE TRIGGER thief AFTER UPDATE ON rows BEGIN DELETE FROM rows WHERE key = old.key; END"),
    "a column added": sql("ALTER TABLE rows ADD COLUMN more"),
    "analysed": sql("ANALYZE"),
    **{
        f"{name}: {index}": damage
        for index in AS_TABLES
        for name, damage in {
            "a row deleted, its entry kept": hidden(index, f"DELETE FROM rows WHERE key = {ONE}"),
            "a row added without an entry": hidden(index, ADDED),
            "a row renamed, its entry kept": hidden(index, f"UPDATE rows SET key = key || x'00' WHERE key = {ONE}"),
            "an entry removed": on_index(index, f"DELETE FROM {index} WHERE key = {ONE}"),
            "an entry renamed": on_index(index, f"UPDATE {index} SET key = key || x'00' WHERE key = {ONE}"),
            "an entry of another row": on_index(index, f"UPDATE {index} SET id = id + 1 WHERE key = {ONE}"),
            "entries of no row": on_index(index, f"UPDATE {index} SET id = id + 100000"),
            "all entries removed": on_index(index, f"DELETE FROM {index}"),
        }.items()
    },
    "two rows' places swapped": sql(
        *("UPDATE rows SET id = 0 WHERE id = 55", "UPDATE rows SET id = 55 WHERE id = 56"),
        "UPDATE rows SET id = 56 WHERE id = 0",
    ),
    "vacuumed": sql("VACUUM"),
    "indexed anew": sql("REINDEX"),
    "put into another journal mode": sql("PRAGMA journal_mode = DELETE"),
}
