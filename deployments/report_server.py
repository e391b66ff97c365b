"""Serve reports and pictures of the home to a browser on this machine, and nothing else of it."""

from __future__ import annotations

import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from flows.settings import Settings

SERVED = ("/reports/", "/objects/")
"""Folders of the home that are shown: not the ledger, not the volumes."""


HOSTS = ("127.0.0.1", "localhost")
"""Names by which a browser may ask: a page elsewhere cannot read reports by giving its own name our address."""


class _Handler(SimpleHTTPRequestHandler):
    def send_head(self) -> Any:
        """Answer those who ask for this machine by its own name."""
        if self.headers.get("Host", "").partition(":")[0] not in HOSTS:
            self.send_error(403)
            return None
        return super().send_head()

    def translate_path(self, path: str) -> str:
        """Map an address to a file; anything outside the served folders is a file that is not there."""
        found = super().translate_path(path)
        relative = found.removeprefix(self.directory)
        return found if relative.startswith(SERVED) else f"{self.directory}/reports/not-served"

    def list_directory(self, path: str) -> None:  # type: ignore[override]
        """Show no listings."""
        self.send_error(404)

    def log_message(self, format: str, *args: object) -> None:
        """Keep no record of who looked at what."""


def serve(port: int) -> None:
    """Serve until the process ends."""
    handler = partial(_Handler, directory=str(Settings().open_home().root))
    with ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        server.serve_forever()


if __name__ == "__main__":
    serve(int(sys.argv[1]))
