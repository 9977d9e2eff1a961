"""A server that speaks as much of Kubernetes as scaling needs: the scale subresource, with versions."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: test
clusters: [{{name: test, cluster: {{server: "{url}"}}}}]
users: [{{name: test, user: {{token: secret}}}}]
contexts: [{{name: test, context: {{cluster: test, user: test}}}}]
"""


class Kubernetes:
    """Objects by path, each with its number of replicas."""

    def __init__(self) -> None:
        self.replicas: dict[str, int] = {}
        self.version = 1
        self.requests: list[tuple[str, str, Any]] = []
        """Method, path, body."""
        self.tokens: set[str | None] = set()
        self.refuse: tuple[int, str] | None = None
        """Status and message for all requests."""
        self.conflicts = 0
        """So many changes meet another one that came before."""
        self.hang = threading.Event()
        self.released = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, name="kubernetes")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def start(self) -> "Kubernetes":
        self._thread.start()
        return self

    def stop(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    def kubeconfig(self, folder: Path) -> Path:
        """A file that leads here."""
        path = folder / "kubeconfig"
        path.write_text(KUBECONFIG.format(url=self.url))
        return path

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        self.requests.append((method, path, body))
        if self.hang.is_set():
            self.released.wait(30)
        if self.refuse is not None:
            return self.refuse[0], {"kind": "Status", "code": self.refuse[0], "message": self.refuse[1]}
        if path not in self.replicas:
            return 404, {"kind": "Status", "code": 404, "message": f"{path} not found"}
        if method == "PATCH":
            if self.conflicts:
                self.conflicts -= 1
                self.version += 1
            wanted = body.get("metadata", {}).get("resourceVersion")
            if wanted is not None and wanted != str(self.version):
                return 409, {"kind": "Status", "code": 409, "message": "the object has been modified"}
            self.version += 1
            self.replicas[path] = body["spec"]["replicas"]
        return 200, {
            "apiVersion": "autoscaling/v1",
            "kind": "Scale",
            "metadata": {"name": path.split("/")[-2], "resourceVersion": str(self.version)},
            "spec": {"replicas": self.replicas[path]},
            "status": {"replicas": self.replicas[path]},
        }

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        cluster = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _serve(self) -> None:
                size = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(size)) if size else None
                cluster.tokens.add(self.headers.get("Authorization"))
                status, answer = cluster.answer(self.command, self.path, body)
                encoded = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(encoded)))
                self.end_headers()
                self.wfile.write(encoded)

            do_GET = do_PATCH = _serve

            def log_message(self, *_: object) -> None:
                pass

        return Handler
