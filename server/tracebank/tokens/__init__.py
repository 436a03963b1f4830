"""How many tokens a text has, exactly, and the longest piece of its head or tail that fits a budget.

    splitter = pieces by the encoding's pattern -> merging = tokens of a piece -> tokenizer = counts and cuts

`vocabulary` is what they read: the tokens of each encoding, which come with the package.
"""

from tracebank.records import ENCODINGS
from tracebank.tokens.tokenizer import Tokenizer, load_tokenizer
from tracebank.tokens.vocabulary import Vocabulary

__all__ = ["ENCODINGS", "Tokenizer", "Vocabulary", "load_tokenizer"]
