"""How long a partition stands still when trainers join, leave and die.

    python -m tests.bench.rebalance [--rounds 5] [--partitions 4] [--log sqlite|kafka|both]

Events arrive all the time, and two trainers commit ten times a second. Milliseconds are
the longest time between two advances of a partition's committed offset, from the moment
of the change on: of the partition that had to wait longest, of the one in the middle, and
of the one that waited least, in all rounds. Partitions of a process that was killed
wait until its session has ended, which stands in the table. Without --kafka a broker
is started.
"""

from __future__ import annotations

import argparse
import itertools
import json
import signal
import statistics
import tempfile
import threading
import time
import uuid
from contextlib import ExitStack
from pathlib import Path

from stream_update.assemble import open_log
from stream_update.config import Config, load
from stream_update.errors import StreamUpdateError
from stream_update.events import Record
from stream_update.topics import create_topics
from tests.bench import logs
from tests.fault.witness import Offsets
from tests.programs import configure, elec2, start
from tests.warm import Started

RATE = 400
"""Events a second in each partition."""

SETTLE_S = 4.0
SESSION_MS = {"sqlite": 3_000, "kafka": 6_000}
CHANGES = ("none", "join", "leave", "kill")


class Feed(threading.Thread):
    """Appends events to all partitions at a steady rate."""

    def __init__(self, config: Config) -> None:
        super().__init__(daemon=True)
        self._config = config
        self.ended = threading.Event()

    def run(self) -> None:
        source = self._config.source
        values = itertools.cycle(json.dumps(event).encode() for event in elec2(5000))
        with open_log(self._config) as log, log.appender() as appender:
            while not self.ended.wait(0.05):
                appender.append(
                    Record(source.topic, next(values), partition=partition)
                    for partition in range(source.partitions)
                    for _ in range(RATE // 20)
                )
                appender.flush()


class Scene:
    """Two trainers on a log that grows."""

    def __init__(self, url: str, partitions: int, folder: Path) -> None:
        scheme = url.partition(":")[0]
        app = f"bench-{uuid.uuid4().hex[:8]}"
        if scheme == "sqlite":
            url += f"?session_timeout_ms={SESSION_MS[scheme]}"
        self._folder = folder
        self._path = configure(folder, url, app, partitions=partitions, checkpoint=10_000)
        text = self._path.read_text().replace("seconds = 5", "seconds = 0.1")
        self._path.write_text(text)
        self._config = load(self._path)
        self._trainers: list[Started] = []
        self._opened = ExitStack()
        self._log = self._opened.enter_context(open_log(self._config))
        create_topics(self._config, self._log)
        self._offsets = Offsets(self._config, self._log)
        self._opened.callback(self._offsets.close)
        self._feed = Feed(self._config)
        self._feed.start()
        self._watch(2, 0.0)

    def close(self) -> None:
        for trainer in self._trainers:
            trainer.kill()
            trainer.communicate()
        self._feed.ended.set()
        self._feed.join()
        self._opened.close()

    def _run(self) -> None:
        trainer = start("run", "-c", self._path, cwd=self._folder)
        self._trainers.append(trainer)

    def _watch(self, members: int, least_s: float) -> dict[int, float]:
        """The longest pause of each partition, until all have got on for a while."""
        while len(self._trainers) < members:
            self._run()
        began = time.monotonic()
        at: dict[int, int] = {}
        since = dict.fromkeys(range(self._config.source.partitions), began)
        longest = dict.fromkeys(since, 0.0)
        advances = dict.fromkeys(since, 0)
        while True:
            now = time.monotonic()
            try:
                found = {p: place.offset for p, place in self._offsets.read().items()}
            except StreamUpdateError:
                continue
            for partition, offset in found.items():
                if partition in at and offset > at[partition]:
                    longest[partition] = max(longest[partition], now - since[partition])
                    since[partition] = now
                    advances[partition] += 1
            at = {**at, **found}
            if min(advances.values()) >= 10 and now - began > max(least_s, SETTLE_S):
                return longest
            time.sleep(0.01)

    def change(self, what: str) -> dict[int, float]:
        """Do it, and measure; afterwards there are two trainers again."""
        if what == "join":
            self._run()
            longest = self._watch(3, 2 * SETTLE_S)
            self._end(signal.SIGTERM)
        elif what == "none":
            return self._watch(2, SETTLE_S)
        else:
            self._end(signal.SIGKILL if what == "kill" else signal.SIGTERM)
            longest = self._watch(1, 2 * SETTLE_S)
        self._watch(2, 2 * SETTLE_S)
        return longest

    def _end(self, number: int) -> None:
        trainer = self._trainers.pop(0)
        trainer.send_signal(number)
        threading.Thread(target=trainer.communicate, daemon=True).start()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--partitions", type=int, default=4)
    logs.add_options(parser)
    options = parser.parse_args()
    print(f"{'log':<8}{'session':>9}{'change':>8}{'worst':>9}{'median':>9}{'least':>9}")
    with tempfile.TemporaryDirectory() as name, ExitStack() as opened:
        folder = Path(name)
        for url in logs.addresses(options, folder, opened):
            scheme = url.partition(":")[0]
            scene = Scene(url, options.partitions, folder)
            try:
                for what in CHANGES:
                    rounds = [scene.change(what) for _ in range(options.rounds)]
                    pauses = [pause * 1000 for one in rounds for pause in one.values()]
                    print(
                        f"{scheme:<8}{SESSION_MS[scheme]:>9,}{what:>8}{max(pauses):>9,.0f}"
                        f"{statistics.median(pauses):>9,.0f}{min(pauses):>9,.0f}",
                        flush=True,
                    )
            finally:
                scene.close()


if __name__ == "__main__":
    main()
