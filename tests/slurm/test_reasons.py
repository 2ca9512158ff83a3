"""Slurm's pending reasons in plain words, by themselves and by the parts that its limits' names are made of."""

from __future__ import annotations

import pytest

from nano_exp.report.next_step import BLOCKED
from nano_exp.slurm.reasons import REASONS, in_words


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("Priority", "others in the queue come first (Priority)"),
        ("ReqNodeNotAvail, UnavailableNodes:gpu[01-03]", "a node that it needs is not available: gpu[01-03] (ReqNo"),
        ("QOSMaxJobsPerUserLimit", "its QOS is at its limit of jobs for one user (QOSMaxJobsPerUserLimit)"),
        ("AssocGrpGRESRunMinutes", "its account is at its limit of GPUs x minutes (AssocGrpGRESRunMinutes)"),
        ("AssocMaxWallDurationPerJobLimit", "asks for more time a job than its account gives (Assoc"),
        ("QOSMinGRES", "asks for fewer GPUs than its QOS wants (QOSMinGRES)"),
        ("MaxGRESPerAccount", "its QOS is at its limit of GPUs for one account (MaxGRESPerAccount)"),
        (
            "Nodes_required_for_job_are_DOWN,_DRAINED_or_reserved_for_others",
            "the nodes that it needs are down, drained",
        ),
        ("launch_failed_requeued_held", "launch failed requeued held"),
    ],
)
def test_a_reason_is_said_in_plain_words_with_slurms_own(reason: str, words: str) -> None:
    assert in_words(reason).startswith(words)


@pytest.mark.parametrize("word", ["SomethingNew", "Limit", "starts again: time limit, with steps left", ""])
def test_what_is_not_known_stays_as_it_is(word: str) -> None:
    assert in_words(word) == word


def test_whatever_keeps_a_job_from_starting_has_words() -> None:
    assert {reason for reason in BLOCKED if " " not in reason} <= REASONS.keys()
