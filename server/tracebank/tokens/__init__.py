"""How many tokens a text has, and the longest piece of its head or tail that fits a budget.

Two ways to count behind one contract:

- `TiktokenTokenizer` counts with the real tables of an encoding.
- `EstimateTokenizer` needs no tables. It is made to count too many rather than too few, so that a budget holds.

`TokenizerLoader` fetches the tables in the background and gives the estimate until they are there.
"""

from tracebank.records import ENCODINGS
from tracebank.tokens.base import Tokenizer
from tracebank.tokens.estimate import EstimateTokenizer
from tracebank.tokens.exact import TiktokenTokenizer
from tracebank.tokens.loading import TokenizerLoader, load_tokenizer

__all__ = ["ENCODINGS", "EstimateTokenizer", "TiktokenTokenizer", "Tokenizer", "TokenizerLoader", "load_tokenizer"]
