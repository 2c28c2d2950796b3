from __future__ import annotations

import threading

import pytest

from stream_update.log.watchdog import Call, Overdue, Watchdog


def test_it_returns_what_the_job_returns_and_raises_what_it_raises() -> None:
    watchdog = Watchdog("test")

    def fail(call: Call[int]) -> int:
        raise KeyError("x")

    assert watchdog.start(lambda _: 3).result() == 3
    with pytest.raises(KeyError):
        watchdog.start(fail).result()
    assert watchdog.start(lambda _: 4).result() == 4
    watchdog.close()


def test_a_step_that_does_not_end_is_named() -> None:
    watchdog, release = Watchdog("test"), threading.Event()

    def hang(call: Call[None]) -> None:
        call.step("quick", 60)
        call.step("slow", 0.05)
        release.wait()

    with pytest.raises(Overdue, match=r"slow did not end within 0\.05 s"):
        watchdog.start(hang).result()
    release.set()
    assert watchdog.start(lambda _: 5).result() == 5
    watchdog.close()


def test_each_step_has_its_own_limit() -> None:
    watchdog = Watchdog("test")

    def many(call: Call[int]) -> int:
        pause = threading.Event()
        for step in range(8):
            call.step(f"step {step}", 5)
            pause.wait(0.01)
        return 8

    assert watchdog.start(many).result() == 8
    watchdog.close()


def test_its_thread_ends_and_does_not_keep_the_process() -> None:
    watchdog = Watchdog("test")
    thread = watchdog.start(lambda _: threading.current_thread()).result()
    assert thread.daemon
    watchdog.close()
    thread.join(10)
    assert not thread.is_alive()
    Watchdog("never used").close()
