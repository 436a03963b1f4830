"""What a tool is, for those who write one.

A package offers a tool with an entry point of the group `tracebank.tools` that names a `ToolSpec`:

    [project.entry-points."tracebank.tools"]
    my_tool = "my_package:TOOL"

The function's annotations make the schemas that the agent reads. Arguments arrive as the client sent them: the engine
checks them, and whatever TracebankError it raises becomes the text that the agent reads.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError, UnexpectedToolError
from mcp.server.mcpserver.tools import Tool
from mcp.shared.exceptions import MCPError
from mcp.types import CallToolResult, TextContent, ToolAnnotations
from pydantic import BaseModel, WithJsonSchema

from tracebank.engine import Engine, Session
from tracebank.errors import TracebankError

ENTRY_POINT_GROUP = "tracebank.tools"

ToolContext = Context[Session, Any]

# What costs the agent tokens and tells it nothing: of an argument its title, of a result also what a program checks.
_NOISE = frozenset({"title"})
_OUTPUT_NOISE = frozenset({"title", "description", "required", "additionalProperties", "enum"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSpec:
    """A tool: an async function whose name, docstring and annotations the agent reads, and what kind of act it is.

    `open_world`: it reaches out of this machine. `withheld` says why an engine does not offer it; "" where it does.
    """

    run: Callable[..., Awaitable[CallToolResult]]
    title: str
    read_only: bool = False
    destructive: bool = False
    idempotent: bool = False
    open_world: bool = False
    withheld: Callable[[Engine], str] = field(default=lambda engine: "")


def argument(description: str = "", **schema: Any) -> WithJsonSchema:
    """Describe a tool's parameter by its JSON schema; it stands in the `Annotated` of the parameter."""
    return WithJsonSchema({**schema, **({"description": description} if description else {})})


def session_of(context: ToolContext) -> Session:
    """Return the calling client's session, with its engine."""
    return context.request_context.lifespan_context


def reply(result: BaseModel, text: str) -> CallToolResult:
    """Return a result: for programs as structured content, for the model as text. Fields that are None are left out."""
    return CallToolResult(
        content=[TextContent(type="text", text=text)], structured_content=result.model_dump(mode="json", exclude_none=True)
    )


def wrong_argument(of: str, given: Mapping[str, Any], known: Mapping[str, str], required: Iterable[str]) -> str:
    """Return which argument of a tool or prompt is not one, or is missing, and what it is; "" where all are well.

    `known` describes each.
    """
    for name in given:
        if name not in known:
            return f"{name[:80]}: is not an argument of {of}; its arguments are {', '.join(known)}"
    return next((f"{name}: is required. {known[name]}".rstrip() for name in required if given.get(name) is None), "")


class EngineTool(Tool):
    """A tool whose wrong arguments are told as Tracebank tells them."""

    async def run(self, arguments: dict[str, Any], context: Any, convert_result: bool = False) -> Any:
        """Call the function with the client's arguments. Raises: ToolError with the text for the agent."""
        known: Mapping[str, Any] = self.parameters["properties"]
        described = {name: schema.get("description", "") for name, schema in known.items()}
        if wrong := wrong_argument(self.name, arguments, described, self.parameters.get("required", ())):
            raise ToolError(wrong)
        decoded = {name: _decoded(value, known[name]) for name, value in arguments.items()}
        try:
            result = await self.fn(**decoded, **{self.context_kwarg or "ctx": context})
        except TracebankError as error:
            raise ToolError(str(error)) from error
        except (ToolError, MCPError):
            raise
        except (Exception, SystemExit) as error:
            # A crash: what went wrong inside stays in the log, and is nobody else's end.
            raise UnexpectedToolError(f"Error executing tool {self.name}") from error
        # What `reply` has made of a model is valid by its making; to check it again would cost more than the call.
        if not convert_result or isinstance(result, CallToolResult):
            return result
        return self.fn_metadata.convert_result(result)


def build(spec: ToolSpec) -> EngineTool:
    """Return the MCP tool of a spec, its schemas without what only costs tokens."""
    annotations = ToolAnnotations(**_hints(spec))
    tool = EngineTool.from_function(spec.run, title=spec.title, description=_description(spec.run), annotations=annotations)
    assert isinstance(tool, EngineTool)
    tool.parameters = _compact(tool.parameters)
    if tool.fn_metadata.output_schema is not None:
        tool.fn_metadata.output_schema = _inlined(_compact(tool.fn_metadata.output_schema, drop=_OUTPUT_NOISE))
    return tool


def _hints(spec: ToolSpec) -> dict[str, bool]:
    """Return what has to be said of a tool: not what a client takes for granted, nor, of one that only reads, how it writes."""
    writes = {} if spec.destructive else {"destructive_hint": False}
    writes |= {"idempotent_hint": True} if spec.idempotent else {}
    return ({"read_only_hint": True} if spec.read_only else writes) | ({} if spec.open_world else {"open_world_hint": False})


def _description(function: Callable[..., Any]) -> str:
    return " ".join((function.__doc__ or "").split())


def _compact(schema: Any, *, drop: frozenset[str] = _NOISE, in_properties: bool = False) -> Any:
    """Return the schema without what is in `drop` and null defaults, and with `X or null` written as X."""
    if isinstance(schema, list):
        return [_compact(item, drop=drop) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {
        key: _compact(value, drop=drop, in_properties=key in ("properties", "$defs") and not in_properties)
        for key, value in schema.items()
        if in_properties or not (key in drop or (key == "default" and value is None))
    }
    options = kept.get("anyOf")
    if not in_properties and isinstance(options, list) and {"type": "null"} in options:
        others = [option for option in options if option != {"type": "null"}]
        if len(others) == 1:
            del kept["anyOf"]
            kept |= others[0]
    return kept


def _inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """Return an output schema with what it defines put where it is used.

    That the items of a list are strings, and that what has properties is an object, is left out: a reader sees it.
    """
    schema = dict(schema)
    definitions = schema.pop("$defs", {})

    def inline(part: Any) -> Any:
        if isinstance(part, list):
            return [inline(item) for item in part]
        if not isinstance(part, dict):
            return part
        if "$ref" in part:
            used = inline(definitions[part["$ref"].rpartition("/")[2]])
            return {key: value for key, value in used.items() if not (key == "type" and "properties" in used)}
        strings = part.get("type") == "array" and part.get("items") == {"type": "string"}
        return {key: inline(value) for key, value in part.items() if not (strings and key == "items")}

    try:
        inlined: dict[str, Any] = inline(schema)
    except RecursionError:
        # What is defined by itself has no end.
        return {**schema, "$defs": definitions}
    return inlined


def _decoded(value: object, schema: Mapping[str, Any]) -> object:
    """Return the value; one sent as a JSON string where no string is meant (some clients do) is decoded."""
    types = schema.get("type", [option.get("type") for option in schema.get("anyOf", ())])
    types = [types] if isinstance(types, str) else types
    if not isinstance(value, str) or not types or "string" in types:
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value
