"""Tracebank: a long-term reasoning memory for AI agents, served over MCP."""

__version__ = "0.1.0"
