"""Every hostile checkpoint, and how one is judged: what the report and the tests run."""

from __future__ import annotations

from postval_assets_tests.hostile import (
    code_cases,
    container_cases,
    cost_cases,
    field_cases,
    format_cases,
    instruction_cases,
    tensor_cases,
    weight_cases,
)
from postval_assets_tests.hostile.cases import Suite
from postval_assets_tests.hostile.checkpoint_runs import judge

CASES = [
    *code_cases.CASES,
    *instruction_cases.CASES,
    *format_cases.CASES,
    *container_cases.CASES,
    *tensor_cases.CASES,
    *weight_cases.CASES,
    *field_cases.CASES,
    *cost_cases.CASES,
]
SUITE = Suite(CASES, judge)
