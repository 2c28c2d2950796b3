"""The program ``stream-update``, which ``python -m stream_update`` is too."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """The entry point."""
    _pin_hash_seed()
    # What it needs takes a second or two to import, which a process that is about to be
    # replaced should not spend.
    from stream_update.cli import main as run  # noqa: PLC0415

    run()


def _pin_hash_seed() -> None:
    """A set of names has an order that depends on this seed, and some models walk one:
    with another seed in each process, a restored model would go another way.
    """
    if "PYTHONHASHSEED" not in os.environ:
        environment = {**os.environ, "PYTHONHASHSEED": "0"}
        os.execve(  # noqa: S606 - this program again
            sys.executable, [sys.executable, "-m", "stream_update", *sys.argv[1:]], environment
        )


if __name__ == "__main__":
    main()
