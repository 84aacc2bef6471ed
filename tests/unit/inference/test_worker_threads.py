"""A bounded queue before threads: what is too much, cancelled, failed or closed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError

import numpy as np
import pytest

from inference.embedders.embedder import EmbedderUnavailable, Overloaded, Vector
from inference.embedders.worker_threads import WorkerThreads

ANSWER = np.ones(2, dtype=np.float32)
WAIT_S = 60.0


class Held:
    """A job that runs until it is let go."""

    def __init__(self) -> None:
        self.running, self.let_go = threading.Event(), threading.Event()

    def __call__(self) -> Vector:
        self.running.set()
        assert self.let_go.wait(WAIT_S)
        return ANSWER


@pytest.fixture
def workers() -> Iterator[WorkerThreads]:
    made = WorkerThreads(count=1, queue_max=2)
    yield made
    made.close()


def answer() -> Vector:
    return ANSWER


def test_a_full_queue_refuses_and_takes_again(workers: WorkerThreads) -> None:
    held = Held()
    first = workers.submit(held)
    assert held.running.wait(WAIT_S)
    waiting = [workers.submit(answer) for _ in range(2)]
    with pytest.raises(Overloaded):
        workers.submit(answer)
    held.let_go.set()
    assert all(one.result(WAIT_S) is ANSWER for one in (first, *waiting))
    assert workers.submit(answer).result(WAIT_S) is ANSWER


def test_what_was_cancelled_is_not_run(workers: WorkerThreads) -> None:
    held, never = Held(), Held()
    workers.submit(held)
    assert held.running.wait(WAIT_S)
    dropped = workers.submit(never)
    after = workers.submit(answer)
    assert dropped.cancel()
    held.let_go.set()
    assert after.result(WAIT_S) is ANSWER
    with pytest.raises(CancelledError):
        dropped.result(WAIT_S)
    assert not never.running.is_set()


def test_an_error_goes_to_who_waits_and_the_thread_goes_on(workers: WorkerThreads) -> None:
    def failing() -> Vector:
        raise LookupError

    with pytest.raises(LookupError):
        workers.submit(failing).result(WAIT_S)
    assert workers.submit(answer).result(WAIT_S) is ANSWER


def test_closing_ends_what_runs_and_fails_what_waits(workers: WorkerThreads) -> None:
    held = Held()
    running = workers.submit(held)
    assert held.running.wait(WAIT_S)
    waiting = workers.submit(answer)
    closing = threading.Thread(target=workers.close)
    closing.start()
    with pytest.raises(EmbedderUnavailable):
        waiting.result(WAIT_S)
    with pytest.raises(EmbedderUnavailable):
        workers.submit(answer)
    held.let_go.set()
    closing.join(WAIT_S)
    assert not closing.is_alive()
    assert running.result(WAIT_S) is ANSWER
