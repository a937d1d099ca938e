"""TARGETs of the command line: what is served, and the one line for each that can't be."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from perdure.runtime.targets import TargetError, load_targets

COUNTER = """
from perdure.objects import VirtualObject, handler

class Counter(VirtualObject):
    value: int = 0

    @handler
    async def add(self, amount: int) -> int:
        self.value += amount
        return self.value
"""

Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def undisturbed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Work in a folder of its own, and forget afterwards what was imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(name: str, source: str = COUNTER) -> Path:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source)
        return file

    return write


def served(*targets: str) -> list[str]:
    return list(load_targets(targets).services)


def refusal(*targets: str) -> str:
    with pytest.raises(TargetError) as caught:
        load_targets(targets)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
    return str(caught.value)


# --- what is served -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target", ["t_counter", "t_counter:Counter", "t_counter.py", "./t_counter.py", "t_counter.py:Counter"]
)
def test_a_target_is_a_module_a_class_or_a_path(write: Write, target: str) -> None:
    """All forms serve the same class; a module is found in the working directory too."""
    write("t_counter.py")

    assert served(target) == ["Counter"]


def test_the_folder_of_a_path_joins_the_path(write: Write) -> None:
    """A file may import its neighbours, from wherever the process is started."""
    write("t_shop/t_prices.py", "PRICE = 3")
    write("t_shop/t_till.py", COUNTER + "from t_prices import PRICE")

    assert served("t_shop/t_till.py") == ["Counter"]


def test_imported_classes_are_not_served(write: Write) -> None:
    """What a module only imports belongs to the module that defines it."""
    write("t_counter.py")
    write("t_other.py", COUNTER.replace("Counter", "Other") + "from t_counter import Counter")

    assert served("t_other") == ["Other"]
    assert served("t_other", "t_counter") == ["Other", "Counter"]


def test_a_named_class_may_be_an_imported_one(write: Write) -> None:
    """`module:Class` says which; where it was defined doesn't matter then."""
    write("t_counter.py")
    write("t_front.py", "from t_counter import Counter")

    assert served("t_front:Counter") == ["Counter"]


def test_a_class_named_twice_is_served_once(write: Write) -> None:
    """The same class by its module and by its path is no clash of names."""
    write("t_counter.py", COUNTER + "Alias = Counter")

    assert served("t_counter", "t_counter.py", "t_counter:Alias") == ["Counter"]


def test_a_base_without_handlers_is_not_served(write: Write) -> None:
    """What only holds fields for others to build on is no object of its own."""
    source = COUNTER.replace(
        "class Counter(VirtualObject)", "class Base(VirtualObject):\n    n: int = 0\n\nclass Counter(Base)"
    )
    write("t_based.py", source)

    assert served("t_based") == ["Counter"]


# --- what is refused, in one line -----------------------------------------------------------------------------------


def test_a_missing_file_or_module(write: Write) -> None:
    """Named as it was typed."""
    assert "cannot serve no/such.py: there is no file no/such.py" in refusal("no/such.py")
    assert "there is no module t_none in" in refusal("t_none")
    assert "there is no module t_none" in refusal("t_none.deeper")


def test_a_module_that_lacks_an_import_of_its_own(write: Write) -> None:
    """The missing module is the one it imports, not the target; file and line are named."""
    file = write("t_lacks.py", "\nimport t_absent")

    assert refusal("t_lacks").endswith(f"ModuleNotFoundError: No module named 't_absent' ({file}:2)")


def test_a_module_that_raises_while_it_is_imported(write: Write) -> None:
    """The error, and the line of the user's file it came from."""
    file = write("t_raises.py", "import json\n\njson.loads('{')\n")

    text = refusal("t_raises.py")

    assert "JSONDecodeError: Expecting property name" in text
    assert f"{file}:3" in text


def test_an_error_of_several_lines_becomes_one(write: Write) -> None:
    """Whatever the message, people get one line."""
    write("t_lines.py", "raise ValueError('a\\nb\\nc')")

    assert "ValueError: a b c" in refusal("t_lines")


def test_a_module_with_a_syntax_error(write: Write) -> None:
    """File and line, as the interpreter says them."""
    file = write("t_syntax.py", "x = 1\ndef broken(:\n")

    assert refusal("t_syntax.py").endswith(f"invalid syntax ({file}:2)")


def test_a_module_that_calls_exit(write: Write) -> None:
    """An exit while importing is an error, not an exit of the process."""
    file = write("t_exits.py", "import sys\nsys.exit(0)")

    text = refusal("t_exits")

    assert "sys.exit()" in text
    assert f"{file}:2" in text


@pytest.mark.parametrize("source", ["", "from perdure.objects import VirtualObject, Service", "x = 1"])
def test_a_module_that_defines_nothing_to_serve(write: Write, source: str) -> None:
    """The library's own classes don't count."""
    write("t_nothing.py", source)

    assert "it defines no VirtualObject, Service or Workflow" in refusal("t_nothing")


def test_what_is_there_but_no_source(write: Write, tmp_path: Path) -> None:
    """A directory is most likely a data directory in the wrong place."""
    write("t_notes.txt", "hello")
    (tmp_path / "t_data").mkdir()

    (tmp_path / "t-data").mkdir()

    assert "t-data is a directory; a" in refusal("t-data")
    assert "t_data is a directory; a target is module, module:Class, or a path to a .py file" in refusal("t_data")
    assert "--data-dir" in refusal("t_data")
    assert f"{tmp_path} is a directory" in refusal(str(tmp_path))
    assert "t_notes.txt is a file, but no Python source" in refusal("t_notes.txt")
    assert f"{tmp_path}/t_notes.txt is a file, but no Python source" in refusal(f"{tmp_path}/t_notes.txt")


def test_a_package_is_a_directory_and_can_be_served(write: Write, tmp_path: Path) -> None:
    """By its name: what looks like a directory may be imported all the same."""
    write("t_package/__init__.py", COUNTER)
    write("t_module.py")
    (tmp_path / "t_module").mkdir()

    assert served("t_package") == ["Counter"]
    assert served("t_module") == ["Counter"]


def test_a_missing_or_unfit_class(write: Write) -> None:
    """Says what there is instead."""
    write("t_counter.py", COUNTER + "x = 3")

    assert "has no Conter (classes that can be served: Counter)" in refusal("t_counter:Conter")
    assert "x is not a class derived from VirtualObject, Service or Workflow" in refusal("t_counter:x")
    assert "VirtualObject is not a class derived from" in refusal("t_counter:VirtualObject")


def test_a_class_without_handlers(write: Write) -> None:
    """It could not be reached."""
    write("t_mute.py", "from perdure.objects import VirtualObject\nclass Mute(VirtualObject):\n    n: int = 0")

    assert "Mute has no handlers" in refusal("t_mute")
    assert "Mute has no handlers" in refusal("t_mute:Mute")


def test_two_classes_with_one_name(write: Write) -> None:
    """Both places are named."""
    write("t_one.py")
    write("t_two.py")

    text = refusal("t_one", "t_two.py")

    assert "Counter" in text
    assert "t_one.Counter" in text
    assert "t_two.Counter" in text


@pytest.mark.parametrize("target", ["t_twice", "t_twice.py", "t_twice:Counter"])
def test_two_classes_with_one_name_in_one_module(write: Write, target: str) -> None:
    """Else the first would vanish without a word. That garbage is collected now and then does not hide it."""
    file = write("t_twice.py", COUNTER + COUNTER.replace("add", "take") + "many = [[n] for n in range(200_000)]\n")

    text = refusal(target)

    assert f"two classes are named Counter, with handlers at {file}:7 and {file}:17;" in text


def test_a_class_named_twice_under_another_wire_name(write: Write) -> None:
    """Its name for clients doesn't help: the module holds only one of them."""
    second = COUNTER.replace("(VirtualObject)", '(VirtualObject, name="Other")')
    write("t_renamed.py", COUNTER + second)

    assert "two classes are named Counter" in refusal("t_renamed")


def test_a_class_built_on_one_of_its_name_is_served(write: Write) -> None:
    """Nothing has vanished: it has the handlers of both."""
    write("t_built.py", COUNTER + COUNTER.replace("(VirtualObject)", "(Counter)").replace("add", "take"))

    assert sorted(load_targets(["t_built"]).services["Counter"].handlers) == ["add", "take"]


def test_a_class_that_was_deleted_or_made_in_a_function_is_no_second_one(write: Write) -> None:
    """Only what replaced another one at the top of the module is a mistake."""
    indented = COUNTER.replace("\n", "\n    ")
    write("t_local.py", COUNTER + f"def local():{indented}\n    return Counter\nlocal()\n")

    assert served("t_local") == ["Counter"]


def test_a_module_imported_again_defines_no_second_class(write: Write) -> None:
    """The same lines twice are one class: a failed import that was tried again, or a reload."""
    write("t_again.py", COUNTER)
    write(
        "t_reloads.py",
        "import importlib, t_again\nkept = t_again.Counter\nimportlib.reload(t_again)\n"
        + COUNTER.replace("Counter", "Mine"),
    )

    assert served("t_reloads", "t_again") == ["Mine", "Counter"]


def test_state_of_a_type_that_cannot_be_kept(write: Write) -> None:
    """Class and field are named."""
    write("t_state.py", COUNTER.replace("value: int = 0", "value: int = 0\n    lock: complex = 1j"))

    text = refusal("t_state.py")

    assert "Counter" in text
    assert "lock" in text


def test_a_class_refused_at_its_definition(write: Write) -> None:
    """A misspelt field is found when the class is made, and says where."""
    write("t_misspelt.py", COUNTER.replace("self.value +=", "self.valu +="))

    text = refusal("t_misspelt.py")

    assert "valu" in text
    assert text.startswith("cannot serve t_misspelt.py: ")


def test_a_file_named_like_another_module(write: Write) -> None:
    """`json.py` would be Python's: nothing else than the file that was named is ever served."""
    write("json.py")
    write("time.py")

    assert "another module is named json" in refusal("json.py")
    assert "another module is named time (built in)" in refusal("time.py")


@pytest.mark.parametrize("target", ["", ":", "a b", "1x", "a..b", "x-y.py", "é:"])
def test_what_is_no_target(write: Write, target: str) -> None:
    """Anything a shell can pass ends in one line."""
    write("x-y.py")

    assert refusal(target)
