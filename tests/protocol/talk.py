"""The SDK's client at a real server, for tests that say one thing after the other."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Literal

from anyio.from_thread import BlockingPortal
from mcp import Client
from mcp.types import CallToolResult, GetPromptResult, TextContent, TextResourceContents

Era = Literal["legacy", "auto"]
ERAS: tuple[Era, ...] = ("legacy", "auto")


class Talk:
    """The SDK's client, whose loop runs in a thread, so that a test can say one thing after the other."""

    def __init__(self, portal: BlockingPortal, client: Client) -> None:
        self._portal, self.client = portal, client

    def ask(self, method: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Await one of the client's methods."""
        return self._portal.call(partial(method, *arguments, **options))

    def result(self, tool: str, **arguments: Any) -> CallToolResult:
        """Call a tool. The client checks what comes back against the tool's output schema."""
        answer: CallToolResult = self.ask(self.client.call_tool, tool, arguments)
        return answer

    def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """Call a tool and return its structured content; the call must succeed."""
        answer = self.result(tool, **arguments)
        assert not answer.is_error, text_of(answer)
        structured: dict[str, Any] | None = answer.structured_content
        assert structured is not None
        return structured

    def refusal(self, tool: str, **arguments: Any) -> str:
        """Call a tool and return the text of its error; the call must fail."""
        answer = self.result(tool, **arguments)
        assert answer.is_error
        return text_of(answer)

    def found(self, **arguments: Any) -> list[str]:
        """Return the ids that `retrieve` finds, best first."""
        return [memory["trace_id"] for memory in self.call("retrieve", **arguments)["results"]]

    def read(self, uri: str) -> str:
        """Return the text of a resource."""
        (content,) = self.ask(self.client.read_resource, uri).contents
        assert isinstance(content, TextResourceContents)
        return content.text

    def prompt(self, name: str, /, **arguments: str) -> str:
        """Return the text of a prompt."""
        answer: GetPromptResult = self.ask(self.client.get_prompt, name, arguments)
        (message,) = answer.messages
        assert isinstance(message.content, TextContent)
        return message.content.text


def text_of(answer: CallToolResult) -> str:
    """Return the text part of a result, which has one."""
    (part,) = answer.content
    assert isinstance(part, TextContent)
    return part.text


Connect = Callable[..., AbstractContextManager[Talk]]
