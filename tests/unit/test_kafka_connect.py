from __future__ import annotations

import logging
from typing import Any

import pytest
from kafka.coordinator.assignors.range import RangePartitionAssignor

from stream_update.errors import ConfigError
from stream_update.log.kafka.connect import OWNED, Connect, bootstrap_servers

URL = "kafka://127.0.0.1:9092"


@pytest.mark.parametrize(
    ("url", "servers"),
    [
        (URL, ["127.0.0.1:9092"]),
        ("kafka://one:1,two:2", ["one:1", "two:2"]),
        ("kafka://one,two:2/", ["one:9092", "two:2"]),
        ("kafka://[::1]:9093", ["[::1]:9093"]),
        ("kafka://[::1]", ["[::1]:9092"]),
    ],
)
def test_addresses(url: str, servers: list[str]) -> None:
    assert bootstrap_servers(url) == servers


@pytest.mark.parametrize(
    "url",
    [
        "kafka://",
        "sqlite:///x",
        "kafka://one:port",
        "kafka://one:0",
        "kafka://one:65536",
        "kafka://:9092",
        "kafka://one:9092,",
        "kafka://user:secret@one:9092",
        "kafka://one:9092/topic",
        "kafka://one:9092?acks=1",
    ],
)
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(ConfigError) as error:
        bootstrap_servers(url)
    assert "kafka://127.0.0.1:9092" in error.value.hint


@pytest.mark.parametrize(
    ("kind", "option", "hint"),
    [
        ("client", "sasl.mechanism", "did you mean sasl_mechanism"),
        ("client", "session_timeout_ms", "[kafka.consumer]"),
        ("client", "linger_ms", "[kafka.producer]"),
        ("consumer", "linger_ms", "[kafka.producer]"),
        ("producer", "session_timeout_ms", "[kafka.consumer]"),
        ("consumer", "fetch_max_byte", "did you mean fetch_max_bytes"),
        ("producer", "zzz", "kafka-python"),
    ],
)
def test_an_unknown_option_is_named(kind: str, option: str, hint: str) -> None:
    given: dict[str, dict[str, Any]] = {"client": {}, "consumer": {}, "producer": {}}
    given[kind][option] = 1
    with pytest.raises(ConfigError, match=f"{kind} option {option} does not exist") as error:
        Connect(URL, **given)
    assert hint in error.value.hint


@pytest.mark.parametrize("option", sorted(OWNED))
def test_an_option_that_is_ours_says_why(option: str) -> None:
    for kind in ("client", "consumer", "producer"):
        given: dict[str, dict[str, Any]] = {"client": {}, "consumer": {}, "producer": {}}
        given[kind][option] = 1
        with pytest.raises(ConfigError, match=f"{option} cannot be set: {OWNED[option]}"):
            Connect(URL, **given)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"security_protocol": "ssl"}, "'ssl' is none"),
        ({"ssl_cafile": "ca.pem"}, "ssl_cafile is set, but security_protocol is PLAINTEXT"),
        ({"security_protocol": "SSL", "sasl_mechanism": "PLAIN"}, "sasl_mechanism is set"),
        ({"security_protocol": "SASL_PLAINTEXT", "ssl_cafile": "ca.pem"}, "ssl_cafile is set"),
    ],
)
def test_credentials_are_never_dropped_in_silence(options: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Connect(URL, options, {}, {})


def test_a_secured_connection_takes_its_options() -> None:
    options = {"security_protocol": "SASL_SSL", "ssl_cafile": "ca.pem", "sasl_mechanism": "PLAIN"}
    assert Connect(URL, options, {}, {}).max_request_size == 1024 * 1024


@pytest.mark.parametrize(
    ("consumer", "heartbeat"),
    [
        ({}, 1_000),
        ({"session_timeout_ms": 2_000}, 500),
        ({"session_timeout_ms": 2_000, "heartbeat_interval_ms": 7}, 7),
    ],
)
def test_the_heartbeat_fits_the_session(consumer: dict[str, int], heartbeat: int) -> None:
    connect = Connect(URL, {}, consumer, {})
    assert connect._consumer["heartbeat_interval_ms"] == heartbeat


def test_options_of_one_kind_go_before_those_of_all() -> None:
    connect = Connect(
        URL, {"request_timeout_ms": 1, "bootstrap_timeout_ms": 2}, {"request_timeout_ms": 300}, {}
    )
    assert connect._consumer["request_timeout_ms"] == 300
    assert connect._producer["request_timeout_ms"] == 1
    assert connect._admin["request_timeout_ms"] == 1
    assert connect._admin["bootstrap_timeout_ms"] == 2


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (None, ["cooperative-sticky"]),
        ("range", ["range"]),
        (["roundrobin", "sticky"], ["roundrobin", "sticky"]),
        ([RangePartitionAssignor], ["range"]),
        ([RangePartitionAssignor()], ["range"]),
    ],
)
def test_assignors_by_name_or_class(given: Any, names: list[str]) -> None:
    consumer = {} if given is None else {"partition_assignment_strategy": given}
    connect = Connect(URL, {}, consumer, {})
    assert [assignor.name for assignor in connect.assignors()] == names
    assert connect.chose_assignors() is (given is not None)


def test_an_unknown_assignor_is_named() -> None:
    connect = Connect(URL, {}, {"partition_assignment_strategy": ["best"]}, {})
    with pytest.raises(ConfigError, match="there is no 'best'") as error:
        connect.assignors()
    assert "cooperative-sticky" in error.value.hint


def test_whoever_set_the_level_of_the_clients_log_keeps_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logger = logging.getLogger("kafka")
    monkeypatch.setattr(logger, "level", logging.DEBUG)
    Connect(URL, {}, {}, {})
    assert logger.level == logging.DEBUG
    monkeypatch.setattr(logger, "level", logging.NOTSET)
    Connect(URL, {}, {}, {})
    assert logger.level == logging.CRITICAL


@pytest.mark.parametrize(
    ("kind", "options", "hint"),
    [
        (
            "consumer",
            {"session_timeout_ms": 6000, "heartbeat_interval_ms": 2001},
            "session_timeout_ms has to be at least 3 times heartbeat_interval_ms",
        ),
        (
            "consumer",
            {"fetch_max_wait_ms": 40_000, "request_timeout_ms": 30_000},
            "request_timeout",
        ),
        ("producer", {"request_timeout_ms": 12_001}, "delivery_timeout_ms has to be at least"),
        ("producer", {"delivery_timeout_ms": 15_001}, "transaction_timeout_ms has to be at least"),
        ("producer", {"transaction_timeout_ms": 60_001}, "at most 60000"),
    ],
)
def test_timeouts_have_to_fit_into_one_another(
    kind: str, options: dict[str, int], hint: str
) -> None:
    tables: dict[str, dict[str, int]] = {"consumer": {}, "producer": {}, kind: options}
    with pytest.raises(ConfigError, match=next(iter(options))) as error:
        Connect(URL, {}, tables["consumer"], tables["producer"])
    assert hint in error.value.hint


def test_timeouts_that_just_fit() -> None:
    Connect(
        URL,
        {},
        {"session_timeout_ms": 6000, "heartbeat_interval_ms": 2000},
        {"delivery_timeout_ms": 15_000},
    )
