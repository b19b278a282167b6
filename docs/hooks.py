"""Hooks of the site (``mkdocs.yml``)."""

import re
from typing import Any


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Show a link to a file beside the documentation as text, as the pages of the product do."""
    return re.sub(r"\[([^\]]+)\]\(\.\./[^)]+\)", r"\1", markdown)
