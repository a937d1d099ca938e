"""From an upload to a published video: content check, three encodings and a thumbnail at once, approval, publication.

    perdure serve examples/video.py
    curl localhost:8080/Video/cats/run/send --json '"Cats"'
    curl localhost:8080/Video/cats/uploaded --json '{"url": "s3://inbox/cats.mov", "seconds": 90}'
    curl localhost:8080/Video/cats/status
    curl localhost:9070/invocations/$ID
    curl localhost:8080/Desk/main/look
    curl localhost:8080/Desk/main/decide --json '{"video": "cats", "publish": true}'
    curl localhost:8080/Video/cats/run --json '"Cats"'

ID is the `invocationId` that the first line gives; while it is encoded, that page says how far the encoders are.

The pipeline that is otherwise built from five queues, a table of states and a job that looks for what got stuck: here
it is one function.  Whatever ends it too early (a refusal, a cancellation, nobody at the desk) leaves no files behind.
"""

import asyncio
import time
from datetime import timedelta
from typing import Annotated, Literal

from msgspec import Meta, Struct

from perdure.objects import (
    Promise,
    RetryPolicy,
    TerminalError,
    VirtualObject,
    Workflow,
    current_step,
    handler,
    shared,
    step,
)

Height = Literal[480, 720, 1080]
HEIGHTS: tuple[Height, ...] = (480, 720, 1080)
Stage = Literal["uploading", "checking", "encoding", "waiting for approval", "published", "withdrawn"]

UPLOAD_WITHIN = timedelta(days=1)
DECIDE_WITHIN = timedelta(days=7)


class Upload(Struct, frozen=True):
    url: str
    seconds: Annotated[float, Meta(gt=0)]


class Published(Struct, frozen=True):
    title: str
    renditions: dict[str, str]
    thumbnail: str


class ContentRefused(TerminalError):
    status = 422


class NotApproved(TerminalError):
    status = 403


class Video(Workflow):
    """One video; the key is its name."""

    upload: Promise[Upload]
    stage: Stage = "uploading"

    @handler
    async def run(self, title: str) -> Published:
        async with self.ctx.saga() as saga:
            saga.undo(delete_files, self.key)
            saga.undo(self._withdraw)
            upload = await self._wait_for_upload()
            self.stage = "checking"
            await self.ctx.run(check_content, upload)
            self.stage = "encoding"
            renditions, thumbnail = await self._encode(upload)
            self.stage = "waiting for approval"
            await self._wait_for_approval(title)
            published = Published(title, renditions, thumbnail)
            await self.ctx.run(publish, self.key, published)
            self.stage = "published"
        return published

    def _withdraw(self) -> None:
        self.stage = "withdrawn"
        self.ctx.ref(Desk, "main").take_away.send(self.key)

    async def _wait_for_upload(self) -> Upload:
        """The storage's web hook gives it, by the handler `uploaded` below."""
        try:
            async with asyncio.timeout(UPLOAD_WITHIN.total_seconds()):
                return await self.upload
        except TimeoutError:
            raise TerminalError(f"nothing was uploaded within {UPLOAD_WITHIN}", status=408) from None

    async def _encode(self, upload: Upload) -> tuple[dict[str, str], str]:
        """All at once.  If one fails for good, the others are cancelled, and what they still do is not heard of."""
        async with asyncio.TaskGroup() as group:
            encodings = [group.create_task(self.ctx.run(encode, self.key, upload, height)) for height in HEIGHTS]
            thumbnail = group.create_task(self.ctx.run(draw_thumbnail, self.key, upload))
        files = [task.result() for task in encodings]
        return {f"{height}p": file for height, file in zip(HEIGHTS, files, strict=True)}, thumbnail.result()

    async def _wait_for_approval(self, title: str) -> None:
        """A person's answer, as an awakeable: its id lies on the desk until somebody takes it up."""
        answer = self.ctx.awakeable(bool)
        self.ctx.ref(Desk, "main").put.send(self.key, title, answer.id)
        try:
            async with asyncio.timeout(DECIDE_WITHIN.total_seconds()):
                approved = await answer
        except TimeoutError:
            raise NotApproved(f"nobody decided within {DECIDE_WITHIN}") from None
        if not approved:
            raise NotApproved("not approved")

    @shared
    async def uploaded(self, upload: Upload) -> None:
        self.upload.resolve(upload)

    @shared
    async def status(self) -> Stage:
        return self.stage


class Case(Struct, frozen=True):
    title: str
    answer: str


class Desk(VirtualObject):
    """What waits for a person."""

    open: dict[str, Case]

    @handler(public=False)
    async def put(self, video: str, title: str, answer: str) -> None:
        self.open[video] = Case(title, answer)

    @handler(public=False)
    async def take_away(self, video: str) -> None:
        self.open.pop(video, None)

    @handler
    async def decide(self, video: str, publish: bool) -> None:
        case = self.open.pop(video, None)
        if case is None:
            raise TerminalError(f"{video} does not wait for a decision", status=404)
        self.ctx.resolve_awakeable(case.answer, publish)

    @shared
    async def look(self) -> dict[str, str]:
        return {video: case.title for video, case in self.open.items()}


# --- the outside world: a stub ----------------------------------------------------------------------------------------

SPEED = 100.0
"""Seconds of video that are encoded in a second."""


class Storage:
    def __init__(self) -> None:
        self.files: dict[str, set[str]] = {}
        self.published: dict[str, Published] = {}
        self.deleted: set[str] = set()

    def add(self, video: str, file: str) -> str:
        """A thread that nobody waits for any more may come late: what was deleted stays so."""
        if video in self.deleted:
            raise TerminalError(f"{video} was deleted", status=410)
        self.files.setdefault(video, set()).add(file)
        return file

    def delete(self, video: str) -> None:
        """Whatever there is of it, which may be nothing."""
        self.deleted.add(video)
        self.published.pop(video, None)
        self.files.pop(video, None)


STORAGE = Storage()


@step(timeout=30, retry=RetryPolicy(max_attempts=5))
async def check_content(upload: Upload) -> None:
    if "forbidden" in upload.url:
        raise ContentRefused(f"{upload.url} is nothing that we show")


@step(timeout=timedelta(hours=2), retry=RetryPolicy(max_attempts=3))
def encode(video: str, upload: Upload, height: Height) -> str:
    """Long work in a thread: it says how far it is, and looks whether anybody still wants it."""
    me = current_step()
    for percent in range(0, 100, 10):
        if me.cancelled:
            raise TerminalError("nobody wants it any more")
        me.heartbeat({"percent": percent})
        time.sleep(upload.seconds / SPEED / 10)
    return STORAGE.add(video, f"{video}-{height}p.mp4")


@step(timeout=60, retry=RetryPolicy(max_attempts=3))
def draw_thumbnail(video: str, upload: Upload) -> str:
    return STORAGE.add(video, f"{video}.png")


@step(retry=RetryPolicy())
async def publish(video: str, published: Published) -> None:
    STORAGE.published[video] = published


@step(retry=RetryPolicy())
async def delete_files(video: str) -> None:
    STORAGE.delete(video)
