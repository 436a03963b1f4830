"""Learning from what happened: episodes, rewards, reflections, patterns, feedback. It works without a language model."""

from tracebank.learning.completion import Judge
from tracebank.learning.episodes import Completed, Episodes
from tracebank.learning.journal import Journal
from tracebank.learning.learner import Context, Learner
from tracebank.learning.model_reflector import ModelReflector
from tracebank.learning.model_summary import ModelSummarizer
from tracebank.learning.reflection import Attempt, Reflection, Reflector, StepReflector
from tracebank.learning.step_log import Episode, StepLog

__all__ = [
    "Attempt",
    "Completed",
    "Context",
    "Episode",
    "Episodes",
    "Journal",
    "Judge",
    "Learner",
    "ModelReflector",
    "ModelSummarizer",
    "Reflection",
    "Reflector",
    "StepLog",
    "StepReflector",
]
