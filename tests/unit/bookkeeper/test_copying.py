"""The commands that copy books: exit codes, lines, JSON."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from gateway.bookkeeper import copying
from gateway.events.segment import segments_of
from tests.unit.bookkeeper.logged import written


async def test_archive_backup_and_restore_say_what_they_did(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    books, back = tmp_path / "books", tmp_path / "back"
    await written(books, steps=100)
    of = ["--books", str(books)]
    for verb, to, keys in (
        ("archive", "kept", {"segments", "copied", "copied_bytes", "removed", "first_kept"}),
        ("backup", "backup", {"files", "octets", "count", "head"}),
    ):
        asked = [verb, *of, "--to", (tmp_path / to).as_uri()]
        assert copying.main([*asked, "--json"]) == copying.DONE
        assert orjson.loads(capsys.readouterr().out).keys() == keys
    assert copying.main(["archive", *of, "--to", (tmp_path / "kept").as_uri()]) == copying.DONE
    assert "0 copied now (0 bytes), 0 removed here" in capsys.readouterr().out
    restore = ["restore", "--books", str(back), "--from", (tmp_path / "backup").as_uri()]
    assert copying.main(restore) == copying.DONE
    assert "replay --apply" in capsys.readouterr().out
    assert copying.main(restore) == copying.FAILED
    assert "holds books" in capsys.readouterr().err


async def test_what_cannot_be_done_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    books = tmp_path / "books"
    url = (tmp_path / "kept").as_uri()
    assert copying.main(["archive", "--books", str(books), "--to", url]) == copying.NOTHING
    await written(books, steps=100)
    assert copying.main(["backup", "--books", str(books), "--to", "ftp://x"]) == copying.NOTHING
    assert "s3://BUCKET/DIR" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        copying.main(["archive", "--books", str(books), "--to", url, "--keep-days", "0"])
    (tmp_path / "file").write_text("in the way")
    blocked = (tmp_path / "file" / "below").as_uri()
    assert copying.main(["backup", "--books", str(books), "--to", blocked]) == copying.FAILED
    path = segments_of(books)[0][1]
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-9])
    capsys.readouterr()
    assert copying.main(["backup", "--books", str(books), "--to", url]) == copying.FAILED
    told = capsys.readouterr()
    assert "ledger verify" in told.err and not told.out
