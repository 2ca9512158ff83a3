"""What is generated in docs/, written again: `make docs`."""

from __future__ import annotations

from pathlib import Path

from nano_exp.preflight import wording

PAGE = Path(__file__).resolve().parents[1] / "docs" / "preflight.md"

if __name__ == "__main__":
    text = PAGE.read_text()
    table = wording.rules_table()
    head = text[: text.index(table.splitlines()[0])]
    PAGE.write_text(f"{head}{table}\n")
    print(f"{PAGE.relative_to(Path.cwd())}: {len(table.splitlines()) - 2} rules")
