"""A collector: it takes OTLP over HTTP, and reads it with OpenTelemetry's own protobuf definitions."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

WAIT_SECONDS = 60.0


class Collector:
    def __init__(self) -> None:
        self.url = ""
        self.spans: list[Span] = []
        self.services: set[str] = set()
        self.paths: set[str] = set()
        self._came = threading.Condition()

    def take(self, path: str, body: bytes) -> None:
        request = ExportTraceServiceRequest.FromString(body)
        with self._came:
            self.paths.add(path)
            for resource in request.resource_spans:
                self.services |= {one.value.string_value for one in resource.resource.attributes if "name" in one.key}
                for scope in resource.scope_spans:
                    self.spans += scope.spans
            self._came.notify_all()

    def wait_for(self, *names: str) -> None:
        """Until a span of each name has come."""
        with self._came:
            came = self._came.wait_for(lambda: {*names} <= {*self.names}, WAIT_SECONDS)
        assert came, f"no {names}, but {self.names}"

    @property
    def names(self) -> list[str]:
        return [span.name for span in self.spans]

    def named(self, name: str) -> Span:
        """The one of that name; fails if there is none, or more."""
        (found,) = [span for span in self.spans if span.name == name]
        return found


@contextmanager
def collecting(port: int = 0) -> Generator[Collector]:
    collector = Collector()
    server = ThreadingHTTPServer(("127.0.0.1", port), _handler_of(collector.take))
    collector.url = f"http://127.0.0.1:{server.server_port}"
    serving = threading.Thread(target=server.serve_forever, args=[0.02])
    serving.start()
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()
        serving.join()


def _handler_of(take: Callable[[str, bytes], None]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            take(self.path, body)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None: ...

    return Handler
