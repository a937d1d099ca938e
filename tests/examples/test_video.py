"""video.py: published once, or nothing is left of it."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from perdure.objects import StepFailed, TerminalError
from perdure.runtime import ManualClock, Runtime

DAY = timedelta(days=1)
FILES = {"cats-480p.mp4", "cats-720p.mp4", "cats-1080p.mp4", "cats.png"}


@pytest.fixture
def video(load: Callable[[str], Any]) -> Any:
    """With encoders that take no time."""
    video = load("video")
    video.SPEED = float("inf")
    return video


async def begin(runtime: Runtime, video: Any, url: str = "s3://inbox/cats.mov") -> Any:
    """Up to the point where somebody at the desk has to decide, if it gets there."""
    run = await runtime.send(runtime.ref(video.Video, "cats").run, "Cats")
    await runtime.ref(video.Video, "cats").uploaded(video.Upload(url, 90))
    await runtime.advance(0)
    return run


async def stage(runtime: Runtime, video: Any) -> str:
    return str(await runtime.ref(video.Video, "cats").status())


async def test_the_curl_lines(story: Callable[[str], Any]) -> None:
    """As the docstring says: uploaded, encoded in a second, approved, published."""
    lines = story("video")
    await lines.start()

    status, accepted = await lines.next()
    assert status == 202
    assert (await lines.next())[0] == 200
    now = (await lines.next())[1]
    while now not in ("encoding", "waiting for approval"):
        now = await lines.again()
    id = accepted["invocationId"]
    status, invocation = await lines.next(ID=id)
    assert (status, invocation["id"], invocation["target"]) == (200, id, "Video/cats/run")
    while invocation["status"] == "running" and not any(step["percent"] for step in invocation["progress"].values()):
        invocation = await lines.again(ID=id)
    desk = (await lines.next())[1]
    while not desk:  # still encoding
        desk = await lines.again()
    assert desk == {"cats": "Cats"}
    assert (await lines.next())[0] == 200
    status, published = await lines.next()
    assert (status, published["title"], published["thumbnail"]) == (200, "Cats", "cats.png")
    assert published["renditions"] == {height: f"cats-{height}.mp4" for height in ("480p", "720p", "1080p")}


async def test_published(video: Any) -> None:
    """With everything that belongs to it, and the desk is empty again."""
    async with Runtime([video.Video, video.Desk], data_dir=None, clock=ManualClock()) as runtime:
        run = await begin(runtime, video)
        assert await runtime.ref(video.Desk, "main").look() == {"cats": "Cats"}
        await runtime.advance(3 * DAY)
        await runtime.ref(video.Desk, "main").decide("cats", publish=True)

        published = await run.attach()
        assert {*published.renditions.values(), published.thumbnail} == FILES
        assert video.STORAGE.files == {"cats": FILES}
        assert video.STORAGE.published == {"cats": published}
        assert await runtime.ref(video.Desk, "main").look() == {}
        assert await stage(runtime, video) == "published"


async def test_content_that_is_refused(video: Any) -> None:
    """Before anything is encoded."""
    async with Runtime([video.Video, video.Desk], data_dir=None, clock=ManualClock()) as runtime:
        run = await begin(runtime, video, "s3://inbox/forbidden.mov")
        with pytest.raises(video.ContentRefused):
            await run.attach()
        assert video.STORAGE.files == {}
        assert await stage(runtime, video) == "withdrawn"


async def test_not_approved(video: Any) -> None:
    """The files are deleted; a second decision has nothing to decide."""
    async with Runtime([video.Video, video.Desk], data_dir=None, clock=ManualClock()) as runtime:
        run = await begin(runtime, video)
        await runtime.ref(video.Desk, "main").decide("cats", publish=False)
        with pytest.raises(video.NotApproved):
            await run.attach()
        assert video.STORAGE.files == video.STORAGE.published == {}
        with pytest.raises(TerminalError, match="does not wait"):
            await runtime.ref(video.Desk, "main").decide("cats", publish=True)


async def test_nobody_decides(video: Any) -> None:
    """After a week it leaves the desk, and its files go."""
    async with Runtime([video.Video, video.Desk], data_dir=None, clock=ManualClock()) as runtime:
        run = await begin(runtime, video)
        await runtime.advance(7.5 * DAY)
        with pytest.raises(video.NotApproved, match="nobody decided"):
            await run.attach()
        assert video.STORAGE.files == {}
        assert await runtime.ref(video.Desk, "main").look() == {}


async def test_nothing_is_uploaded(video: Any) -> None:
    """For a day."""
    async with Runtime([video.Video, video.Desk], data_dir=None, clock=ManualClock()) as runtime:
        run = await runtime.send(runtime.ref(video.Video, "cats").run, "Cats")
        await runtime.advance(1.5 * DAY)
        with pytest.raises(TerminalError, match="nothing was uploaded") as outcome:
            await run.attach()
        assert outcome.value.status == 408


async def test_one_encoding_that_fails_for_good_ends_all(video: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three attempts, then the task group gives up, and the other files are deleted."""
    attempts: list[str] = []
    add = video.STORAGE.add

    def full(name: str, file: str) -> str:
        if "1080" in file:
            attempts.append(file)
            raise OSError("no space left")
        return str(add(name, file))

    monkeypatch.setattr(video.STORAGE, "add", full)
    async with Runtime([video.Video, video.Desk], data_dir=None, clock=ManualClock()) as runtime:
        run = await begin(runtime, video)
        await runtime.advance(60)
        with pytest.raises(TerminalError) as outcome:
            await run.attach()
        assert (outcome.value.status, len(attempts)) == (500, 3)
        assert isinstance(outcome.value, StepFailed) or "encode" in str(outcome.value)
        assert video.STORAGE.files == {}
        assert await stage(runtime, video) == "withdrawn"


async def test_the_encodings_run_at_the_same_time_and_say_how_far_they_are(
    video: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each waits for the two others, which it could not if they ran one after the other."""
    together = threading.Barrier(3, timeout=10)
    sleeps: list[float] = []

    def sleep(seconds: float) -> None:
        sleeps.append(seconds)
        if len(sleeps) <= 3:
            together.wait()

    monkeypatch.setattr(video.time, "sleep", sleep)
    async with Runtime([video.Video, video.Desk], data_dir=None, clock=ManualClock()) as runtime:
        await begin(runtime, video)
        assert await stage(runtime, video) == "waiting for approval"


async def test_cancelled_while_it_is_encoded(video: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three threads that are almost through can't be stopped any more: what comes too late is not kept."""
    go_on, almost, late = threading.Event(), threading.Semaphore(0), threading.Semaphore(0)
    sleeps: Counter[int] = Counter()
    add = video.STORAGE.add

    def sleep(seconds: float) -> None:
        sleeps[threading.get_ident()] += 1
        if sleeps[threading.get_ident()] == 10:
            almost.release()
            assert go_on.wait(10)

    def store(name: str, file: str) -> str:
        try:
            return str(add(name, file))
        finally:
            late.release()

    monkeypatch.setattr(video.time, "sleep", sleep)
    monkeypatch.setattr(video.STORAGE, "add", store)
    async with Runtime([video.Video, video.Desk], data_dir=None, clock=ManualClock()) as runtime, asyncio.timeout(20):
        run = await runtime.send(runtime.ref(video.Video, "cats").run, "Cats")
        await runtime.ref(video.Video, "cats").uploaded(video.Upload("s3://inbox/cats.mov", 90))
        for _ in range(3):
            await asyncio.to_thread(almost.acquire)
        view = runtime.engine.operations.describe(run.id)
        assert list(view.progress.values()) == [{"percent": 90}] * 3

        await run.cancel()
        with pytest.raises(TerminalError) as outcome:
            await run.attach()
        assert outcome.value.status == 409
        assert video.STORAGE.files == {}
        go_on.set()
        for _ in range(4):  # the thumbnail was in time, and is deleted
            await asyncio.to_thread(late.acquire)
        assert video.STORAGE.files == {}


async def test_cancelled_while_it_waits_at_the_desk(video: Any) -> None:
    """It leaves the desk, and its files go."""
    async with Runtime([video.Video, video.Desk], data_dir=None, clock=ManualClock()) as runtime:
        run = await begin(runtime, video)
        await run.cancel()
        with pytest.raises(TerminalError):
            await run.attach()
        await runtime.advance(0)
        assert video.STORAGE.files == {}
        assert await runtime.ref(video.Desk, "main").look() == {}


async def test_it_ends_the_same_wherever_the_power_is_cut(video: Any, machine: Callable[..., Any]) -> None:
    """After each record: in the middle of three encodings, and while it waits for a person."""

    def new_world() -> None:
        video.STORAGE = video.Storage()

    async def story(runtime: Runtime) -> None:
        await begin(runtime, video)
        await runtime.advance(60)  # an attempt that was cut off is one that failed: the next one waits a little
        desk = runtime.ref(video.Desk, "main")
        if await desk.look():
            await desk.decide("cats", publish=True)
        await runtime.advance(60)

    async def check(runtime: Runtime) -> None:
        published = await runtime.ref(video.Video, "cats").run("Cats")
        assert video.STORAGE.published == {"cats": published}
        assert video.STORAGE.files == {"cats": FILES}
        assert await runtime.ref(video.Desk, "main").look() == {}

    assert await machine(video.Video, video.Desk).with_power_cuts(new_world, story, check) > 15
