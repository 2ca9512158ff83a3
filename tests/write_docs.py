"""What is generated in docs/, written again: `make docs`."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import configuration_page
import results_case

from nano_exp.preflight import wording

sys.path.append(str(Path(__file__).with_name("results")))
import results_page

PAGE = Path(__file__).resolve().parents[1] / "docs" / "preflight.md"

if __name__ == "__main__":
    text = PAGE.read_text()
    table = wording.rules_table()
    head = text[: text.index(table.splitlines()[0])]
    PAGE.write_text(f"{head}{table}\n")
    print(f"{PAGE.relative_to(Path.cwd())}: {len(table.splitlines()) - 2} rules")
    configuration_page.PAGE.write_text(configuration_page.written())
    print(configuration_page.PAGE.relative_to(Path.cwd()))
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PATH"] = f"{results_case.commands(Path(folder))}:{os.environ['PATH']}"
        page = results_page.PAGE
        page.write_text(results_page.written(page.read_text(), Path(folder)))
    print(page.relative_to(Path.cwd()))
