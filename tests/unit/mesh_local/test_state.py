"""The state directory: paths, logs, status, and what is said when it cannot be written."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path

import pytest

from mesh.local.layout import RUN_PATH_CHARS_MAX, layout_of, prepare, refuse_full_disk
from mesh.local.logfile import rotate, tail
from mesh.local.part import PartView, State
from mesh.local.refusal import Refusal, refusal_from
from mesh.local.running import show_logs
from mesh.local.status import Board, Overall, Status, read_status, status_from


def test_sockets_move_to_a_private_directory_when_the_state_is_deep(tmp_path: Path) -> None:
    near = layout_of(Path("/tmp/near"))
    assert near.run == Path("/tmp/near/run")
    deep = layout_of(tmp_path / ("d" * 60) / ("e" * 60))
    assert len(str(deep.run)) <= RUN_PATH_CHARS_MAX
    assert deep.run != layout_of(tmp_path / ("d" * 60) / ("f" * 60)).run
    assert len(str(deep.socket("envoy-admin"))) < 107


def test_the_state_directory_is_private(tmp_path: Path) -> None:
    layout = layout_of(tmp_path / "state")
    prepare(layout)
    for directory in (layout.state, layout.secrets, layout.run):
        assert directory.stat().st_mode & 0o777 == 0o700


def test_a_run_directory_that_others_can_enter_is_refused(tmp_path: Path) -> None:
    layout = layout_of(tmp_path / "state")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    prepared = replace(layout, run=tmp_path / "link")
    prepared.run.symlink_to(elsewhere)
    with pytest.raises(Refusal, match="not a private directory of yours"):
        prepare(prepared)
    open_to_all = replace(layout, run=tmp_path / "open")
    open_to_all.run.mkdir()
    open_to_all.run.chmod(0o777)
    with pytest.raises(Refusal, match="not a private directory of yours"):
        prepare(open_to_all)


def test_a_disk_without_room_is_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = layout_of(tmp_path)
    refuse_full_disk(layout)
    monkeypatch.setattr("mesh.local.layout.FREE_BYTES_MIN", 1024**5)
    with pytest.raises(Refusal, match=r"^the disk of .* is full \(\d+ MiB free\): free "):
        refuse_full_disk(layout)


def test_status_survives_its_file(tmp_path: Path) -> None:
    status = Status(
        state=Overall.READY,
        pid=7,
        started_ms=5,
        base_url="http://127.0.0.1:8080/v1",
        engine="twin",
        model="m",
        parts=(PartView(name="envoy", state=State.READY, pid=9, seconds=0.5),),
    )
    assert status_from(status.to_json()) == status
    assert set(status_from(status.to_json()).__dataclass_fields__) == {
        *("state", "pid", "started_ms", "base_url", "operators_url", "engine", "model", "notice", "parts")
    }


def test_without_a_supervisor_the_status_is_stopped_whatever_the_file_says(tmp_path: Path) -> None:
    layout = layout_of(tmp_path / "state")
    prepare(layout)
    layout.status.write_bytes(Status(state=Overall.READY, pid=1).to_json())
    assert read_status(layout).state is Overall.STOPPED


def test_the_board_calls_a_gateway_degraded_while_a_part_is_away(tmp_path: Path) -> None:
    board = Board(tmp_path / "status.json", Status(state=Overall.STARTING))
    part = PartView(name="api", state=State.READY)
    board.show(part)
    board.enter(Overall.READY)
    board.show(replace(part, state=State.RESTARTING))
    assert status_from((tmp_path / "status.json").read_bytes()).state is Overall.DEGRADED
    board.show(part)
    assert board.status.state is Overall.READY


def test_a_disk_that_fills_up_costs_the_status_and_not_the_service(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    directory.mkdir()
    board = Board(directory / "status.json", Status(state=Overall.STARTING))
    (directory / "status.json").unlink()
    directory.rmdir()
    with pytest.raises(OSError, match="No such file"):
        board.show(PartView(name="api", state=State.STARTING))
    board.enter(Overall.READY)
    board.show(PartView(name="api", state=State.READY))
    assert board.status.state is Overall.READY


def test_a_grown_log_moves_aside_and_its_writer_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "part.log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"old\n" * 100)
        assert not rotate(log, bytes_max=1000)
        assert rotate(log, bytes_max=400)
        writer.write(b"new\n")
    assert log.read_bytes() == b"new\n"
    assert (tmp_path / "part.log.1").read_bytes() == b"old\n" * 100


def test_tail_reads_the_end_only(tmp_path: Path) -> None:
    log = tmp_path / "part.log"
    assert tail(log, 3) == []
    log.write_bytes(b"".join(b"line %d\n" % number for number in range(10)))
    assert tail(log, 2) == ["line 8", "line 9"]
    assert tail(log, 5, bytes_max=10) == [" 8", "line 9"]


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "the disk is full (writing /s/status.json): free some space"),
        (errno.EDQUOT, "the disk is full"),
        (errno.EACCES, "no permission to write /s/status.json: use a directory that you own"),
        (errno.EROFS, "no permission to write"),
        (errno.EMFILE, "too many open files: raise the limit"),
        (errno.EIO, "/s/status.json: "),
    ],
)
def test_a_failed_write_is_one_line_with_its_mend(number: int, said: str) -> None:
    text = str(refusal_from(OSError(number, "strange"), "/s/status.json"))
    assert text.startswith(said)
    assert "\n" not in text


@pytest.mark.parametrize(("lines", "shown"), [(1, 1), (4, 1), (10, 2)])
def test_of_all_logs_each_shows_a_share_of_the_lines(
    lines: int, shown: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = layout_of(tmp_path)
    layout.logs.mkdir()
    for part in ("api", "envoy"):
        layout.log(part).write_text("one\ntwo\nthree\n")
    assert show_logs(layout, None, following=False, lines=lines) == 0
    told = capsys.readouterr().out.splitlines()
    assert len(told) == 2 * shown and told[-1] == "envoy | three"
