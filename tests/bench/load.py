"""The two C programs of the benchmark: compiled once, run in slices."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

SOURCES: Final = Path(__file__).parent / "src"
SLICE_GRACE_S: Final = 45
"""A slice that hangs longer than this beyond its length is ended and reported as failed."""

_FIRST_NUMBERS: Final = itertools.count(step=10_000_000)
"""Where each slice begins to count its fresh bodies: a number that came before would be a cache hit."""


class BenchError(Exception):
    """The benchmark cannot go on; the message says why and what to do."""


def compiled(name: str, build_dir: Path) -> Path:
    """The program ``name`` built from ``src/<name>.c``. Raises BenchError without a C compiler."""
    source, program = SOURCES / f"{name}.c", build_dir / name
    if program.exists() and program.stat().st_mtime >= source.stat().st_mtime:
        return program
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise BenchError("bench: no C compiler found; install one (Debian: apt-get install gcc)")
    build_dir.mkdir(parents=True, exist_ok=True)
    subprocess.run([compiler, "-O2", "-o", str(program), str(source), "-lm"], check=True)
    return program


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One kind of load. ``fresh`` bodies differ in every request, so none is a cache hit."""

    name: str
    mode: str
    connections: int
    fresh: bool = True
    stream: bool = False
    question: str = ""
    """In place of the usual one; ``@@SEQ@@`` is the request's number."""
    headers: tuple[str, ...] = ()

    def body(self, model: str) -> bytes:
        """A chat completion of about 200 bytes."""
        question = (
            "Question @@SEQ@@: say something short." if self.fresh else "What is the capital of France?"
        )
        question = self.question or question
        request: dict[str, Any] = {
            "model": model,
            "messages": [
                {"role": "system", "content": "You are a helpful assistant."},
                {"role": "user", "content": question},
            ],
            "max_tokens": 200 if self.stream else 16,
            "temperature": 0,  # else the exact cache would leave it alone
            "stream": self.stream,
        }
        if self.stream:
            request["stream_options"] = {"include_usage": True}
        return json.dumps(request).encode()


SCENARIOS: Final = (
    Scenario(name="json c=32", mode="closed", connections=32),
    Scenario(name="json c=1", mode="closed", connections=1),
    Scenario(name="hit c=32", mode="closed", connections=32, fresh=False),
    Scenario(name="sse 50 streams", mode="stream", connections=50, stream=True),
)


def run_slice(
    program: Path,
    scenario: Scenario,
    *,
    port: int,
    token: str,
    model: str,
    seconds: float,
    work_dir: Path,
    cpus: set[int],
) -> dict[str, Any]:
    """Run the load generator for ``seconds`` against 127.0.0.1:``port``; its JSON. Raises BenchError."""
    body_file = work_dir / f"{scenario.name.replace(' ', '-').replace('=', '')}.json"
    body_file.write_bytes(scenario.body(model))
    command = [
        "taskset",
        "-c",
        ",".join(map(str, sorted(cpus))),
        str(program),
        *("--mode", scenario.mode, "--host", "127.0.0.1", "--port", str(port)),
        *("--path", "/v1/chat/completions", "--body", str(body_file)),
        *("--header", f"authorization: Bearer {token}", "-c", str(scenario.connections)),
        *("-d", str(seconds), "--warmup", "0.3", "--timeout", "20"),
        *("--seq", str(next(_FIRST_NUMBERS))),
        *(word for header in scenario.headers for word in ("--header", header)),
    ]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=seconds + SLICE_GRACE_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise BenchError(f"bench: {scenario.name} hung for {error.timeout} s") from error
    if done.returncode != 0:
        raise BenchError(f"bench: the load generator failed: {done.stderr.strip()}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result
