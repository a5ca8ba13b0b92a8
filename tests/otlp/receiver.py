"""A receiver of OTLP over HTTP, which reads the messages by OpenTelemetry's own code.

It says its port, and then each request as a line of JSON: the path, the headers, and the spans. What it answers is in
the path: /refuses, /busy, /partly, /silent, and anything else takes all. With a certificate and its key as arguments, it
speaks TLS.
"""
import json
import ssl
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

writing = threading.Lock()


def say(what):
    with writing:
        print(json.dumps(what), flush=True)


def attributes(of):
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in of}


def unknown(message):
    """Fields that the published messages do not have."""
    from google.protobuf.unknown_fields import UnknownFieldSet

    found = [field.field_number for field in UnknownFieldSet(message)]
    for descriptor, value in message.ListFields():
        if descriptor.message_type:
            parts = [value] if hasattr(value, "ListFields") else value
            found += [number for part in parts for number in unknown(part)]
    return found


def spans(body):
    request = ExportTraceServiceRequest()
    request.ParseFromString(body)
    assert not unknown(request), unknown(request)
    for of_resource in request.resource_spans:
        for of_scope in of_resource.scope_spans:
            for span in of_scope.spans:
                yield {
                    "trace": span.trace_id.hex(),
                    "id": span.span_id.hex(),
                    "parent": span.parent_span_id.hex(),
                    "name": span.name,
                    "kind": Span.SpanKind.Name(span.kind),
                    "from": span.start_time_unix_nano,
                    "to": span.end_time_unix_nano,
                    "status": Status.StatusCode.Name(span.status.code),
                    "attributes": attributes(span.attributes),
                    "resource": attributes(of_resource.resource.attributes),
                    "scope": of_scope.scope.name,
                }


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        say({"path": self.path, "headers": dict(self.headers.items()), "spans": list(spans(body))})
        if self.path.startswith("/silent"):
            threading.Event().wait()
        status, answer = 200, ExportTraceServiceResponse()
        if self.path.startswith("/refuses"):
            status = 400
        if self.path.startswith("/busy"):
            status = 503
        if self.path.startswith("/partly"):
            answer.partial_success.rejected_spans = 2
            answer.partial_success.error_message = "two too many"
        answer = answer.SerializeToString()
        self.send_response(status)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
server.daemon_threads = True
if len(sys.argv) == 3:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*sys.argv[1:])
    server.socket = context.wrap_socket(server.socket, server_side=True)
say({"port": server.server_address[1]})
# It ends with who started it.
threading.Thread(target=lambda: (sys.stdin.read(), server.shutdown()), daemon=True).start()
server.serve_forever()
