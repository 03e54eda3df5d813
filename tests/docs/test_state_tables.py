"""The pages on states and failures are what the code says today."""

from __future__ import annotations

import ast
import re

import pytest

from airflow_provider_csc import errors
from airflow_provider_csc.slurm.failures import FailureReason, failure_of
from airflow_provider_csc.slurm.policy import Fail, Resubmit, SlurmRetryPolicy
from airflow_provider_csc.slurm.result import JobResult
from tests.support.state_tables import EXAMPLES, PAGE, example, render

GUIDE = PAGE.with_name("failures.md").read_text()


def test_the_page_is_up_to_date() -> None:
    assert render() == PAGE.read_text(), "run: python -m tests.support.state_tables"


@pytest.mark.parametrize("reason", EXAMPLES)
def test_the_example_of_a_failure_is_one(reason: FailureReason) -> None:
    assert failure_of(example(reason)) is reason


def test_the_page_leaves_no_failure_out() -> None:
    """A refused request has no job; refusals have a table of their own."""
    assert set(EXAMPLES) == set(FailureReason) - {FailureReason.REJECTED}


def example_policy() -> SlurmRetryPolicy:
    """The policy that the guide shows."""
    blocks = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    calls = [node for block in blocks for node in ast.walk(ast.parse(block))]
    (found,) = [
        node
        for node in calls
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "SlurmRetryPolicy"
    ]
    return SlurmRetryPolicy(
        **{each.arg: ast.literal_eval(each.value) for each in found.keywords if each.arg}
    )


def test_the_guides_story_of_memory_is_true() -> None:
    """16, 24, 36 GiB, and then the end; the line of the log that it shows is printed so."""
    policy, options, asked = example_policy(), {"mem": "16G"}, []
    peak = round(15.2 * 2**30)
    result = JobResult(job_id="1", state="OUT_OF_MEMORY", memory_bytes=peak)
    action = policy.decide(FailureReason.OUT_OF_MEMORY, result, options=options)
    assert isinstance(action, Resubmit)
    assert action.why in GUIDE
    while isinstance(action, Resubmit):
        options |= action.options
        asked.append(options["mem"])
        action = policy.decide(FailureReason.OUT_OF_MEMORY, result, action.history, options=options)
    assert asked == ["24G", "36G"]
    assert isinstance(action, Fail)


def test_the_guides_story_of_time_is_true() -> None:
    result = JobResult(job_id="1", state="TIMEOUT")
    action = example_policy().decide(FailureReason.TIME_LIMIT, result, options={"time": "04:00:00"})
    assert isinstance(action, Resubmit)
    assert action.options == {"time": "0-08:00:00"}


def test_every_class_that_the_guide_names_exists() -> None:
    names = set(re.findall(r"\bJob\w+Error\b", GUIDE))
    assert names
    assert all(hasattr(errors, name) for name in names)
