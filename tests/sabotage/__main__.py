"""Write ``docs/sabotage.md`` and print it: ``python -m tests.sabotage``."""

from tests.sabotage.table import PAGE, page

text = page()
PAGE.write_text(text, encoding="utf-8")
print(text)
