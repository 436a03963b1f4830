"""Dates in questions: "what did I try last week", "the outage of 8 May".

A trace knows when it happened, and its text may not say so. What a question names is read as periods of time (UTC), and
traces that happened in one of them are preferred among those that fit about as well. Wishes, not filters: `since` and
`until` are for those. English only; dates in figures (2026-05-08) in any language.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from math import ceil

from tracebank.retrieval.fusion import Ranked, by_score

# A score is multiplied by 1 and this.
PREFERENCE = 0.1

Days = tuple[date, date]  # the first day, and the one behind the last
Read = Callable[[Mapping[str, str], date], Days]  # from what a pattern has found, and today
Period = tuple[int, int]  # the same in milliseconds since 1970

_MONTHS = "january february march april may june july august september october november december".split()
_WEEKDAYS = "monday tuesday wednesday thursday friday saturday sunday".split()
_COUNTS = {"a": 1, "an": 1, "one": 1, "two": 2, "couple of": 2, "a couple of": 2, "three": 3, "few": 3, "a few": 3, "four": 4, "five": 5}
_UNIT_HOURS = {"hour": 1, "day": 24, "week": 7 * 24, "month": 30 * 24, "year": 365 * 24}

_MONTH = rf"(?P<month>{'|'.join([*_MONTHS, 'sept', *(month[:3] for month in _MONTHS)])})"
_DAY = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?"
_YEAR = r"(?P<year>(?:19|20)\d\d)"
_COUNT = rf"(?P<count>\d{{1,3}}|{'|'.join(sorted(_COUNTS, key=len, reverse=True))})"
_UNIT = r"(?P<unit>hour|day|week|month|year)s?"
# "This may fail", "step 3 may fail": not a month unless it is written as one, stands behind a word, or its day, that a month follows, or
# before a day, a year, an end, or a word that is no verb.
_BEFORE = ("in", "on", "of", "by", "to", "from", "since", "until", "after", "before", "during")
_BEHIND = "in on at of by to from for with until since before after when we i you the a an and or"
_DIGITS = (r"\d", r"\d\d")
_VERB = re.compile(
    # The word itself first: all that follows is then tried behind it only, not at each word of a question.
    r"\b(?=may\b)"
    + "".join(rf"(?<!\b{word} )" for word in _BEFORE)
    + "".join(rf"(?<!\b{word} {day} )" for word in (*_BEFORE, "the") for day in _DIGITS)
    + r"(?<!\d(?:st|nd|rd|th) )(?!(?-i:May))may\b(?! \d{1,2}(?:st|nd|rd|th)\b)(?!,? (?:19|20)\d\d\b)(?!\s*(?:[.,;:?!)]|$))"
    + rf"(?! (?:{_BEHIND.replace(' ', '|')})\b)",
    re.IGNORECASE,
)


def periods_in(text: str, now_ms: int) -> list[Period]:
    """Return the periods that a question names, as of now. A day without a year is the last one that has been.

    What is since then reaches to today.
    """
    today = datetime.fromtimestamp(now_ms / 1000, UTC).date()
    found: list[Period] = []
    rest = _VERB.sub("···", text)
    for pattern, read in _FORMS:
        for match in pattern.finditer(rest):
            try:
                first, behind = read(match.groupdict(), today)
            except (ValueError, OverflowError):  # the 31st of June
                continue
            found.append((_ms(first), _ms(max(behind, today + timedelta(days=1)) if match["since"] else behind)))
        # Read once: in "8 May 2026" there is no "May 2026".
        rest = pattern.sub(lambda match: "·" * len(match[0]), rest)
    return sorted(set(found))


def preferred(ranking: Sequence[Ranked], periods: Sequence[Period], occurred_at_ms: Mapping[int, int]) -> tuple[Ranked, ...]:
    """Return the ranking with what happened in one of the periods (by row) preferred, best first."""

    def inside(row: int) -> bool:
        return row in occurred_at_ms and any(first <= occurred_at_ms[row] < behind for first, behind in periods)

    return tuple(by_score([f.scored(min(1.0, f.score * (1 + PREFERENCE))) if inside(f.row) else f for f in ranking]))


def _ms(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() * 1000)


def _days(first: date, count: int = 1) -> Days:
    return first, first + timedelta(days=count)


def _month_of(year: int, month: int) -> Days:
    return date(year, month, 1), date(year + month // 12, month % 12 + 1, 1)


def _number(name: str) -> int:
    return next(i for i, month in enumerate(_MONTHS, 1) if month.startswith(name.lower()[:3]))


def _figures(found: Mapping[str, str], today: date) -> Days:
    return _days(date(int(found["year"]), int(found["month"]), int(found["day"])))


def _day(found: Mapping[str, str], today: date) -> Days:
    month, day = _number(found["month"]), int(found["day"])
    if found["year"]:
        return _days(date(int(found["year"]), month, day))
    this_year = date(today.year, month, day)
    return _days(this_year if this_year <= today else date(today.year - 1, month, day))


def _month(found: Mapping[str, str], today: date) -> Days:
    month = _number(found["month"])
    return _month_of(int(found["year"]) if found.get("year") else today.year - (month > today.month), month)


def _year(found: Mapping[str, str], today: date) -> Days:
    return date(int(found["year"]), 1, 1), date(int(found["year"]) + 1, 1, 1)


def _named_day(found: Mapping[str, str], today: date) -> Days:
    return _days(today if found["name"].lower() in ("today", "this morning") else today - timedelta(days=1))


def _weekday(found: Mapping[str, str], today: date) -> Days:
    back = (today.weekday() - _WEEKDAYS.index(found["weekday"].lower())) % 7
    return _days(today - timedelta(days=back or 7))


def _last(found: Mapping[str, str], today: date) -> Days:
    unit, this = found["unit"].lower(), found["which"].lower() == "this"
    if unit == "week":
        monday = today - timedelta(days=today.weekday())
        return _days(monday if this else monday - timedelta(days=7), 7)
    if unit == "month":
        last = today.replace(day=1) - timedelta(days=1)
        return _month_of(today.year, today.month) if this else _month_of(last.year, last.month)
    year = today.year if this else today.year - 1
    return date(year, 1, 1), date(year + 1, 1, 1)


def _count(found: Mapping[str, str]) -> int:
    name = found["count"].lower()
    return _COUNTS[name] if name in _COUNTS else int(name)


def _ago(found: Mapping[str, str], today: date) -> Days:
    hours = _UNIT_HOURS[found["unit"].lower()]
    middle = today - timedelta(days=hours * _count(found) // 24)
    # "Three weeks ago" is no day: half a unit on both sides.
    return middle - timedelta(days=hours // 48), middle + timedelta(days=hours // 48 + 1)


def _past(found: Mapping[str, str], today: date) -> Days:
    days = ceil(_UNIT_HOURS[found["unit"].lower()] * _count(found) / 24)
    return today - timedelta(days=max(1, days)), today + timedelta(days=1)


def _form(pattern: str, read: Read) -> tuple[re.Pattern[str], Read]:
    return re.compile(rf"\b(?P<since>since (?:the )?)?{pattern}\b", re.IGNORECASE), read


# The longer before what may be a part of it.
_FORMS = (
    _form(r"(?P<year>\d{4})-(?P<month>\d{2})-(?P<day>\d{2})", _figures),
    _form(rf"{_DAY}(?: of)? {_MONTH}(?:,? {_YEAR})?", _day),
    _form(rf"{_MONTH}\.? {_DAY}(?:,? {_YEAR})?", _day),
    _form(rf"{_MONTH}\.?,? {_YEAR}", _month),
    _form(rf"(?:in |during |last |this |(?<=since )){_MONTH}", _month),
    _form(rf"(?:in |during |(?<=since )){_YEAR}", _year),
    _form(r"(?P<name>today|this morning|yesterday|last night)", _named_day),
    _form(rf"(?:last |on |this |(?<=since ))(?P<weekday>{'|'.join(_WEEKDAYS)})", _weekday),
    _form(r"(?P<which>last|this|previous) (?P<unit>week|month|year)", _last),
    _form(rf"{_COUNT} {_UNIT} ago", _ago),
    _form(rf"(?:last|past) {_COUNT} {_UNIT}", _past),
)
