"""`python -m helpers.practice`: the practice API as a process, as `workbook practice-api` is."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading
from pathlib import Path


def options(argv: list[str]) -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(
        prog="workbook practice-api", description="A fine-tuning API on this machine."
    )
    parser.add_argument("--port", type=int, default=8099, help="0: any free one")
    parser.add_argument(
        "--mode",
        choices=("spec", "live"),
        default="spec",
        help="live: with the traps of real providers",
    )
    parser.add_argument(
        "--model",
        choices=("embedded", "tiny"),
        default="embedded",
        help="the model behind every name",
    )
    parser.add_argument(
        "--scenario", default="ok", metavar="NAME", help="what goes wrong; GET / lists the names"
    )
    parser.add_argument(
        "--state",
        type=Path,
        metavar="DIR",
        help="where files and jobs live (default: practice/ in the home)",
    )
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen at")
    parser.add_argument(
        "--anywhere", action="store_true", help="allow an address that other machines can reach"
    )
    parser.add_argument(
        "--speed",
        type=float,
        default=1.0,
        help="how many of its seconds pass in one (waiting only)",
    )
    parser.add_argument("--with-parent", action="store_true", help="end when stdin closes")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    """Serve until a signal comes, or the parent has gone."""
    args = options(argv)
    from helpers import models, processes, store
    from helpers.records import WorkbookError

    os.environ.update(models.offline_env())
    from helpers.practice.endpoints import Settings
    from helpers.practice.server import serve
    from helpers.practice.storage import Clock

    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    if args.with_parent:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupted cell is no reason to go
        threading.Thread(target=processes.end_with_parent, daemon=True).start()
    settings = Settings(args.mode, args.model, args.scenario)
    folder = args.state or store.home() / "practice"
    clock = Clock(args.speed)
    try:
        with serve(folder, args.port, settings, clock, args.host, args.anywhere) as server:
            sys.stdout.write(
                f"practice API ({args.mode} mode, {args.model} model, {args.scenario}) at"
                f" {server.url}\n"
            )
            sys.stdout.flush()
            with contextlib.suppress(KeyboardInterrupt):
                stop.wait()
    except WorkbookError as error:
        sys.stderr.write(f"practice-api: {store.redact(str(error))}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
