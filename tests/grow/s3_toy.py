"""An object store on loopback that speaks as much of S3 as a driver needs; keys are not checked."""

from __future__ import annotations

import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

LIST = (
    "<ListBucketResult><Name>team</Name><KeyCount>{n}</KeyCount><IsTruncated>false</IsTruncated>"
    "{keys}</ListBucketResult>"
)
BEGUN = "<InitiateMultipartUploadResult><UploadId>{name}</UploadId></InitiateMultipartUploadResult>"
DONE = "<CompleteMultipartUploadResult><ETag>x</ETag></CompleteMultipartUploadResult>"
NO_KEY = "<Error><Code>NoSuchKey</Code><Message>no such key</Message></Error>"


class Bucket(ThreadingHTTPServer):
    """Objects by their path, and the parts of uploads that are not complete."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects: dict[str, bytes] = {}
        self.parts: dict[str, dict[int, bytes]] = {}
        self.url = f"http://127.0.0.1:{self.server_port}"
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Bucket

    def asked(self) -> tuple[str, dict[str, str]]:
        parts = urlsplit(self.path)
        query = parse_qs(parts.query, keep_blank_values=True)
        return parts.path, {name: values[0] for name, values in query.items()}

    def body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        else:
            data = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
        if "aws-chunked" not in self.headers.get("Content-Encoding", ""):
            return data
        whole, rest = b"", data
        while rest:
            head, _, rest = rest.partition(b"\r\n")
            size = int(head.split(b";")[0], 16)
            if not size:
                break
            whole, rest = whole + rest[:size], rest[size + 2 :]
        return whole

    def do_PUT(self) -> None:
        path, query = self.asked()
        data = self.body()
        if "uploadId" in query:
            self.server.parts[query["uploadId"]][int(query["partNumber"])] = data
        else:
            self.server.objects[path] = data
        self.reply(200, b"", ETag='"x"')

    def do_POST(self) -> None:
        path, query = self.asked()
        self.body()
        if "uploads" in query:
            name = uuid.uuid4().hex
            self.server.parts[name] = {}
            return self.reply(200, BEGUN.format(name=name).encode())
        parts = self.server.parts.pop(query["uploadId"])
        self.server.objects[path] = b"".join(parts[number] for number in sorted(parts))
        return self.reply(200, DONE.encode())

    def do_GET(self) -> None:
        path, query = self.asked()
        if "list-type" in query:
            prefix = f"{path.rstrip('/')}/{query.get('prefix', '')}"
            keys = [key for key in self.server.objects if key.startswith(prefix)]
            shown = "".join(f"<Contents><Key>{key}</Key></Contents>" for key in keys[:1])
            return self.reply(200, LIST.format(n=len(shown), keys=shown).encode())
        data = self.server.objects.get(path)
        if data is None:
            return self.reply(404, NO_KEY.encode())
        if "Range" not in self.headers:
            return self.reply(200, data)
        first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
        end = min(int(last) + 1 if last else len(data), len(data))
        shown = f"bytes {first}-{end - 1}/{len(data)}"
        return self.reply(206, data[int(first) : end], **{"Content-Range": shown})

    do_HEAD = do_GET

    def reply(self, status: int, data: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_: object) -> None: ...
