"""A real Kafka broker for the tests, started and stopped by the tests themselves.

By hand, to look at something or to run many test sessions against one broker::

    python -m tests.broker start            # prints the address, stops with Ctrl-C
    export STREAM_UPDATE_KAFKA=127.0.0.1:9092   # what it printed; the tests use it
    python -m tests.broker jars             # only fetch what is needed (for a CI cache)

The broker is Apache Kafka in KRaft mode, one node, from Maven Central: Java 17 or
newer and ``mvn`` are needed, 54 MB are kept in ``~/.cache/stream_update/kafka-4.3.1``
(``STREAM_UPDATE_KAFKA_HOME`` names another folder).
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import fcntl
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Self

__all__ = ["Broker", "Unavailable", "jars", "shared", "stop_shared"]

VERSION = "4.3.1"
JAVA = 17

USER, PASSWORD = "tester", "not-secret"

# Without the xmlns line: Maven needs no schema address to read it.
POM = f"""<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>stream-update</groupId>
  <artifactId>test-broker</artifactId>
  <version>1</version>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId>
      <artifactId>kafka_2.13</artifactId>
      <version>{VERSION}</version>
    </dependency>
    <dependency>
      <groupId>org.apache.kafka</groupId>
      <artifactId>kafka-tools</artifactId>
      <version>{VERSION}</version>
    </dependency>
    <dependency>
      <groupId>org.slf4j</groupId>
      <artifactId>slf4j-simple</artifactId>
      <version>1.7.36</version>
    </dependency>
  </dependencies>
</project>
"""

SETTINGS = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    "listener.security.protocol.map": (
        "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL:SASL_PLAINTEXT"
    ),
    "sasl.enabled.mechanisms": "PLAIN",
    "listener.name.sasl.plain.sasl.jaas.config": (
        "org.apache.kafka.common.security.plain.PlainLoginModule required "
        f'user_{USER}="{PASSWORD}";'
    ),
    "auto.create.topics.enable": "false",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    "log.cleaner.dedupe.buffer.size": "16777216",
}
"""One node, no waiting for others, and few partitions for the broker's own topics.

Beside the open listener there is one for :data:`USER` with :data:`PASSWORD`.
"""


class Unavailable(Exception):
    """There is no way to run a broker on this machine; says why and what to do."""


def home() -> Path:
    """Where the broker's jars are kept."""
    given = os.environ.get("STREAM_UPDATE_KAFKA_HOME")
    return Path(given) if given else Path.home() / ".cache" / "stream_update" / f"kafka-{VERSION}"


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock between processes; it ends with the process at the latest."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def java() -> str:
    """The Java to run the broker with."""
    own = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=f"{own}/bin") if own else shutil.which("java")
    if found is None:
        raise Unavailable(f"no java found; install a Java {JAVA} runtime")
    text = subprocess.run(
        [found, "-version"], capture_output=True, text=True, timeout=60, check=False
    ).stderr
    version = re.search(r'version "(\d+)', text)
    if version is None or int(version[1]) < JAVA:
        raise Unavailable(f"{found} is too old ({text.strip()[:80]}); Java {JAVA} is needed")
    return found


def jars() -> Path:
    """The folder with the broker's jars; fetches them the first time.

    Safe when several processes ask at once, and after a fetch that broke off.
    """
    folder = home()
    libs, complete = folder / "libs", folder / "complete"
    with locked(folder / "lock"):
        if complete.exists() and complete.read_text() == POM:
            return libs
        maven = shutil.which("mvn")
        if maven is None:
            raise Unavailable(f"no mvn found to fetch Kafka {VERSION}; install Maven")
        complete.unlink(missing_ok=True)
        shutil.rmtree(libs, ignore_errors=True)
        (folder / "pom.xml").write_text(POM)
        done = subprocess.run(
            [
                *(maven, "-q", "-B", "-f", str(folder / "pom.xml")),
                *("dependency:copy-dependencies", f"-DoutputDirectory={libs}"),
                "-DincludeScope=runtime",
            ],
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        if done.returncode != 0:
            lines = [line for line in done.stdout.splitlines() if "[ERROR]" in line]
            reason = lines[0][:300] if lines else done.stderr.strip()[-300:]
            raise Unavailable(f"mvn could not fetch Kafka {VERSION}: {reason}")
        complete.write_text(POM)
        return libs


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Broker:
    """One broker with its own data folder; a context manager.

    ``port`` 0 takes a free one. ``settings`` are the broker's own options, added to
    or replacing :data:`SETTINGS`. :meth:`kill` and :meth:`start` keep address and data.
    """

    def __init__(self, port: int = 0, settings: Mapping[str, str] | None = None) -> None:
        self._given = port
        self.port = port
        self._secured_port = 0
        self._settings = {**SETTINGS, **(settings or {})}
        self.folder = Path(tempfile.mkdtemp(prefix="stream-update-kafka-"))
        self.log = self.folder / "broker.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._command: list[str] = []

    @property
    def bootstrap(self) -> str:
        """The address to give to clients."""
        return f"127.0.0.1:{self.port}"

    @property
    def secured(self) -> str:
        """The address of the listener that asks for a password."""
        return f"127.0.0.1:{self._secured_port}"

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start, or start again after :meth:`kill`; returns when clients can connect."""
        if self._command:
            self._launch()
            return
        # A free port can be taken by somebody else before the broker binds it.
        for attempt in range(3):
            self._format()
            try:
                self._launch()
                return
            except Unavailable:
                if self._given or attempt == 2 or "BindException" not in self._tail():
                    raise
                self.kill()

    def stop(self) -> None:
        """Stop in good order, and remove the data."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
            try:
                self._process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self.kill()
            self._process = None
        shutil.rmtree(self.folder, ignore_errors=True)

    def kill(self) -> None:
        """End it as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Let it hang, connections and all, until :meth:`thaw`."""
        os.waitpid(self._signal(signal.SIGSTOP), os.WUNTRACED)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def poll(self) -> int | None:
        """The exit status of the broker if it has ended."""
        return None if self._process is None else self._process.poll()

    def _signal(self, number: int) -> int:
        if self._process is None:
            raise RuntimeError("the broker is not running")
        self._process.send_signal(number)
        return self._process.pid

    def _format(self) -> None:
        self.port = self._given or free_port()
        self._secured_port, controller = free_port(), free_port()
        opened = f"PLAINTEXT://127.0.0.1:{self.port},SASL://127.0.0.1:{self._secured_port}"
        data, file = self.folder / "data", self.folder / "server.properties"
        shutil.rmtree(data, ignore_errors=True)
        settings = {
            "listeners": f"{opened},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": opened,
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            "log.dirs": str(data),
            **self._settings,
        }
        file.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
        run = [
            *(java(), "-Xmx768m", "-XX:+UseSerialGC", "-XX:-UsePerfData"),
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            *("-cp", f"{jars()}/*"),
        ]
        first, *rest = uuid.uuid4().bytes
        # Without the highest bit it cannot begin with a hyphen, as options do.
        identity = base64.urlsafe_b64encode(bytes([first & 0x7F, *rest])).decode().rstrip("=")
        with self.log.open("ab") as log:
            formatted = subprocess.run(
                [*run, "kafka.tools.StorageTool", "format", "-t", identity, "-c", str(file)],
                stdout=log,
                stderr=log,
                timeout=60,
                check=False,
            )
        if formatted.returncode != 0:
            raise Unavailable(f"the data folder could not be made: {self._tail()}")
        self._command = [*run, "kafka.Kafka", str(file)]

    def _launch(self, timeout_s: float = 60.0) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise Unavailable(f"the broker ended at once: {self._tail()}")
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", self.port), timeout=1),
            ):
                return
            time.sleep(0.05)
        raise Unavailable(f"the broker was not up after {timeout_s:.0f} s: {self._tail()}")

    def _tail(self) -> str:
        return self.log.read_text(errors="replace")[-1000:].strip()


def shared(folder: Path, owner: int) -> str:
    """The address of the one broker of a test run, started by whoever asks first.

    ``folder`` belongs to the run; ``owner`` is the process with whose end the
    broker ends too. The broker hangs on a process of its own, so it outlives the test
    worker that started it.
    """
    address, refusal = folder / "address", folder / "unavailable"
    with locked(folder / "lock"):
        if address.exists():
            return address.read_text()
        if refusal.exists():
            raise Unavailable(refusal.read_text())
        try:
            java()
            jars()
            command = [sys.executable, "-m", "tests.broker", "start", "--owner", str(owner)]
            with (folder / "keeper.log").open("wb") as log:
                keeper = subprocess.Popen(
                    [*command, "--address-file", str(address)],
                    cwd=Path(__file__).parent.parent,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            (folder / "keeper").write_text(str(keeper.pid))
            while not address.exists():
                if keeper.poll() is not None:
                    raise Unavailable((folder / "keeper.log").read_text()[-1000:].strip())
                time.sleep(0.05)
        except Unavailable as error:
            refusal.write_text(str(error))
            raise
        # Never waited for here: it ends in stop_shared(), maybe after this process.
        keeper.returncode = 0
        return address.read_text()


def stop_shared(folder: Path) -> None:
    """Stop the broker of :func:`shared`, if there is one, and wait until it is gone."""
    address, keeper = folder / "address", folder / "keeper"
    if not address.exists():
        return
    os.kill(int(keeper.read_text()), signal.SIGTERM)
    deadline = time.monotonic() + 30
    while address.exists() and time.monotonic() < deadline:
        time.sleep(0.05)


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def keep(port: int, address_file: Path | None, owner: int | None) -> None:
    """Run a broker until SIGTERM, Ctrl-C, its own end, or the end of ``owner``."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        with Broker(port) as broker:
            print(broker.bootstrap, flush=True)
            if address_file is not None:
                partial = address_file.with_suffix(".partial")
                partial.write_text(broker.bootstrap)
                partial.rename(address_file)
            while broker.poll() is None and (owner is None or alive(owner)):
                time.sleep(0.2)
    except KeyboardInterrupt:
        pass
    finally:
        if address_file is not None:
            address_file.unlink(missing_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.broker",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    start = commands.add_parser("start", help="run a broker in the foreground")
    start.add_argument("--port", type=int, default=0, help="default: a free one")
    start.add_argument("--address-file", type=Path, help="write the address here when it is up")
    start.add_argument("--owner", type=int, help="end when this process ends")
    commands.add_parser("jars", help="fetch the broker's jars and print where they are")
    given = parser.parse_args()
    try:
        if given.command == "jars":
            print(jars())
        else:
            keep(given.port, given.address_file, given.owner)
    except Unavailable as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
