"""Which processes belong to a dead run: by marker and start time, never by pid alone."""

from __future__ import annotations

import os
import subprocess
import sys

from mesh.local.proc import (
    MARKER,
    Identity,
    Seen,
    descendants_of_run,
    identity_of,
    is_alive,
    seen_processes,
)

RUN = "/state:0123"
STARTED = 1000


def seen(pid: int, *, started: int = 1500, session: int = 0, marker: str = "") -> Seen:
    return Seen(identity=Identity(pid=pid, started=started), session=session or pid, marker=marker)


def chosen(*processes: Seen, recorded: tuple[Identity, ...] = ()) -> list[int]:
    return [identity.pid for identity in descendants_of_run(RUN, STARTED, recorded, processes)]


def test_a_recorded_pid_that_is_someone_elses_now_is_left_alone() -> None:
    part = Identity(pid=50, started=1500)
    assert chosen(seen(50, started=9000), recorded=(part,)) == []
    assert chosen(seen(50, started=1500, marker="/state:another run"), recorded=(part,)) == []


def test_the_marker_finds_parts_that_the_record_missed_and_children_of_children() -> None:
    assert chosen(seen(50, marker=RUN), seen(51, session=50, marker=RUN)) == [50, 51]


def test_a_marker_on_a_process_older_than_the_run_does_not_count() -> None:
    assert chosen(seen(50, started=999, marker=RUN)) == []


def test_a_child_that_wiped_its_environment_belongs_while_its_recorded_leader_lives() -> None:
    leader = Identity(pid=50, started=1500)
    child = seen(51, session=50)
    assert chosen(seen(50, marker=RUN), child, recorded=(leader,)) == [50, 51]
    assert chosen(child, recorded=(leader,)) == []
    assert chosen(seen(50, started=9000), child, recorded=(leader,)) == []


def test_an_empty_marker_matches_nothing() -> None:
    assert descendants_of_run("", STARTED, (), [seen(50)]) == []


def test_identity_is_stable_for_a_process_and_gone_after_it() -> None:
    own = identity_of(os.getpid())
    assert own == identity_of(os.getpid())
    sleeper = [sys.executable, "-I", "-S", "-c", "import sys; sys.stdin.read()"]
    child = subprocess.Popen(sleeper, stdin=subprocess.PIPE, env={MARKER: "here"})
    try:
        identity = identity_of(child.pid)
        assert identity is not None
        assert is_alive(identity)
        assert not is_alive(Identity(pid=child.pid, started=identity.started + 1))
        assert [one.marker for one in seen_processes() if one.identity == identity] == ["here"]
    finally:
        child.communicate()
    assert identity_of(child.pid) is None
