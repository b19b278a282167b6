"""Write ``docs/sabotage.md`` and print it: ``python -m tests.sabotage``."""

from __future__ import annotations

from tests.sabotage.table import PAGE, page

text = page()
PAGE.write_text(text, encoding="utf-8")
print(text)
