"""A small archive: cloud-optimised GeoTIFFs with a STAC API and a static catalogue, served by a process of its own.

`python -m tests.data.ingest.scene_server FOLDER` serves FOLDER over HTTP with byte ranges, prints its port, and answers
`/api` as a STAC API from FOLDER/items.json, three items a page. `/fault?path=P&kind=K&times=N` makes the next N
requests of P fail: `500`, `cut` (half of a body), `cut_tile` (half of a body that is not the file's beginning). `/seen`
counts the requests of each path. /signed/P is P for those who bring the token that /token/sentinel-1-rtc gives.
"""

import json
import re
import sys
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import parse_qs, urlsplit

PAGE = 3
CONFORMS = [
    "https://api.stacspec.org/v1.0.0/core",
    "https://api.stacspec.org/v1.0.0/item-search",
    "https://api.stacspec.org/v1.0.0/collections",
]


class Archive(BaseHTTPRequestHandler):
    """Files under `root`, the API under /api, and faults."""

    root: Path
    faults: ClassVar[dict] = {}
    seen: ClassVar[Counter] = Counter()
    lock = threading.Lock()
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        url = urlsplit(self.path)
        words = {key: values[0] for key, values in parse_qs(url.query).items()}
        if url.path == "/fault":
            self.faults[words["path"]] = [words["kind"], int(words["times"])]
            return self.answer_json({})
        if url.path == "/seen":
            return self.answer_json(dict(self.seen))
        if url.path.startswith("/token/"):
            return self.answer_json({"msft:expiry": "2099-01-01T00:00:00Z", "token": f"sig={url.path[7:]}&x=1"})
        if url.path.startswith("/signed/"):
            if words.get("sig") != "sentinel-1-rtc":
                return self.answer(403, b"not signed", "text/plain")
            url = url._replace(path=url.path.removeprefix("/signed"))
        kind = self.next_fault(url.path)
        if kind == "500":
            return self.answer(500, b"out of order", "text/plain")
        if url.path.startswith("/api"):
            return self.api(url.path.removeprefix("/api"), words)
        file = self.root / url.path.lstrip("/")
        if not file.is_file():
            return self.answer(404, b"nothing there", "text/plain")
        inside = not self.headers.get("Range", "bytes=0-").startswith("bytes=0-")
        return self.ranged(file.read_bytes(), kind == "cut" or (kind == "cut_tile" and inside))

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.next_fault("/api/search") == "500":
            return self.answer(500, b"out of order", "text/plain")
        return self.search(body)

    def next_fault(self, path):
        with self.lock:
            self.seen[path] += 1
            fault = self.faults.get(path)
            if fault is None or fault[1] == 0:
                return None
            fault[1] -= 1
            return fault[0]

    def ranged(self, content, cut):
        found = re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        first, last = 0, len(content) - 1
        if found:
            first, last = int(found[1]), min(int(found[2] or last), last)
        part = content[first : last + 1]
        self.send_response(206 if found else 200)
        self.send_header("Content-Type", "image/tiff")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(part)))
        if found:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        self.end_headers()
        self.wfile.write(part[: len(part) // 2] if cut else part)
        if cut:
            self.close_connection = True

    def api(self, path, words):
        here = f"http://{self.headers['Host']}/api"
        collections = sorted({item["collection"] for item in self.items()})
        if path in ("", "/"):
            links = [
                {"rel": "self", "href": here},
                {"rel": "root", "href": here},
                {"rel": "data", "href": f"{here}/collections"},
                {"rel": "search", "href": f"{here}/search", "type": "application/geo+json", "method": "POST"},
            ]
            return self.answer_json(
                {"type": "Catalog", "id": "archive", "stac_version": "1.0.0", "description": "small"}
                | {"conformsTo": CONFORMS, "links": links}
            )
        if path == "/collections":
            described = [collection(name, here) for name in collections]
            return self.answer_json({"collections": described, "links": [{"rel": "self", "href": here + path}]})
        return self.answer(404, b"nothing there", "text/plain")

    def items(self):
        return json.loads((self.root / "items.json").read_text())

    def search(self, body):
        west, south, east, north = body["bbox"]
        first, last = body["datetime"].split("/")
        found = [
            item
            for item in self.items()
            if item["collection"] in body["collections"]
            and item["bbox"][0] < east
            and west < item["bbox"][2]
            and item["bbox"][1] < north
            and south < item["bbox"][3]
            and first <= item["properties"]["datetime"] <= last
        ]
        start = int(body.get("token", 0))
        here = f"http://{self.headers['Host']}/api/search"
        links = []
        if start + PAGE < len(found):
            more = body | {"token": start + PAGE}
            links = [{"rel": "next", "href": here, "method": "POST", "body": more}]
        self.answer_json({"type": "FeatureCollection", "features": found[start : start + PAGE], "links": links})

    def answer_json(self, tree):
        self.answer(200, json.dumps(tree).encode(), "application/json")

    def answer(self, status, body, kind):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def collection(name, here):
    """A collection as an API lists it."""
    extent = {"spatial": {"bbox": [[-180, -90, 180, 90]]}, "temporal": {"interval": [["2015-01-01T00:00:00Z", None]]}}
    return {
        "type": "Collection",
        "id": name,
        "stac_version": "1.0.0",
        "description": name,
        "license": "proprietary",
        "extent": extent,
        "links": [{"rel": "self", "href": f"{here}/collections/{name}"}],
    }


class Server(ThreadingHTTPServer):
    """Clients that hang up are no news."""

    def handle_error(self, request, client_address):
        pass


if __name__ == "__main__":
    Archive.root = Path(sys.argv[1])
    server = Server(("127.0.0.1", 0), Archive)
    print(server.server_address[1], flush=True)
    server.serve_forever()
