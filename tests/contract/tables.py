"""Every case of the contract."""

from __future__ import annotations

from contract import (
    table_envelopes,
    table_inputs,
    table_listeners,
    table_management,
    table_outputs,
    table_routes,
    table_time,
    table_tokens,
    table_workflows,
)

CASES = (
    *table_routes.CASES,
    *table_inputs.CASES,
    *table_outputs.CASES,
    *table_management.CASES,
    *table_listeners.CASES,
    *table_time.CASES,
    *table_envelopes.CASES,
    *table_tokens.CASES,
    *table_workflows.CASES,
)
