"""What others wrote, quoted in a prompt: between tags, as data that can neither end its own quotation nor begin another."""

from __future__ import annotations

import re
from typing import Literal, get_args

# Every tag that a prompt of ours has. One run of blanks beside another would be tried in all ways to part them.
Tag = Literal["task", "plan", "memories", "answer", "problems", "attempt"]
_TAG = re.compile(rf"<(?=\s*(?:/\s*)?(?:{'|'.join(get_args(Tag))})\b)", re.IGNORECASE)


def quoted(tag: Tag, text: str) -> str:
    """Return the text between <tag> and </tag>; whatever looks like a tag of ours inside of it is defused."""
    return f"<{tag}>\n{_TAG.sub('&lt;', text)}\n</{tag}>"
