"""Which waiting texts make a batch: those of about one length, because each is padded to the longest."""

from __future__ import annotations

from collections.abc import Sequence

# English has about 4 bytes a token, Chinese 3; only the shape of a batch depends on it, never a result.
BYTES_PER_TOKEN = 4
SPECIAL_TOKENS = 2
# Reached on an accelerator only: so many short texts are half of its tokens.
MAX_BATCH_TEXTS = 512


def estimated_tokens(text: str) -> int:
    """Return about how many tokens a model makes of a text."""
    return len(text.encode("utf-8", "replace")) // BYTES_PER_TOKEN + SPECIAL_TOKENS


def next_batch(tokens: Sequence[int], *, max_tokens: int) -> list[int]:
    """Return the positions of the first text and of those nearest to it in length, at most `max_tokens` with their padding.

    Beginning with the first, the one that waits longest, nobody waits for ever.
    """
    order = sorted(range(len(tokens)), key=lambda i: (tokens[i], i))
    low = order.index(0)
    high = low + 1
    while high - low < MAX_BATCH_TEXTS:
        shorter = tokens[0] - tokens[order[low - 1]] if low else None
        longer = tokens[order[high]] - tokens[0] if high < len(order) else None
        # A longer one pads all the others, a shorter one only itself.
        if longer is not None and (shorter is None or longer < shorter) and (high - low + 1) * tokens[order[high]] <= max_tokens:
            high += 1
        elif shorter is not None and (high - low + 1) * tokens[order[high - 1]] <= max_tokens:
            low -= 1
        else:
            break
    return order[low:high]
