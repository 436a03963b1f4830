"""What others wrote, quoted in a prompt: between tags, as data that cannot end its own quotation."""

from __future__ import annotations

import re


def quoted(tag: str, text: str) -> str:
    """Return the text between <tag> and </tag>; tags of that name inside of it are defused."""
    defused = re.sub(rf"<(?=\s*/?\s*{re.escape(tag)}\b)", "&lt;", text, flags=re.IGNORECASE)
    return f"<{tag}>\n{defused}\n</{tag}>"
