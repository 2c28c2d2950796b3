"""Hypothesis looks for an order of events and faults after which an invariant does not hold.

``--hypothesis-profile=long`` looks for an hour or so; a failure is shrunk, which takes minutes.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

from tests.model import machine

pytestmark = [pytest.mark.fault, pytest.mark.slow, pytest.mark.timeout(0)]

SEARCH = settings(
    max_examples=2 * settings().max_examples,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)

TestPerPartition = machine.PerPartition.TestCase
TestPerPartition.settings = SEARCH

TestOverAll = machine.OverAll.TestCase
TestOverAll.settings = SEARCH
