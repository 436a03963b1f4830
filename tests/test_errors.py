"""The errors that are raised on purpose."""

from __future__ import annotations

import inspect
import re

from tracebank import errors
from tracebank.errors import TracebankError


def test_the_tree_that_the_module_draws_is_the_one_there_is() -> None:
    """Each error, below the one that it is a kind of."""
    drawn: dict[str, str] = {}
    above: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        if (found := re.match(r"    ([│├└─ ]*)(\w+Error)\b", line)) is not None:
            depth = len(found[1]) // 4
            del above[depth:]
            drawn[found[2]] = above[-1] if above else ""
            above.append(found[2])
    classes = [one for _, one in inspect.getmembers(errors, inspect.isclass) if issubclass(one, TracebankError)]
    assert drawn == {one.__name__: one.__base__.__name__ if one is not TracebankError else "" for one in classes}
