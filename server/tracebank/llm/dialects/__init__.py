"""One module per protocol."""

from tracebank.llm.base import Dialect
from tracebank.llm.dialects.chat import Chat
from tracebank.llm.dialects.messages import Messages
from tracebank.llm.dialects.responses import Responses

DIALECTS: dict[str, Dialect] = {"chat": Chat(), "responses": Responses(), "messages": Messages()}

__all__ = ["DIALECTS", "Chat", "Messages", "Responses"]
