"""What no reader of a prompt needs: a page's navigation, consent and footers, what follows clicks, pictures written as text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby

from tracebank.compression.segments import Kind, Segment

_EMBEDDED = re.compile(
    r"(data:[\w.+/-]{3,60};base64,)[A-Za-z0-9+/=]{120,}+|(?<![\w+/=])[A-Za-z0-9+/]{400,}+={0,2}+(?![\w+/=])",
)
# What tells a site where a click came from, and changes nothing of what it shows.
_TRACKING = re.compile(r"(?<=[?&])(?:utm_\w+|fbclid|gclid|dclid|msclkid|mc_cid|mc_eid|igshid|_hsenc|_hsmi|ref_src)=[^&#\s)\]>\"']*&?")
_EMPTY_QUERY = re.compile(r"[?&](?=[#\s)\]>\"']|$)")
_ADDRESS = re.compile(r"https?://[^\s)\]>\"']+")
# A line that is a link and nothing else, in a list or not; a row of links.
_LINK = r"!?\[[^\]\n]{0,80}\]\([^()\n]*\)"
_LINKS_ONLY = re.compile(rf"[ \t]*(?:[-*+•][ \t]+)?{_LINK}(?:[ \t]*[|·•/][ \t]*{_LINK})*[ \t]*\Z")
_FEWEST_LINKS = 3
# Lines that say only such a thing; a longer one may say more.
_FURNITURE = re.compile(
    r"(?:we|this (?:web)?site) uses? cookies\b.*|accept (?:all )?cookies.*|(?:manage|cookie) (?:preferences|settings|policy)\W*"
    r"|skip to (?:main )?content\W*|subscribe to our newsletter.*|sign up for our newsletter.*|was this (?:page|article) helpful\W*"
    r"|(?:share|tweet|follow us)(?: (?:this|on)\b.*)?\W*|all rights reserved\W*|(?:©|\(c\)|copyright).{0,80}(?:all rights reserved)?\W*"
    r"|back to top\W*|advertisement\W*|loading(?:…|\.\.\.)\W*|sent from my \w+( \w+)?\W*",
    re.IGNORECASE,
)
_FURNITURE_CHARS = 160


def without_boilerplate(segment: Segment) -> str:
    """Drop the furniture of a page, tracking parameters of addresses, and base64, of which the length is told."""
    if segment.kind is not Kind.PROSE:
        return segment.body
    body = _EMBEDDED.sub(_told, segment.body)
    return "\n".join(_read(_ADDRESS.sub(_plain, body).split("\n")))


def _told(found: re.Match[str]) -> str:
    return f"{found[1] or ''}[{len(found[0]) - len(found[1] or ''):,} characters]"


def _plain(address: re.Match[str]) -> str:
    plain = _TRACKING.sub("", address[0])
    return address[0] if plain == address[0] else _EMPTY_QUERY.sub("", plain)


def _read(lines: list[str]) -> Iterator[str]:
    for links, run in groupby((line for line in lines if not _is_furniture(line)), key=lambda line: _LINKS_ONLY.match(line) is not None):
        same = list(run)
        if not links or len(same) < _FEWEST_LINKS:
            yield from same


def _is_furniture(line: str) -> bool:
    bare = line.strip(" \t#*_>[]-|")
    return len(bare) <= _FURNITURE_CHARS and _FURNITURE.fullmatch(re.sub(r"\]\([^)]*\)?\Z", "", bare)) is not None
