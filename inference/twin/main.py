"""``python -m inference.twin.main``: serves the deterministic SGLang twin over TCP.

    python -m inference.twin.main --port 30000 --model smollm2 --tokens-per-s 200 --truth truth.jsonl

Port 0 takes a free one. The first line on standard output says where it listens.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import orjson
import uvloop

from gateway.contract.clock import SystemClock
from gateway.telemetry.log import logger
from inference.twin.http import Connection, OpenConnections
from inference.twin.intake import Intake, Settings
from inference.twin.script import BadScript, Script, rules
from inference.twin.service import Service
from inference.twin.truth import Truth

CLOSE_WAIT_S: Final = 1.0
"""For the last bytes to leave after the drain."""


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="twin", description="A deterministic SGLang twin.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", action="append", help="served name; may be repeated (default: twin)")
    parser.add_argument("--seed", type=int, default=0, help="part of every answer's identity")
    parser.add_argument("--tokens-per-s", type=float, default=400.0, help="per stream; 0: no pauses")
    parser.add_argument("--ttft-ms", type=float, default=5.0, help="time to the first token")
    parser.add_argument("--answer-tokens", default="8-64", metavar="MIN-MAX", help="length of answers")
    parser.add_argument("--context", type=int, default=8192, help="the model's length in tokens")
    parser.add_argument("--max-running", type=int, default=2048)
    parser.add_argument("--max-queued", type=int, default=None, help="default: no limit")
    parser.add_argument("--health-ms", type=float, default=1000.0, help="what GET /health takes")
    parser.add_argument(
        "--notice-ms", type=float, default=0.0, help="until it sees that a client left (not streamed)"
    )
    parser.add_argument("--serves", choices=("both", "generation", "embeddings"), default="both")
    parser.add_argument("--truth", type=Path, help="append a record of every attempt to this file")
    parser.add_argument("--script", type=Path, help="JSON list of fault rules")
    return parser.parse_args(argv)


def _settings(arguments: argparse.Namespace) -> Settings:
    shortest, _, longest = arguments.answer_tokens.partition("-")
    return Settings(
        models=tuple(arguments.model or ("twin",)),
        seed=arguments.seed,
        tokens_per_s=arguments.tokens_per_s,
        ttft_ms=arguments.ttft_ms,
        max_running=arguments.max_running,
        max_queued=arguments.max_queued,
        context=arguments.context,
        natural=(int(shortest), int(longest or shortest)),
        health_ms=arguments.health_ms,
        notice_ms=arguments.notice_ms,
        serves=arguments.serves,
    )


async def serve(arguments: argparse.Namespace) -> None:
    """Serves until SIGTERM and the end of what runs; a second signal ends at once."""
    log, clock, loop = logger("twin"), SystemClock(), asyncio.get_running_loop()
    settings = _settings(arguments)
    script = Script(rules(orjson.loads(arguments.script.read_bytes())) if arguments.script else [])
    truth = Truth(arguments.truth, clock)
    intake = Intake(settings=settings, clock=clock, truth=truth, script=script)
    service = Service(intake)
    connections = OpenConnections()
    server = await loop.create_server(
        lambda: Connection(service.handle, clock, connections),
        arguments.host,
        arguments.port,
        backlog=4096,
    )
    signals = 0

    def stop() -> None:
        nonlocal signals
        signals += 1
        intake.drain()
        if signals > 1:
            intake.drained.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    port = server.sockets[0].getsockname()[1]
    log.info("twin.listening", host=arguments.host, port=port, model=",".join(settings.models))
    await intake.drained.wait()
    server.close()
    await connections.close(CLOSE_WAIT_S)
    truth.close()
    log.info("twin.stopped")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 after a drain, 1 when it cannot start."""
    arguments = _arguments(argv)
    try:
        uvloop.run(serve(arguments))
    except (OSError, BadScript, ValueError) as error:
        print(f"twin: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
