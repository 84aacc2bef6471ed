"""Threads with a bounded queue, for work that would hold up an event loop."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future

from inference.embedders.embedder import EmbedderUnavailable, Overloaded, Vector

_Job = tuple[Callable[[], Vector], Future[Vector]]


class WorkerThreads:
    """``count`` threads; ``queue_max`` jobs wait for them at most, cancelled ones included."""

    def __init__(self, *, count: int, queue_max: int) -> None:
        """Starts the threads."""
        self._queue: queue.Queue[_Job | None] = queue.Queue(queue_max)
        self._closed = False
        self._submitting = threading.Lock()
        self._threads = [
            threading.Thread(target=self._work, name=f"embedder-{number}", daemon=True)
            for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, call: Callable[[], Vector]) -> Future[Vector]:
        """What ``call`` will return or raise; does not wait. Raises Overloaded, EmbedderUnavailable."""
        future: Future[Vector] = Future()
        with self._submitting:
            if self._closed:
                raise EmbedderUnavailable("the embedder is closed")
            try:
                self._queue.put_nowait((call, future))
            except queue.Full:
                raise Overloaded(f"{self._queue.maxsize} texts wait already") from None
        return future

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            call, future = job
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result = call()
            except BaseException as error:  # noqa: BLE001 - it is raised where somebody waits for it
                future.set_exception(error)
            else:
                future.set_result(result)

    def close(self) -> None:
        """Ends what runs; what still waits fails with EmbedderUnavailable. Blocks for some milliseconds."""
        with self._submitting:
            if self._closed:
                return
            self._closed = True
        self._fail_waiting()
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()

    def _fail_waiting(self) -> None:
        while True:
            try:
                job = self._queue.get_nowait()
            except queue.Empty:
                return
            if job is not None and job[1].set_running_or_notify_cancel():
                job[1].set_exception(EmbedderUnavailable("the embedder is closed"))
