"""Fixtures that every test may use, and what the run says about Kafka when it ends.

``kafka_bootstrap`` is the address of a real broker, shared by all workers of the run:
that of ``STREAM_UPDATE_KAFKA``, else one that is started when the first test asks
(see :mod:`tests.broker`). ``private_broker`` is a broker for one test, to be frozen or
killed. Tests that use one of them are marked ``kafka``; parametrised ones mark the
parameter: ``pytest.param("kafka", marks=pytest.mark.kafka)``.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests import broker

# A slow machine is no failure. What is not named is as before, which in CI is Hypothesis's own.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
settings.register_profile("long", max_examples=10_000)

FOLDER = pytest.StashKey[Path]()
OWNER = pytest.StashKey[int]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "kafka: needs a real Kafka broker")
    config.addinivalue_line("markers", "slow: takes longer than a few seconds")
    # kafka-python reads its protocol schemas in a way that Python 3.11 and 3.12 dislike.
    config.addinivalue_line(
        "filterwarnings", "ignore:(read|open)_text is deprecated:DeprecationWarning"
    )
    # And it does not close a socket that was refused, which is one without a peer's address.
    config.addinivalue_line(
        "filterwarnings",
        r"ignore:Exception ignored in. <(socket\.socket|ssl\.SSLSocket) .*proto=6, laddr=\([^)]*\)>"
        ":pytest.PytestUnraisableExceptionWarning",
    )
    given = getattr(config, "workerinput", None)
    if given is None:
        config.stash[FOLDER] = Path(tempfile.mkdtemp(prefix="stream-update-run-"))
        config.stash[OWNER] = os.getpid()
    else:
        config.stash[FOLDER] = Path(given["kafka_folder"])
        config.stash[OWNER] = given["kafka_owner"]


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: object) -> None:
    """Tell a worker of pytest-xdist where the run's broker is noted."""
    config: pytest.Config = node.config  # type: ignore[attr-defined]
    node.workerinput["kafka_folder"] = str(config.stash[FOLDER])  # type: ignore[attr-defined]
    node.workerinput["kafka_owner"] = config.stash[OWNER]  # type: ignore[attr-defined]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Two for each core: half of the time a test waits, mostly for sessions to end."""
    return 2 * (os.cpu_count() or 1)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if {"kafka_bootstrap", "private_broker"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.kafka)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workerinput"):
        return
    broker.stop_shared(session.config.stash[FOLDER])
    if unavailable(session.config) and os.environ.get("CI") == "true":
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    reason = unavailable(config)
    if reason:
        failed = os.environ.get("CI") == "true"
        terminalreporter.section("Kafka", red=failed, yellow=not failed)
        terminalreporter.line("The tests against a real Kafka broker were SKIPPED: " + reason)
        terminalreporter.line(
            "To run them: install Java 17 and Maven, or start a broker and set "
            "STREAM_UPDATE_KAFKA=host:port."
        )
        if failed:
            terminalreporter.line("CI=true: this run counts as failed.")


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput") and FOLDER in config.stash:
        shutil.rmtree(config.stash[FOLDER], ignore_errors=True)


def unavailable(config: pytest.Config) -> str:
    """Why there was no broker, or nothing."""
    note = config.stash[FOLDER] / "unavailable"
    return note.read_text() if note.exists() else ""


@pytest.fixture(scope="session")
def kafka_bootstrap(pytestconfig: pytest.Config) -> str:
    """``host:port`` of a broker that all tests of the run share: use names of your own."""
    given = os.environ.get("STREAM_UPDATE_KAFKA")
    if given:
        return given
    try:
        return broker.shared(pytestconfig.stash[FOLDER], pytestconfig.stash[OWNER])
    except broker.Unavailable as error:
        pytest.skip(f"no Kafka broker: {error}")


@pytest.fixture
def private_broker(pytestconfig: pytest.Config) -> Iterator[broker.Broker]:
    """A broker for this test alone, to be frozen or killed."""
    try:
        own = broker.Broker()
        own.__enter__()
    except broker.Unavailable as error:
        (pytestconfig.stash[FOLDER] / "unavailable").write_text(str(error))
        pytest.skip(f"no Kafka broker: {error}")
    try:
        yield own
    finally:
        own.stop()
