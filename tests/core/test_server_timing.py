"""The value of Server-Timing."""

from __future__ import annotations

import pytest

from flambeau.frontend.jobs import Outcome
from flambeau.frontend.server_timing import timing_of, total_only


@pytest.mark.parametrize(
    ("outcome", "text"),
    [
        (
            Outcome(queued=0.0012345, batched=0.02, handled=0.019, total=0.0225),
            "queue;dur=1.234, batch;dur=20.000, handler;dur=19.000, total;dur=22.500",
        ),
        (Outcome(queued=0.5, batched=0.1, total=0.6), "queue;dur=500.000, batch;dur=100.000, "),
        (Outcome(queued=0.5, total=0.6), "queue;dur=500.000, total;dur=600.000"),
        (Outcome(total=0.25), "total;dur=250.000"),
    ],
)
def test_only_what_is_known_is_said(outcome, text):
    assert timing_of(outcome).startswith(text)
    assert timing_of(outcome).endswith(total_only(outcome.total))
