"""Steps at work: on the process's loop if they are async, else in daemon threads.

A step belongs to its invocation, not to the coroutine that asked for it.  This file knows how one attempt runs and
what it ends with; whether it may start, what is recorded and whether there is another attempt, the engine decides.

Threads are our own: those of `run_in_executor` are joined when the interpreter exits, so a step that hangs would hold
up the process, and it halves the rate.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from queue import SimpleQueue
from typing import Any, Protocol

import structlog

from perdure.objects.steps import StepContext, StepLog, enter_step

from . import identity
from .step_calls import StepCall

StepId = tuple[str, int]


class StepOwner(Protocol):
    """Told how steps go, on the process's loop."""

    def step_yielded(self, id: StepId, item: bytes) -> None: ...
    def step_ended(self, id: StepId, value: bytes) -> None: ...
    def step_failed(self, id: StepId, error: BaseException) -> None: ...
    def step_left(self, id: StepId) -> None:
        """An attempt that nobody wants any more, or the thread of one that timed out, has ended."""
        ...


class TracedStep(Protocol):
    """A step that belongs to a trace."""

    @property
    def trace_id(self) -> str: ...
    def enter(self) -> object:
        """Makes its span the current one of the context it is called in."""
        ...


class RunningStep(StepContext):
    """One attempt.  `progress` is what its last heartbeat said (any JSON value)."""

    progress: object = None
    task: asyncio.Task[None] | None = None
    thread: asyncio.Future[Any] | None = None
    begun = False
    stop_requested = False
    traced: TracedStep | None = None

    def __init__(self, id: StepId, seed: bytes, call: StepCall, attempt: int, recorded: Sequence[Any]) -> None:
        self.id = id
        self.attempt = attempt
        self.recorded = recorded
        self.call = call
        self._seed = seed

    @property
    def key(self) -> str:  # type: ignore[override]  # made when asked for: many steps talk to nobody
        return identity.step_key(self._seed, self.id[1])

    @property
    def log(self) -> StepLog:  # type: ignore[override]  # made when asked for: most steps log nothing
        log: StepLog = structlog.get_logger("perdure.step")
        ids = self.log_ids
        return log.bind(**ids, step=self.call.name, attempt=self.attempt)  # type: ignore[attr-defined, no-any-return]

    @property
    def log_ids(self) -> dict[str, str]:
        """What stands in each log line of it."""
        traced = self.traced
        return {"invocation": self.id[0]} if traced is None else {"invocation": self.id[0], "trace_id": traced.trace_id}

    @property
    def cancelled(self) -> bool:
        return self.stop_requested

    def heartbeat(self, progress: object = None) -> None:
        self.progress = progress

    def cancel(self) -> None:
        self.stop_requested = True
        if self.task is not None:
            self.task.cancel()


class StepRunner:
    def __init__(self, owner: StepOwner, threads_max: int) -> None:
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._threads = DaemonThreads(threads_max)
        self._running: dict[StepId, RunningStep] = {}
        self._leaving: set[RunningStep] = set()

    def running(self) -> list[asyncio.Task[None]]:
        """The attempts that somebody waits for."""
        return [step.task for step in self._running.values() if step.task is not None]

    def runs(self, id: StepId) -> bool:
        """Wanted or not."""
        return id in self._running or any(step.id == id for step in self._leaving)

    def progress_of(self, invocation: str) -> dict[int, object]:
        """What the running steps of an invocation have said of themselves, by command."""
        return {
            step.id[1]: step.progress
            for step in self._running.values()
            if step.id[0] == invocation and step.progress is not None
        }

    def start(
        self,
        id: StepId,
        seed: bytes,
        call: StepCall,
        attempt: int,
        recorded: Sequence[Any],
        traced: TracedStep | None = None,
    ) -> None:
        """`seed`: its invocation's. `recorded`: what a stream has yielded before."""
        step = RunningStep(id, seed, call, attempt, recorded)
        step.traced = traced
        self._running[id] = step
        run = self._in_loop(step) if call.is_async else self._in_thread(step)
        step.task = self._loop.create_task(run, name=f"step {call.name} of {id[0]}", context=_context_of(step))

    def cancel(self, id: StepId) -> None:
        """Nobody waits for it: it is asked to stop, and what it still says is not heard."""
        step = self._running.pop(id, None)
        if step is not None:
            self._leaving.add(step)
            if step.task is not None and not step.begun:  # cancelled now, its coroutine never runs: nobody would tell
                step.task.add_done_callback(lambda _: self._left(step, None))
            step.cancel()

    def leaving(self, invocation: str) -> bool:
        """Whether something of it runs on that nobody waits for."""
        return any(step.id[0] == invocation for step in self._leaving)

    async def stop(self, grace_seconds: float) -> None:
        """Lets running attempts end, at most `grace_seconds`, then cancels them.  Threads are left to the process."""
        tasks = [step.task for step in (*self._running.values(), *self._leaving) if step.task is not None]
        if tasks and grace_seconds > 0:
            await asyncio.wait(tasks, timeout=grace_seconds)
        for id in [*self._running]:
            self.cancel(id)
        if tasks:
            await asyncio.wait(tasks, timeout=1)
        self._threads.stop()

    # --- one attempt ----------------------------------------------------------------------------------------------

    async def _in_loop(self, step: RunningStep) -> None:
        step.begun = True
        timeout_seconds = step.call.options.timeout_seconds
        try:
            if timeout_seconds is None:
                data = await self._result_of(step)
            else:
                async with _limited(timeout_seconds):
                    data = await self._result_of(step)
        except BaseException as error:
            self._failed(step, error)
            return
        self._ended(step, data)

    async def _result_of(self, step: RunningStep) -> bytes:
        call = step.call
        if not call.is_stream:
            return call.encode(await call.call())
        async for item in call.call():
            self._yielded(step, call.encode(item))
        return b"null"

    async def _in_thread(self, step: RunningStep) -> None:
        step.begun = True
        try:
            async with _limited(step.call.options.timeout_seconds):
                step.thread = self._threads.run(self._loop, contextvars.copy_context(), step.call.call)
                result = await asyncio.shield(step.thread)
                if asyncio.iscoroutine(result):  # a plain function that returns a coroutine
                    result = await result
                data = step.call.encode(result)
        except BaseException as error:
            self._failed(step, error)
            return
        self._ended(step, data)

    def _wanted(self, step: RunningStep) -> bool:
        if self._running.get(step.id) is step:
            return True
        if step.thread is not None and not step.thread.done():
            step.thread.add_done_callback(lambda done: self._left(step, done.exception()))
        else:
            self._left(step, None)
        return False

    def _left(self, step: RunningStep, _error: BaseException | None) -> None:
        """Cancelled, and now really over: a thread can't be stopped, only asked."""
        self._leaving.discard(step)
        step.task = None
        self._owner.step_left(step.id)

    def _yielded(self, step: RunningStep, item: bytes) -> None:
        if self._running.get(step.id) is step:
            self._owner.step_yielded(step.id, item)

    def _over(self, step: RunningStep) -> None:
        del self._running[step.id]
        step.task = None  # whose context holds the step: a cycle

    def _ended(self, step: RunningStep, data: bytes) -> None:
        if self._wanted(step):
            self._over(step)
            self._owner.step_ended(step.id, data)

    def _failed(self, step: RunningStep, error: BaseException) -> None:
        if self._wanted(step):
            self._over(step)
            step.stop_requested = True
            if step.thread is not None and not step.thread.done():  # it timed out, and runs on
                self._leaving.add(step)
                step.thread.add_done_callback(lambda done: self._left(step, done.exception()))
            self._owner.step_failed(step.id, error)


@asynccontextmanager
async def _limited(seconds: float | None) -> AsyncGenerator[None]:
    """`asyncio.timeout`, whose error has no text: whoever reads of an attempt that failed should read why."""
    timeout = asyncio.timeout(seconds)
    try:
        async with timeout:
            yield
    except TimeoutError as error:
        if not timeout.expired() or error.args:
            raise
        raise TimeoutError(f"took longer than {seconds:g} s") from error


def _context_of(step: RunningStep) -> contextvars.Context:
    context = step.call.context.copy()
    context.run(enter_step, step)
    if step.traced is not None:
        context.run(step.traced.enter)
    return context


class DaemonThreads:
    """Threads that are made when all are busy, up to a number; further jobs queue."""

    def __init__(self, threads_max: int) -> None:
        self._threads_max = threads_max
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._count = 0
        self._idle = 0
        self._stopped = False

    def run(
        self, loop: asyncio.AbstractEventLoop, context: contextvars.Context, function: Callable[[], Any]
    ) -> asyncio.Future[Any]:
        """The result of `function`, called in a thread and in `context`."""
        future: asyncio.Future[Any] = loop.create_future()

        def job() -> None:
            try:
                result = context.run(function)
            except BaseException as error:
                _tell(loop, future, None, error)
            else:
                _tell(loop, future, result, None)

        with self._lock:
            if self._idle == 0 and self._count < self._threads_max:
                self._count += 1
                threading.Thread(target=self._work, name="perdure-step", daemon=True).start()
            else:
                self._idle = max(0, self._idle - 1)
        self._jobs.put(job)
        return future

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            for _ in range(self._count):
                self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
            with self._lock:
                if self._stopped:
                    return
                self._idle += 1


def _tell(
    loop: asyncio.AbstractEventLoop, future: asyncio.Future[Any], result: Any, error: BaseException | None
) -> None:
    def tell() -> None:
        if future.done():
            return
        if error is None:
            future.set_result(result)
        elif isinstance(error, StopIteration):
            future.set_exception(RuntimeError(f"the step raised {error!r}"))
        else:
            future.set_exception(error)

    with suppress(RuntimeError):  # the loop is closed: nobody waits any more
        loop.call_soon_threadsafe(tell)
