"""Tracebank's own MCP tools, one module each, found through the entry points of the group `tracebank.tools`."""
