"""The servers that field_bench.py compares, each as its documentation recommends; its class says how it is used."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from _clients import COMMAND, RefusedError, engine_pid, wait_until_warm
from _field import FOUND, PATIENCE_S, Client, Server, Trace, paged, text_of, tree


class Tracebank(Server):
    """add_trace and retrieve, whole results as the others give them; memory is the front's and the engine's."""

    name = "Tracebank"

    def fetch(self) -> None:
        """It is installed: this one."""

    def version(self) -> str:
        """Return the version of this one."""
        return (
            subprocess.run([COMMAND, "version"], check=True, capture_output=True, encoding="utf-8")
            .stdout.strip()
            .removeprefix("tracebank ")
        )

    def environment(self, directory: Path) -> dict[str, str]:
        """Return where the data are kept."""
        return {"TRACEBANK_DATA_DIR": str(directory)}

    def command(self, directory: Path) -> Sequence[str | Path]:
        """Return the command."""
        return [COMMAND]

    def processes(self, client: Client, directory: Path) -> set[int]:
        """Return the front and the engine."""
        return tree(client.process.pid) | tree(engine_pid({**os.environ, **self.environment(directory)}))

    def end(self, directory: Path) -> None:
        """Stop the engine."""
        subprocess.run([COMMAND, "stop"], env={**os.environ, **self.environment(directory)}, check=False, capture_output=True)

    def settle(self, client: Client) -> None:
        """Wait for the model and the index."""
        wait_until_warm(client)

    def store(self, client: Client, trace: Trace) -> None:
        """Add it as it is."""
        client.call("add_trace", **trace)

    def find(self, client: Client, question: str, mode: str) -> list[str]:
        """Retrieve."""
        return [found["trace_id"] for found in client.call("retrieve", query=question, k=FOUND, max_tokens=50_000)["results"]]

    def kept(self, client: Client, traces: Sequence[Trace]) -> set[str]:
        """Read each."""
        found = set()
        for trace in traces:
            with suppress(RefusedError):
                client.request("resources/read", {"uri": f"trace://{trace['trace_id']}"})
                found.add(trace["trace_id"])
        return found


class Official(Server):
    """An entity for each trace, its texts as observations; search_nodes with the question (it looks for the whole of it as a substring)."""

    name = "server-memory"
    packages = ("@modelcontextprotocol/server-memory",)

    def fetch(self) -> None:
        """Install it with npm."""
        subprocess.run(["npm", "install", "--prefix", self.home, *self.packages], check=True, capture_output=True)

    def version(self) -> str:
        """Return what is installed."""
        return str(json.loads((self.home / "node_modules" / self.packages[0] / "package.json").read_text())["version"])

    def environment(self, directory: Path) -> dict[str, str]:
        """Return where the data are kept."""
        return {"MEMORY_FILE_PATH": str(directory / "memory.jsonl")}

    def command(self, directory: Path) -> Sequence[str | Path]:
        """Return the command."""
        return [self.home / "node_modules/.bin/mcp-server-memory"]

    def store(self, client: Client, trace: Trace) -> None:
        """Create an entity."""
        entity = {"name": trace["trace_id"], "entityType": "trace", "observations": text_of(trace).split("\n")}
        client.call("create_entities", entities=[entity])

    def find(self, client: Client, question: str, mode: str) -> list[str]:
        """Search, in the order of the file: there is no other."""
        return [entity["name"] for entity in client.call("search_nodes", query=question)["entities"][:FOUND]]

    def kept(self, client: Client, traces: Sequence[Trace]) -> set[str]:
        """Read everything."""
        return {entity["name"] for entity in client.call("read_graph")["entities"]}


class ChromaMcp(Server):
    """Persistent client, one collection with the default embedding function, one document for each trace."""

    name = "chroma-mcp"
    packages = ("chroma-mcp", "pydantic<2.12")  # the SDK that it pins fails with newer ones
    weights_at = ".cache/chroma/onnx_models/all-MiniLM-L6-v2/onnx"

    def command(self, directory: Path) -> Sequence[str | Path]:
        """Return the command."""
        return [self.home / "venv/bin/chroma-mcp", "--client-type", "persistent", "--data-dir", directory]

    def begin(self, client: Client) -> None:
        """Create the collection, unless it is there."""
        with suppress(RefusedError):
            client.texts("chroma_create_collection", collection_name="traces")

    def store(self, client: Client, trace: Trace) -> None:
        """Add a document."""
        client.texts("chroma_add_documents", collection_name="traces", documents=[text_of(trace)], ids=[trace["trace_id"]])

    def find(self, client: Client, question: str, mode: str) -> list[str]:
        """Query."""
        (text,) = client.texts("chroma_query_documents", collection_name="traces", query_texts=[question], n_results=FOUND)
        return list(json.loads(text)["ids"][0])

    def kept(self, client: Client, traces: Sequence[Trace]) -> set[str]:
        """Get all documents."""
        (text,) = client.texts("chroma_get_documents", collection_name="traces", include=[])
        return set(json.loads(text)["ids"])


class Qdrant(Server):
    """Local mode with its default model, which is the same; the id as metadata."""

    name = "mcp-server-qdrant"
    packages = ("mcp-server-qdrant",)
    weights_at = "fastembed/fast-all-MiniLM-L6-v2"

    def environment(self, directory: Path) -> dict[str, str]:
        """Return where the data are kept; it tells as many as this says, and no call can say how many."""
        places = {"QDRANT_LOCAL_PATH": str(directory), "FASTEMBED_CACHE_PATH": str(self.home / "fastembed")}
        return {**places, "COLLECTION_NAME": "traces", "QDRANT_SEARCH_LIMIT": str(FOUND)}

    def command(self, directory: Path) -> Sequence[str | Path]:
        """Return the command."""
        return [self.home / "venv/bin/mcp-server-qdrant"]

    def store(self, client: Client, trace: Trace) -> None:
        """Store the text."""
        client.texts("qdrant-store", information=text_of(trace), metadata={"trace_id": trace["trace_id"]})

    def find(self, client: Client, question: str, mode: str) -> list[str]:
        """Find."""
        # A list of texts, each with its metadata in marks.
        entries = [entry for text in client.texts("qdrant-find", query=question) for entry in json.loads(text) if "<metadata>" in entry]
        return [json.loads(entry.rpartition("<metadata>")[2].partition("</metadata>")[0])["trace_id"] for entry in entries]

    def kept(self, client: Client, traces: Sequence[Trace]) -> set[str]:
        """Find each by its own text: there is no list."""
        return {trace["trace_id"] for trace in traces if trace["trace_id"] in self.find(client, text_of(trace), self.modes[0])}


class MemoryService(Server):
    """SQLite and ONNX, its defaults; the id as a tag; a conversation_id each, so that what resembles another memory is not refused."""

    name = "mcp-memory-service"
    packages = ("mcp-memory-service[sqlite]",)
    modes = ("semantic", "hybrid")
    loads_extensions = True
    weights_at = ".cache/mcp_memory/onnx_models/all-MiniLM-L6-v2/onnx"

    def environment(self, directory: Path) -> dict[str, str]:
        """Return where the data are kept."""
        return {"MCP_MEMORY_BASE_DIR": str(directory), "MCP_MEMORY_SQLITE_PATH": str(directory / "memory.db")}

    def command(self, directory: Path) -> Sequence[str | Path]:
        """Return the command."""
        return [self.home / "venv/bin/memory", "server"]

    def store(self, client: Client, trace: Trace) -> None:
        """Store the text."""
        self.ids[trace["trace_id"].lower()] = trace["trace_id"]  # it lowers tags
        told = {"tags": [trace["trace_id"]]}
        client.texts("memory_store", content=text_of(trace), conversation_id=trace["trace_id"], metadata=told)

    def find(self, client: Client, question: str, mode: str) -> list[str]:
        """Search."""
        text = "".join(client.texts("memory_search", query=question, limit=FOUND, mode=mode))
        return [self.ids.get(tag, tag) for tag in re.findall(r"^   Created: \S+ \[([^],]+)", text, re.MULTILINE)]

    def kept(self, client: Client, traces: Sequence[Trace]) -> set[str]:
        """List everything."""
        listed = paged(lambda page: json.loads(client.texts("memory_list", page=page + 1, page_size=100)[0])["memories"])
        return {self.ids.get(tag, tag) for memory in listed for tag in memory["tags"]}


class MemPalace(Server):
    """add_drawer with the id as source_file, in one wing and room, questions cut to the 250 characters that it takes."""

    name = "mempalace"
    packages = ("mempalace",)
    modes = ("vector", "union")
    weights_at = ".cache/chroma/onnx_models/all-MiniLM-L6-v2/onnx"

    def environment(self, directory: Path) -> dict[str, str]:
        """Return where the data are kept."""
        return {"MEMPALACE_PALACE_PATH": str(directory)}

    def command(self, directory: Path) -> Sequence[str | Path]:
        """Return the command."""
        return [self.home / "venv/bin/mempalace-mcp", "--palace", directory]

    def told(self, client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
        """Call a tool, which tells its failures in its result. Raises: RefusedError."""
        answer: dict[str, Any] = json.loads(client.texts(tool, **arguments)[0])
        if "error" in answer or not answer.get("success", True):
            raise RefusedError({"message": str(answer.get("error") or answer.get("reason"))})
        return answer

    def store(self, client: Client, trace: Trace) -> None:
        """File a drawer."""
        text = text_of(trace)
        drawer = self.told(client, "mempalace_add_drawer", wing="field", room="traces", content=text, source_file=trace["trace_id"])
        self.ids[drawer["drawer_id"]] = trace["trace_id"]

    def find(self, client: Client, question: str, mode: str) -> list[str]:
        """Search."""
        found = self.told(client, "mempalace_search", query=question[:250], limit=FOUND, candidate_strategy=mode)["results"]
        return list(dict.fromkeys(drawer["source_path"] for drawer in found))

    def kept(self, client: Client, traces: Sequence[Trace]) -> set[str]:
        """List everything."""
        listed = paged(lambda page: self.told(client, "mempalace_list_drawers", limit=100, offset=page * 100)["drawers"])
        return {self.ids.get(drawer["drawer_id"], "") for drawer in listed}


class BasicMemory(Server):
    """A note for each trace, its id as the title; searches have no floor: its own leaves half the questions empty."""

    name = "basic-memory"
    packages = ("basic-memory",)
    modes = ("hybrid", "vector")
    python = "python3.12"
    loads_extensions = True
    weights_at = "fastembed/fast-all-MiniLM-L6-v2"

    def environment(self, directory: Path) -> dict[str, str]:
        """Return where the data are kept, and the model."""
        places = {
            "BASIC_MEMORY_CONFIG_DIR": directory / "state",
            "BASIC_MEMORY_HOME": directory / "notes",
            "FASTEMBED_CACHE_PATH": self.home / "fastembed",
        }
        model = {
            "BASIC_MEMORY_SEMANTIC_EMBEDDING_MODEL": "sentence-transformers/all-MiniLM-L6-v2",
            "BASIC_MEMORY_SEMANTIC_MIN_SIMILARITY": "0",
        }
        return {name: str(value) for name, value in (places | model).items()}

    def command(self, directory: Path) -> Sequence[str | Path]:
        """Return the command."""
        return [self.home / "venv/bin/basic-memory", "mcp"]

    def store(self, client: Client, trace: Trace) -> None:
        """Write a note."""
        self.ids[self.title(trace)] = trace["trace_id"]
        self.last = trace
        client.texts("write_note", title=self.title(trace), content=text_of(trace), directory="traces")

    @staticmethod
    def title(trace: Trace) -> str:
        """Return what a note is called: it becomes the name of a file."""
        return re.sub(r"\W", "-", str(trace["trace_id"]))

    def settle(self, client: Client) -> None:
        """Wait until the last note has got its vector; there are some that never do."""
        until = time.monotonic() + PATIENCE_S / 4
        while time.monotonic() < until and self.last["trace_id"] not in self.find(client, self.last["task"], "vector"):
            time.sleep(0.1)

    def find(self, client: Client, question: str, mode: str) -> list[str]:
        """Search."""
        (text,) = client.texts("search_notes", query=question, page_size=FOUND, output_format="json", search_type=mode)
        return list(dict.fromkeys(self.ids.get(note["title"], note["title"]) for note in json.loads(text)["results"]))

    def kept(self, client: Client, traces: Sequence[Trace]) -> set[str]:
        """Read each."""
        found = {trace["trace_id"]: client.texts("read_note", identifier=self.title(trace), output_format="json") for trace in traces}
        return {trace_id for trace_id, (text,) in found.items() if not json.loads(text).get("error")}


SERVERS: Sequence[type[Server]] = (Tracebank, Official, ChromaMcp, Qdrant, MemoryService, MemPalace, BasicMemory)
