"""A simulated agent, with the memory and without: does it repeat mistakes that were recorded?

    .venv/bin/python benchmarks/agent_simulation.py [--tasks 200] [--seed 7] [--names]

Each task is of one of 40 families, told in one of three wordings that share few words, and has a ticket number of its
own. With `--names` it has the name of a customer instead, which tasks of other families have, too: the hardest case, where a
rare word that says nothing about the kind of task is all that two tasks share. A family has three stages;
at each, one of three actions works and the others fail, and the same actions work in one family and fail in another, so
lessons of the wrong family mislead. The agent tries in random order and gives up after five errors. With the memory it
first reads what `retrieve` gives it, and logs its steps; it takes literally what lessons say in backquotes. No model
decides anything, and both agents meet the same tasks. Prints one JSON line an agent, and one that compares them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tracebank.engine import Engine, Session
from tracebank.settings import load_settings

# One family a line: the same kind of task, in three wordings.
FAMILIES = """
Stop the upload test from failing now and then | Find out why test_upload passes only sometimes | Repair the flaky file upload check
Bring the nightly database backup back | The dump of the database did not run last night | Make the scheduled backup of postgres work
Renew the certificate of the web shop | The shop's TLS certificate expires tomorrow | Replace the expiring https certificate
Refund an order that was paid twice | Pay back a double charge on an order | The customer was charged two times, return one payment
Cancel a subscription and keep the data | End the monthly plan without deleting the account | Unsubscribe the customer but preserve records
Import a spreadsheet of contacts | Load the address list from Excel into the CRM | Bring contacts from a CSV file into the customer database
Reset a locked user account | The user cannot log in after too many attempts | Unlock the login of an employee
Book a flight with a stopover | Reserve plane tickets via a second airport | Find an air connection with one change
Reschedule a hotel reservation | Move the hotel stay to another week | Change the dates of a room booking
Translate the manual into Spanish | Produce the Spanish version of the handbook | The user guide is needed in Spanish
Reduce the memory use of the image service | The thumbnail server runs out of RAM | Image resizing is killed for memory, make it smaller
Speed up the product search | Searching the catalogue takes too long | Queries for products are slow, improve them
Move the message queue to the new broker | Migrate the topics from the old broker | Switch event messaging over to the new cluster
Write the monthly sales report | Compile the revenue figures of last month | Sum up the month's turnover for management
Reconcile the bank statement | Match bank transactions with the ledger | Find the differences between account and books
Onboard a new employee in all systems | Create the accounts for a person who starts on Monday | Set up a new colleague's access
Remove a leaked secret from the repository | An API key was committed to git | Purge credentials from the version history
Upgrade the web framework by a major version | Move to the framework's next release | Port the site to the new framework version
Merge two duplicate patient records | A patient exists twice in the registry, join the entries | Unify the doubled medical file
Schedule a meeting over three time zones | Find a time for a call between Tokyo and Paris | Arrange a conference across continents
Calibrate the temperature sensor | The thermometer of the lab reads two degrees too high | Correct the offset of the heat probe
Deploy the mobile app to the store | Publish a new build of the phone application | Submit the app release for review
Restore a deleted wiki page | Someone removed a page of the wiki, bring it back | Recover lost documentation from the wiki's history
Connect the printer on the second floor | The office printer is offline for everybody | Nobody can print upstairs, make it work
Detect fraud in the card payments | Find suspicious credit card transactions | Flag payments that look stolen
Archive e-mails older than five years | Move old mail out of the mailboxes | Put the correspondence of past years into cold storage
Forecast the demand for spare parts | Predict how many replacement parts are needed | Estimate next quarter's need of components
Label the photographs of birds | Annotate bird pictures with their species | Assign species names to wildlife images
Balance the load between the game servers | Players are all on one server, spread them | Distribute matches evenly over the hosts
Assemble the invoice for a construction site | Bill the builder for materials and hours | Make out the account for the building works
Clean the survey answers | Remove nonsense replies from the questionnaire data | Prepare the poll responses for analysis
Plan the delivery route of the van | Find the shortest tour for the parcel driver | Order the stops of the delivery truck
Patch the kernel on the build machines | Install the system's security update on CI hosts | Close the kernel hole on the builders
Fix the broken links on the help pages | The support site has dead links, mend them | Repair references that lead nowhere in the help centre
Set up the video stream of the lecture | Broadcast the talk live from the hall | Get the live transmission of the class going
Check a contract for unusual clauses | Review the agreement for risky terms | Look for odd conditions in the supplier's contract
Cluster the gene expression samples | Group the samples of the RNA experiment | Sort the sequencing results into similar sets
Tune the irrigation of the greenhouse | Water the tomatoes neither too much nor too little | Adjust the sprinklers in the glasshouse
Recover files from a broken disk | The hard drive clicks, save what is on it | Rescue data off a failing drive
Compare the insurance offers | Find the best of the quotes for insurance | Which policy covers more for less, evaluate the bids
"""
ACTIONS = """
restart_service clear_cache raise_timeout lower_batch_size run_in_dry_mode use_new_api use_old_api ask_for_export split_into_parts
sort_by_date lock_the_record refresh_token sync_clock rebuild_index disable_plugin enable_strict_mode use_utf8 convert_units drop_outliers
fetch_page_by_page merge_by_id merge_by_name send_as_attachment validate_schema skip_header grant_read_access grant_admin_access
use_mirror pin_version run_as_service_account
""".split()
ERRORS = (
    "PermissionError: not allowed for this role",
    "TimeoutError: no answer within 30 s",
    "ValueError: unexpected format in line 3",
    "HTTP 409: the record was changed by somebody else",
    "HTTP 422: the request cannot be processed",
    "StateError: not possible in this state",
)
CUSTOMERS = "Aldo Berg Cira Dunn Elba Falk Gore Hiro Ines Jung Kato Lund Mori Nyman Ortiz Pohl Quist Rossi Sato Toth".split()
STAGES, CHOICES, MAX_ERRORS, K = 3, 3, 5, 3


@dataclass(frozen=True, slots=True)
class Family:
    """A kind of task: its wordings, and for each stage the actions to choose from, the first of which works."""

    number: int
    wordings: tuple[str, ...]
    stages: tuple[tuple[str, ...], ...]


@dataclass(slots=True)
class Score:
    """What an agent did. A mistake is repeated if an earlier episode of the family has recorded it."""

    tasks: int = 0
    successes: int = 0
    steps: int = 0
    mistakes: int = 0
    repeated: int = 0
    known_tasks: int = 0
    first_from_family: int = 0
    lessons: int = 0
    lessons_from_family: int = 0
    recorded: set[tuple[int, str]] = field(default_factory=set)

    def figures(self) -> dict[str, Any]:
        """Return the figures, without what is only needed to count."""
        known = max(1, self.known_tasks)
        return {
            "tasks": self.tasks,
            "successes": self.successes,
            "steps": self.steps,
            "mistakes": self.mistakes,
            "tasks_of_a_known_family": self.known_tasks,
            "repeated_mistakes": self.repeated,
            "repeated_per_known_task": round(self.repeated / known, 3),
        }


def families(chance: random.Random) -> list[Family]:
    """Return the families; which actions they need is drawn by chance."""
    lines = [line.split(" | ") for line in FAMILIES.strip().splitlines()]
    drawn = [chance.sample(ACTIONS, STAGES * CHOICES) for _ in lines]
    stages = [tuple(tuple(d[i * CHOICES : (i + 1) * CHOICES]) for i in range(STAGES)) for d in drawn]
    return [Family(number, tuple(wordings), stages[number]) for number, wordings in enumerate(lines)]


@dataclass(slots=True)
class Advice:
    """What an agent takes from memories: actions to prefer and to avoid."""

    prefer: set[str] = field(default_factory=set)
    avoid: set[str] = field(default_factory=set)

    def read(self, text: str) -> None:
        """Take what a lesson or an excerpt says literally. Whoever was read first is believed."""
        prefer = {*re.findall(r"(?:Use|do|then) `(\w+)`", text), *re.findall(r"What worked: `(\w+)`", text)}
        prefer |= set(re.findall(r"Step \d+ \(ok\): (\w+)", text))
        avoid = {*re.findall(r"(?:instead of|Do not rely on|When) `(\w+)`", text), *re.findall(r"Step \d+ \(failed\): (\w+)", text)}
        self.avoid |= avoid - self.prefer
        self.prefer |= prefer - self.avoid

    def order(self, actions: Sequence[str]) -> list[str]:
        """Return the actions in the order of trust."""
        return sorted(actions, key=lambda a: (a not in self.prefer, a in self.avoid))


class Memory:
    """The agent's way to the real engine."""

    def __init__(self, engine: Engine, session: Session) -> None:
        self._engine, self._session = engine, session
        self._family_of: dict[str, int] = {}
        self._known: list[int] = []

    async def advice(self, task: str, family: Family, score: Score) -> Advice:
        """Return what the memory says about a task, and note whether it came from the right family."""
        found = (await self._engine.retrieve({"query": task, "k": K}, self._session)).page.results
        advice = Advice()
        known = self._known.count(family.number)
        for place, memory in enumerate(found):
            right = self._family_of[memory.trace_id] == family.number
            score.first_from_family += known > 0 and place == 0 and right
            if place < known:
                score.lessons += len(memory.lessons)
                score.lessons_from_family += right * len(memory.lessons)
            for text in (*memory.lessons, memory.excerpt):
                advice.read(text)
        return advice

    async def record(self, task: str, family: Family, steps: Sequence[dict[str, Any]], *, success: bool) -> None:
        """Log an episode and complete it."""
        episode = await self._engine.log_steps({"task": task}, self._session)
        for step in steps:
            await self._engine.log_steps({"episode_id": episode.episode_id, "steps": [step]}, self._session)
        outcome = "success" if success else "failure"
        done = await self._engine.complete_episode({"episode_id": episode.episode_id, "outcome": outcome}, self._session)
        self._family_of[done.trace_id] = family.number
        self._known.append(family.number)


def attempt(family: Family, advice: Advice, chance: random.Random) -> tuple[list[dict[str, Any]], bool]:
    """Return the steps of one episode, and whether it succeeded."""
    steps: list[dict[str, Any]] = []
    errors = 0
    for stage in family.stages:
        for action in advice.order(chance.sample(stage, len(stage))):
            works = action == stage[0]
            error = ERRORS[(family.number + ACTIONS.index(action)) % len(ERRORS)]
            steps.append({"action": action, "observation": "done" if works else error, "ok": works})
            errors += not works
            if works:
                break
            if errors >= MAX_ERRORS:
                return steps, False
    return steps, True


async def live(tasks: Sequence[tuple[Family, str]], seed: int, memory: Memory | None) -> Score:
    """Let an agent do all tasks, one after the other."""
    score, seen = Score(), set[int]()
    for number, (family, task) in enumerate(tasks):
        advice = await memory.advice(task, family, score) if memory else Advice()
        steps, success = attempt(family, advice, random.Random(seed * 1_000 + number))
        mistakes = {(family.number, step["action"]) for step in steps if not step["ok"]}
        score.tasks += 1
        score.successes += success
        score.steps += len(steps)
        score.mistakes += len(mistakes)
        score.repeated += len(mistakes & score.recorded)
        score.known_tasks += family.number in seen
        score.recorded |= mistakes
        seen.add(family.number)
        if memory:
            await memory.record(task, family, steps, success=success)
    return score


async def main() -> None:
    """Run both agents on the same tasks and compare them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tasks", type=int, default=200)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--names", action="store_true", help="customers' names instead of ticket numbers")
    options = parser.parse_args()
    chance = random.Random(options.seed)
    kinds = families(chance)
    drawn = [chance.choice(kinds) for _ in range(options.tasks)]
    tickets = [f"customer {chance.choice(CUSTOMERS)}" if options.names else f"ticket {chance.randrange(10**5)}" for _ in drawn]
    tasks = [(family, f"{chance.choice(family.wordings)} ({ticket})") for family, ticket in zip(drawn, tickets, strict=True)]
    without = await live(tasks, options.seed, None)
    with tempfile.TemporaryDirectory(prefix="tracebank-bench-") as home:
        async with Engine.open(load_settings(Path(home))) as engine:
            await engine.warm.wait()
            having = await live(tasks, options.seed, Memory(engine, engine.session()))
    print(json.dumps({"agent": "without memory", **without.figures()}))
    print(json.dumps({"agent": "with memory", **having.figures()}))
    rates = [score.repeated / max(1, score.known_tasks) for score in (without, having)]
    compared = {
        "seed": options.seed,
        "repeats_less_often": round(1 - rates[1] / rates[0], 3),
        "first_memory_from_the_right_family": round(having.first_from_family / max(1, having.known_tasks), 3),
        "lessons_from_the_right_family": round(having.lessons_from_family / max(1, having.lessons), 3),
    }
    print(json.dumps(compared))


if __name__ == "__main__":
    asyncio.run(main())
