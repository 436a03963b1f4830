"""The engine as an MCP server: tools from plug-ins, resources, prompts."""
