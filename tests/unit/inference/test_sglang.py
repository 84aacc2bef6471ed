"""SGLang's command line, and what a half-made installation leads to."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from inference.sglang import install, launch, model, packages

PIP_LINES = ["Collecting torch==2.13.0", "ERROR: Could not install: [Errno 28] No space left on device"]


def quiet(text: str) -> None:
    pass


def test_the_command_has_what_the_gateway_relies_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "has_cuda", lambda: False)
    argv, environment = launch.command(Path("/e/bin/python"), Path("/m"), 4000, "smol", max_queued=9)
    assert argv[0] == "/e/bin/python"
    for flag, value in (
        ("--port", "4000"),
        ("--served-model-name", "smol"),
        ("--device", "cpu"),
        ("--max-queued-requests", "9"),
        ("--tool-call-parser", "hermes"),
    ):
        assert argv[argv.index(flag) + 1] == value
    assert {"--enable-metrics", "--enable-cache-report", "--enable-priority-scheduling"} <= set(argv)
    assert environment["SGLANG_REQUEST_STATE_WAIT_TIMEOUT"] == "1"
    assert environment["CUDA_VISIBLE_DEVICES"] == ""
    assert environment["OMP_WAIT_POLICY"] == "PASSIVE"


def test_another_template_is_another_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = model.stamp()
    other = tmp_path / "chat_template.jinja"
    other.write_text("{{ messages }}")
    monkeypatch.setattr(model, "_TEMPLATE", other)
    assert model.stamp() != before


def test_with_cuda_nothing_is_pinned_to_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "has_cuda", lambda: True)
    argv, environment = launch.command(Path("p"), Path("m"), 1, "s")
    assert "--device" not in argv
    assert "CUDA_VISIBLE_DEVICES" not in environment


def test_an_environment_counts_only_with_its_stamp(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").write_text("")
    assert not install.ready(tmp_path, cuda=False)
    (tmp_path / install.STAMP).write_text("of another lock")
    assert not install.ready(tmp_path, cuda=False)
    (tmp_path / install.STAMP).write_text(install.stamp(cuda=False))
    assert install.ready(tmp_path, cuda=False)


def test_steps_of_an_installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []

    def recorded(python: Path, arguments: list[str], *, step: str, progress: packages.Progress) -> None:
        assert not (python.parent.parent / install.STAMP).exists()
        steps.append(" ".join(arguments[:3]))
        if fails and len(steps) == fails:
            raise packages.InstallFailed("no network", "check it")

    def made(directory: Path) -> Path:
        (directory / "bin").mkdir(parents=True, exist_ok=True)
        (directory / "bin" / "python").write_text("")
        return directory / "bin" / "python"

    monkeypatch.setattr(install, "pip", recorded)
    monkeypatch.setattr(install, "_new_environment", made)
    monkeypatch.setattr(install, "_has", lambda python, name: False)
    monkeypatch.setattr(install, "has_cuda", lambda: False)
    fails = 2
    with pytest.raises(packages.InstallFailed, match="no network; check it"):
        install.ensure_environment(tmp_path, quiet)
    fails, steps[:] = 0, []
    python = install.ensure_environment(tmp_path, quiet)
    assert [step.split()[1][:9] for step in steps] == ["-r", "triton==3", "--no-deps"]
    assert install.ensure_environment(tmp_path, quiet) == python
    assert len(steps) == 3


def test_a_full_disk_is_said_before_anything_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install, "DISK_BYTES_CPU", 1 << 60)
    monkeypatch.setattr(install, "has_cuda", lambda: False)
    with pytest.raises(packages.InstallFailed, match="free some disk space"):
        install.ensure_environment(tmp_path, quiet)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(packages.InstallFailed, match="cannot write"):
        install.ensure_environment(tmp_path / "file" / "tools", quiet)


def test_pip_fails_with_the_mend() -> None:
    assert "free some disk space" in str(packages.failure("step", PIP_LINES))
    assert "run it again" in str(packages.failure("step", ["Killed"]))
    with pytest.raises(packages.InstallFailed, match="step failed"):
        packages.pip(Path(sys.executable), ["no-such-command"], step="step", progress=quiet)


def test_a_failed_conversion_leaves_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(workshop: Path, python: Path, progress: packages.Progress) -> Path:
        (workshop / "model").mkdir()
        raise packages.InstallFailed("converting the model failed", "run it again")

    monkeypatch.setattr(model, "_built", failing)
    with pytest.raises(packages.InstallFailed):
        model.ensure_model(tmp_path, Path("p"), quiet)
    assert list((tmp_path / "models").iterdir()) == []


def test_a_finished_model_is_moved_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def built(workshop: Path, python: Path, progress: packages.Progress) -> Path:
        made = workshop / "model"
        made.mkdir()
        (made / model.STAMP).write_text(model.stamp())
        return made

    monkeypatch.setattr(model, "_built", built)
    assert model.ready(model.ensure_model(tmp_path, Path("p"), quiet))
    monkeypatch.setattr(model, "_built", None)
    assert model.ensure_model(tmp_path, Path("p"), quiet) == model.model_dir(tmp_path)
