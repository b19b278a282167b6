"""The documentation as pages: the Markdown files of the folder ``docs``."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from django.conf import settings
from django.utils.safestring import SafeString, mark_safe

if TYPE_CHECKING:
    from markdown_it.token import Token

#: Beside the source, or in the installed package.
_FOLDERS: Final = (settings.BASE_DIR / "docs", Path(__file__).parents[1] / "docs")
_RELATIVE: Final = re.compile(r"([a-z0-9-]+)\.md(#.*)?")
_LISTED: Final = re.compile(r"\(([a-z0-9-]+)\.md\)")


@cache
def titles() -> dict[str, str]:
    """Return each document with its heading, in the order of ``docs/README.md``; others follow by
    name.
    """
    names = sorted(
        path.stem for folder in _FOLDERS for path in folder.glob("*.md") if path.stem != "README"
    )
    ordered = dict.fromkeys([*_LISTED.findall(text("README.md")), *names])
    return {name: text(f"{name}.md").partition("\n")[0].removeprefix("# ") for name in ordered}


def path(file: str) -> Path | None:
    """Return the path of a file of the folder, ``None`` if it does not exist."""
    return next((path for folder in _FOLDERS if (path := folder / file).is_file()), None)


def text(file: str) -> str:
    """Return the text of a file of the folder."""
    found = path(file)
    if found is None:
        raise FileNotFoundError(file)
    return found.read_text(encoding="utf-8")


@cache
def html(name: str) -> SafeString:
    """Return a document of ``titles`` as HTML. Its headings have the anchors that a Git server
    gives them.
    """
    from markdown_it import MarkdownIt  # noqa: PLC0415 for these pages alone

    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(re.sub(r"<!--.*?-->\n?", "", text(f"{name}.md"), flags=re.DOTALL))
    used: Counter[str] = Counter()
    for token, following in zip(tokens, [*tokens[1:], None], strict=True):
        if token.type == "heading_open" and following is not None:
            anchor = re.sub(r"[^\w\- ]", "", following.content.lower()).replace(" ", "-")
            token.attrSet("id", f"{anchor}-{used[anchor]}" if used[anchor] else anchor)
            used[anchor] += 1
        if token.type in ("table_open", "fence"):
            token.attrSet(
                "tabindex", "0"
            )  # It may be wider than the page: a keyboard scrolls it, too.
        for child in token.children or ():
            _follow(child)
    # The documents belong to the product, and HTML in them is shown as text.
    return mark_safe(str(parser.renderer.render(tokens, parser.options, {})))  # noqa: S308


def _follow(token: Token) -> None:
    """Let a link between documents lead to their pages; files beside the documentation have none.

    Pictures are loaded as one scrolls.
    """
    if token.type == "image":
        token.attrSet("loading", "lazy")
    if token.type != "link_open":
        return
    target = str(token.attrGet("href"))
    if match := _RELATIVE.fullmatch(target):
        token.attrSet("href", f"/docs/{match[1]}{match[2] or ''}")
    elif not target.startswith(("#", "http:", "https:")):
        del token.attrs["href"]
