"""A language model's provider for tests: a real HTTP(S) server that speaks the three protocols, with faults on demand.

    async with serving(tls=True) as provider:
        provider.meets(Status(429, {"retry-after": "2"}), Reset(), Reply("hello"))

What the next requests meet stands in a queue; when it is empty `answer` decides, which by default repeats the prompt.
`provider.calls` is what came in. HTTP/1.1, and over TLS HTTP/2 where the client wants it. As a program it serves until its
standard input ends: `python tests/llm/provider.py --tls --latency-ms 50` prints one JSON line with base_url and ca_file.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import ssl
import struct
import sys
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.events
import trustme

Payload = dict[str, Any]
WAIT_S = 30.0


# -- what a request can meet ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reply:
    """An answer. `usage=False`: tokens are not counted; `cut`: the output tokens were used up."""

    text: str = ""
    tokens_in: int = 10
    tokens_out: int = 5
    usage: bool = True
    cut: bool = False


@dataclass(frozen=True)
class Refusal:
    """The model declines."""

    text: str = "I cannot help with that."


@dataclass(frozen=True)
class Status:
    """An answer that is an error, in the protocol's form. `body` replaces that."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    message: str = "something is wrong"
    code: str | None = None
    body: bytes | None = None


@dataclass(frozen=True)
class Raw:
    """Exactly this body, with status 200: invalid JSON, another protocol's, anything."""

    body: bytes


@dataclass(frozen=True)
class Truncated:
    """A complete response whose JSON ends in the middle."""


@dataclass(frozen=True)
class Reset:
    """The connection breaks in mid-body: with a reset, or closed as if that were all."""

    closed: bool = False


@dataclass(frozen=True)
class Slow:
    """One byte now and then, for ever."""

    pause_s: float = 0.01


@dataclass(frozen=True)
class Held:
    """An answer that comes when the event is set."""

    gate: asyncio.Event
    text: str = "at last"


Meeting = Reply | Refusal | Status | Raw | Truncated | Reset | Slow | Held


@dataclass(frozen=True, kw_only=True)
class Call:
    """One request that came in. `connection` counts from 0; `http` is "1.1" or "2"."""

    path: str
    headers: Mapping[str, str]
    body: Payload
    connection: int
    http: str

    @property
    def prompt(self) -> str:
        """Return what the model is asked, in whatever protocol."""
        asked = self.body.get("input") or self.body["messages"][-1]["content"]
        return str(asked)


# -- the three protocols ----------------------------------------------------------------------------------------------


def _chat(meeting: Reply | Refusal, model: str) -> Payload:
    refused = isinstance(meeting, Refusal)
    message = {"role": "assistant", "content": None if refused else meeting.text, "refusal": meeting.text if refused else None}
    payload: Payload = {"object": "chat.completion", "model": model, "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    if isinstance(meeting, Reply):
        payload["choices"][0]["finish_reason"] = "length" if meeting.cut else "stop"
        if meeting.usage:
            payload["usage"] = {"prompt_tokens": meeting.tokens_in, "completion_tokens": meeting.tokens_out}
    return payload


def _responses(meeting: Reply | Refusal, model: str) -> Payload:
    refused = isinstance(meeting, Refusal)
    part = {"type": "refusal", "refusal": meeting.text} if refused else {"type": "output_text", "text": meeting.text, "annotations": []}
    output = [{"type": "reasoning", "summary": []}, {"type": "message", "role": "assistant", "content": [part]}]
    payload: Payload = {"object": "response", "model": model, "status": "completed", "error": None, "output": output}
    if isinstance(meeting, Reply):
        if meeting.cut:
            payload |= {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
        if meeting.usage:
            payload["usage"] = {"input_tokens": meeting.tokens_in, "output_tokens": meeting.tokens_out}
    return payload


def _messages(meeting: Reply | Refusal, model: str, *, tool: str | None) -> Payload:
    blocks: list[Payload] = [{"type": "text", "text": meeting.text}] if meeting.text else []
    stop = "refusal" if isinstance(meeting, Refusal) else "max_tokens" if meeting.cut else "end_turn"
    if tool and isinstance(meeting, Reply) and meeting.text.lstrip().startswith("{"):
        blocks, stop = [{"type": "tool_use", "id": "toolu_1", "name": tool, "input": json.loads(meeting.text)}], "tool_use"
    payload: Payload = {"type": "message", "role": "assistant", "model": model, "content": blocks, "stop_reason": stop}
    if isinstance(meeting, Reply) and meeting.usage:
        payload["usage"] = {"input_tokens": meeting.tokens_in, "output_tokens": meeting.tokens_out}
    return payload


def _spoken(call: Call, meeting: Reply | Refusal) -> bytes:
    model = call.body["model"]
    if call.path.endswith("/chat/completions"):
        payload = _chat(meeting, model)
    elif call.path.endswith("/responses"):
        payload = _responses(meeting, model)
    else:
        payload = _messages(meeting, model, tool=(call.body.get("tool_choice") or {}).get("name"))
    return json.dumps(payload).encode()


def _error(status: Status) -> bytes:
    error = {"type": "api_error", "message": status.message, "code": status.code}
    return json.dumps({"type": "error", "error": error}).encode() if status.body is None else status.body


# -- the server -------------------------------------------------------------------------------------------------------


class LocalProvider:
    """What the server was asked, and what the next requests meet."""

    def __init__(self, answer: Callable[[Call], Meeting] | None, latency_s: float) -> None:
        self._answer = answer or (lambda call: Reply(call.prompt))
        self._latency_s = latency_s
        self._next: deque[Meeting] = deque()
        self._serving: dict[asyncio.Task[Any], asyncio.StreamWriter] = {}
        self.calls: list[Call] = []
        self.connections = 0
        self.now_open = self.most_at_once = 0
        self.base_url = ""
        self.ca_file: Path | None = None
        self.came = asyncio.Condition()

    def meets(self, *meetings: Meeting) -> None:
        """Put what the next requests meet into the queue."""
        self._next.extend(meetings)

    async def until(self, calls: int) -> None:
        """Wait until so many requests have come in."""
        async with asyncio.timeout(WAIT_S), self.came:
            await self.came.wait_for(lambda: len(self.calls) >= calls)

    async def until_no_connection(self) -> None:
        """Wait until every client has gone."""
        async with asyncio.timeout(WAIT_S):
            await asyncio.gather(*self._serving)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until it ends."""
        number, self.connections = self.connections, self.connections + 1
        tls = writer.get_extra_info("ssl_object")
        speak = self._http2 if tls is not None and tls.selected_alpn_protocol() == "h2" else self._http1
        task = asyncio.current_task()
        assert task is not None
        self._serving[task] = writer
        try:
            await speak(reader, writer, number)
        except* (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError, asyncio.CancelledError):
            pass
        finally:
            del self._serving[task]
            writer.close()

    async def meeting(self, call: Call) -> Meeting:
        """Return what a request meets, after the provider's latency."""
        self.calls.append(call)
        self.now_open += 1
        self.most_at_once = max(self.most_at_once, self.now_open)
        try:
            async with self.came:
                self.came.notify_all()
            meets = self._next.popleft() if self._next else self._answer(call)
            if self._latency_s:
                await asyncio.sleep(self._latency_s)
            if isinstance(meets, Held):
                await meets.gate.wait()
                return Reply(meets.text)
            return meets
        finally:
            self.now_open -= 1

    async def _http1(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int) -> None:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
            body = json.loads(await reader.readexactly(int(headers["content-length"])))
            call = Call(path=head[0].split(" ")[1], headers=headers, body=body, connection=connection, http="1.1")
            meets = await self.meeting(call)
            status, extra, content = _response(call, meets)
            lines = [f"HTTP/1.1 {status} x", "content-type: application/json", f"content-length: {len(content)}", *extra]
            answer_head = ("\r\n".join(lines) + "\r\n\r\n").encode()
            if isinstance(meets, Reset):
                writer.write(answer_head + content[: len(content) // 2])
                await writer.drain()
                if not meets.closed:
                    # Whoever closes without lingering resets.
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
                return
            if isinstance(meets, Slow):
                writer.write(answer_head)
                for byte in content * 1_000:
                    writer.write(bytes([byte]))
                    await writer.drain()
                    await asyncio.sleep(meets.pause_s)
            writer.write(answer_head + content)
            await writer.drain()

    async def _http2(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int) -> None:
        """Answers and whole error answers only: what breaks on the wire is HTTP/1.1's part."""
        http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        http.initiate_connection()
        heads: dict[int, dict[str, str]] = {}
        bodies: dict[int, bytearray] = {}

        async def respond(stream: int) -> None:
            head = heads[stream]
            call = Call(path=head[":path"], headers=head, body=json.loads(bodies[stream]), connection=connection, http="2")
            meets = await self.meeting(call)
            if isinstance(meets, Reset):
                http.reset_stream(stream)
            else:
                status, extra, content = _response(call, meets)
                more = [(name, value) for name, _, value in (line.partition(": ") for line in extra)]
                http.send_headers(stream, [(":status", str(status)), ("content-type", "application/json"), *more])
                http.send_data(stream, content, end_stream=True)
            writer.write(http.data_to_send())

        async with asyncio.TaskGroup() as group:
            writer.write(http.data_to_send())
            while received := await reader.read(65_536):
                for event in http.receive_data(received):
                    if isinstance(event, h2.events.RequestReceived):
                        heads[event.stream_id] = {str(name): str(value) for name, value in event.headers}
                        bodies[event.stream_id] = bytearray()
                    elif isinstance(event, h2.events.DataReceived):
                        bodies[event.stream_id] += event.data
                        http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                    elif isinstance(event, h2.events.StreamEnded):
                        group.create_task(respond(event.stream_id))
                writer.write(http.data_to_send())

    async def hang_up(self) -> None:
        """Break every connection, as a restart of the provider does."""
        tasks = list(self._serving)
        for task in tasks:
            self._serving[task].transport.abort()
            task.cancel()
        await asyncio.gather(*tasks)


def _response(call: Call, meets: Meeting) -> tuple[int, list[str], bytes]:
    if isinstance(meets, Status):
        return meets.status, [f"{name}: {value}" for name, value in meets.headers.items()], _error(meets)
    if isinstance(meets, Raw):
        return 200, [], meets.body
    whole = _spoken(call, meets if isinstance(meets, Reply | Refusal) else Reply("what is never read to its end"))
    return 200, [], whole[: len(whole) // 2] if isinstance(meets, Truncated) else whole


@asynccontextmanager
async def serving(
    *, tls: bool = False, http2: bool = False, latency_s: float = 0.0, answer: Callable[[Call], Meeting] | None = None
) -> AsyncIterator[LocalProvider]:
    """Serve on a free port of loopback. `http2` needs `tls`; the certificate is made for the occasion."""
    provider = LocalProvider(answer, latency_s)
    with tempfile.TemporaryDirectory() as directory:
        context = None
        if tls:
            provider.ca_file = Path(directory, "ca.pem")
            context = _certificates(provider.ca_file, ["h2", "http/1.1"] if http2 else ["http/1.1"])
        server = await asyncio.start_server(provider.serve, "127.0.0.1", 0, ssl=context)
        port = server.sockets[0].getsockname()[1]
        provider.base_url = f"{'https' if tls else 'http'}://127.0.0.1:{port}/v1"
        try:
            yield provider
        finally:
            server.close()
            await provider.hang_up()
            await server.wait_closed()


def _certificates(ca_file: Path, offers: list[str]) -> ssl.SSLContext:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(ca_file))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(offers)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


async def _main(args: argparse.Namespace) -> None:
    async with serving(tls=args.tls, http2=args.http2, latency_s=args.latency_ms / 1e3) as provider:
        print(json.dumps({"base_url": provider.base_url, "ca_file": str(provider.ca_file or "")}), flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--http2", action="store_true")
    parser.add_argument("--latency-ms", type=float, default=0.0)
    asyncio.run(_main(parser.parse_args()))
