"""docs/results.md: ten questions, each answered by one command; every line that it shows is what is printed."""

from __future__ import annotations

from pathlib import Path

import pytest
from results_page import PAGE, commands, printed


@pytest.mark.parametrize(("command", "shown"), list(commands(PAGE.read_text())))
def test_a_question_is_answered_as_the_page_shows(command: str, shown: str, store: Path, slurm: None) -> None:
    assert printed(command, store.parent) == shown


def test_there_are_ten_questions() -> None:
    page = PAGE.read_text()
    assert len(list(commands(page))) == page.count("\n## ") == 10
