"""A server on loopback that behaves as GitHub's documentation says of releases; four hosts, a port each.

- `api` (api.github.com): docs.github.com/rest/releases/releases and …/assets, …/using-pagination-in-the-rest-api,
  …/rate-limits-for-the-rest-api, …/troubleshooting-the-rest-api, …/repos/repos#get-a-repository. A draft is in the
  list for who may push and nowhere else; what one may not see is 404; `digest` is "sha256:…"; a taken name is 422 with
  `already_exists`; at most `most` entries come on a page, and the Link header names the next one.
- `uploads` (uploads.github.com): takes an asset's bytes; what breaks off leaves an asset in state `starter`.
- `web` (github.com): `OWNER/NAME/releases/download/TAG/FILE` of a public release redirects to the fourth host.
- `objects` (where assets are stored): links that expire after `lifetime` seconds, Range and If-Range; a link with an
  Authorization header beside its signature is refused, as the object stores behind GitHub do.

`hooks` see every request before it is carried out, after, and an upload once it has begun: they may raise DropError to
break the connection, and before and after return a `Reply` to send instead. What the documentation does not say is not
known here either.
"""

import contextlib
import hashlib
import hmac
import json
import mmap
import re
import socket
import tempfile
import threading
import time
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from urllib.parse import parse_qs, quote, unquote, urlsplit

WRITER, READER = "ghp_writes0123456789", "ghp_reads0123456789"
REPO = "octo/weights"
MOVED = "/repositories/7/"  # the same, by its number: what redirects of a renamed repository lead to
LARGE = 1 << 20


class DropError(Exception):
    """Break the connection without an answer."""


@dataclass(frozen=True)
class Reply:
    """An answer: what is sent as JSON, or as it is where it is bytes."""

    status: int
    content: object = None
    headers: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """What was asked for. `moment` is "before" or "after" it was carried out, or "begun" for an upload."""

    host: str
    method: str
    path: str
    query: dict
    token: str | None
    moment: str = "before"

    def __str__(self):
        return f"{self.method} {self.path}"


class GitHub:
    """The server, the releases that it has, and what was asked of it."""

    def __init__(self, *, private=False, most=100, lifetime=300.0):
        self.private, self.most, self.lifetime = private, most, lifetime
        self.releases, self.hooks, self.log = {}, [], []
        self.numbers, self.lock, self.secret = count(1), threading.RLock(), b"a secret"

    def __enter__(self):
        self.servers = {host: _Server(("127.0.0.1", 0), partial(handler, self)) for host, handler in HANDLERS.items()}
        self.threads = [
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
            for server in self.servers.values()
        ]
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        for server in self.servers.values():
            server.shutdown()
            server.server_close()
        for thread in self.threads:
            thread.join(5)

    def url(self, host, path=""):
        """Where something is."""
        return f"http://127.0.0.1:{self.servers[host].server_port}{path}"

    def base(self, tag, repo=REPO):
        """The folder in which a release's files are, for downloads."""
        return self.url("web", f"/{repo}/releases/download/{tag}")

    def held(self, tag):
        """Name → bytes of the release of a tag, which there is once; and whether it is public."""
        (release,) = [release for release in self.releases.values() if release["tag_name"] == tag]
        assets = {asset["name"]: asset["data"] for asset in release["assets"].values() if asset["state"] == "uploaded"}
        assert len(assets) == len(release["assets"])
        return assets, not release["draft"]

    def seen(self, request):
        """Log a request and ask the hooks."""
        with self.lock:
            if request.moment == "before":
                self.log.append(request)
            for hook in list(self.hooks):
                reply = hook(request)
                if reply is not None:
                    return reply
        return None

    # the releases

    def release_json(self, release):
        """A release as the API tells it."""
        path = f"/repos/{REPO}/releases/{release['id']}"
        tag = f"untagged-{release['id']}" if release["draft"] else release["tag_name"]
        return {
            **{key: release[key] for key in ("id", "tag_name", "name", "body", "draft")},
            "prerelease": False,
            "url": self.url("api", path),
            "html_url": self.url("web", f"/{REPO}/releases/tag/{tag}"),
            "upload_url": self.url("uploads", f"{path}/assets") + "{?name,label}",
            "assets": [self.asset_json(release, asset) for asset in release["assets"].values()],
        }

    def asset_json(self, release, asset):
        """An asset as the API tells it."""
        done = asset["state"] == "uploaded"
        return {
            **{key: asset[key] for key in ("id", "name", "state", "content_type")},
            "size": len(asset["data"]),
            "digest": self.digest(asset) if done else None,
            "url": self.url("api", f"/repos/{REPO}/releases/assets/{asset['id']}"),
            "browser_download_url": f"{self.base(quote(release['tag_name'], safe=''))}/{asset['name']}",
        }

    def digest(self, asset):
        """An asset's digest, computed once for the same bytes."""
        if asset.get("hashed", (None,))[0] is not asset["data"]:
            asset["hashed"] = asset["data"], f"sha256:{hashlib.sha256(asset['data']).hexdigest()}"
        return asset["hashed"][1]

    def find_asset(self, number):
        """An asset and its release."""
        for release in self.releases.values():
            if number in release["assets"]:
                return release, release["assets"][number]
        return None, None

    def link(self, asset):
        """A link to an asset's bytes that expires."""
        until = f"{time.time() + self.lifetime:.3f}"
        return self.url("objects", f"/{asset['id']}?se={until}&sig={self.signed(asset['id'], until)}")

    def signed(self, number, until):
        """What only this server can write."""
        return hmac.new(self.secret, f"{number} {until}".encode(), hashlib.sha256).hexdigest()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request, client_address):
        """A client that goes away is no news."""


class _Handler(BaseHTTPRequestHandler):
    host = ""

    def __init__(self, github, *args):
        self.github = github
        super().__init__(*args)

    def serve(self):
        """Answer one request, or break the connection."""
        self.close_connection = True
        parts = urlsplit(self.path)
        header = self.headers.get("Authorization")
        token = re.sub("^(Bearer|token) ", "", header) if header else None
        request = Request(self.host, self.command, unquote(parts.path), parse_qs(parts.query), token)
        try:
            reply = self.github.seen(request) or self.carried_out(request)
            reply = self.github.seen(Request(**{**vars(request), "moment": "after"})) or reply
            self.send(reply)
        except DropError:
            self.drop()

    def do_GET(self):
        """Answer."""
        self.serve()

    def do_POST(self):
        """Answer."""
        self.serve()

    def do_PATCH(self):
        """Answer."""
        self.serve()

    def do_DELETE(self):
        """Answer."""
        self.serve()

    def carried_out(self, request):
        """What comes of a request."""
        with self.github.lock:
            return self.answer(request)

    def send(self, reply):
        plain = isinstance(reply.content, bytes | memoryview)
        data = reply.content if plain else json.dumps(reply.content).encode() if reply.content is not None else b""
        self.send_response(reply.status)
        kind = "application/octet-stream" if plain else "application/json; charset=utf-8"
        for name, value in {"Content-Type": kind, "Content-Length": len(data), **reply.headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(data)

    def drop(self):
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def refused(self, request, *, change):
        """What keeps a request out, or None."""
        if not self.headers.get("User-Agent"):
            return Reply(
                403, b"Request forbidden by administrative rules. Please make sure your request has a User-Agent"
            )
        if request.token not in (None, WRITER, READER):
            return Reply(401, {"message": "Bad credentials", "status": "401"})
        hidden = self.github.private and request.token is None
        if hidden or not f"{request.path}/".startswith((f"/repos/{REPO}/", MOVED)):
            return Reply(404, {"message": "Not Found", "status": "404"})
        if change and request.token is None:
            return Reply(401, {"message": "Requires authentication", "status": "401"})
        if change and request.token != WRITER:
            return Reply(403, {"message": "Resource not accessible by personal access token", "status": "403"})
        return None

    def log_message(self, *args):
        """Keep the test's output quiet."""


def _invalid(resource, code, name):
    errors = [{"folder": resource, "code": code, "field": name}]
    return Reply(422, {"message": "Validation Failed", "errors": errors, "status": "422"})


MISSING = Reply(404, {"message": "Not Found", "status": "404"})


class _Api(_Handler):
    def answer(self, request):
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        if refusal := self.refused(request, change=request.method != "GET"):
            return refusal
        path = f"{request.path}/".removeprefix(f"/repos/{REPO}/").removeprefix(MOVED).removesuffix("/")
        for pattern, methods in self.routes.items():
            if (match := re.fullmatch(pattern, path)) and request.method in methods:
                return methods[request.method](self, request, body, *match.groups())
        return MISSING

    def listed(self, request, entries):
        """A page of a list, and where the next one is."""
        size = min(int(request.query.get("per_page", ["30"])[0]), self.github.most)
        number = int(request.query.get("page", ["1"])[0])
        headers = {}
        if number * size < len(entries):
            following = self.github.url("api", f"{request.path}?per_page={size}&page={number + 1}")
            last = self.github.url("api", f"{request.path}?per_page={size}&page={-(-len(entries) // size)}")
            headers["Link"] = f'<{following}>; rel="next", <{last}>; rel="last"'
        return Reply(200, entries[(number - 1) * size : number * size], headers)

    def get_repository(self, request, body):
        url = self.github.url("api", f"/repos/{REPO}")
        return Reply(200, {"id": 7, "name": REPO.partition("/")[2], "full_name": REPO, "url": url})

    def list_releases(self, request, body):
        releases = sorted(self.github.releases.values(), key=lambda release: -release["id"])
        seen = [release for release in releases if not release["draft"] or request.token == WRITER]
        return self.listed(request, [self.github.release_json(release) for release in seen])

    def create_release(self, request, body):
        tag = (body or {}).get("tag_name")
        if not tag:
            return _invalid("Release", "missing_field", "tag_name")
        if any(held["tag_name"] == tag and not held["draft"] for held in self.github.releases.values()):
            return _invalid("Release", "already_exists", "tag_name")
        number = next(self.github.numbers)
        fields = {"name": body.get("name"), "body": body.get("body"), "draft": bool(body.get("draft"))}
        self.github.releases[number] = {"id": number, "tag_name": tag, **fields, "assets": {}}
        return Reply(201, self.github.release_json(self.github.releases[number]))

    def by_tag(self, request, body, tag):
        for release in self.github.releases.values():
            if release["tag_name"] == tag and not release["draft"]:
                return Reply(200, self.github.release_json(release))
        return MISSING

    def update_release(self, request, body, number):
        release = self.github.releases.get(int(number))
        if release is None:
            return MISSING
        release.update({key: value for key, value in body.items() if key in ("tag_name", "name", "body", "draft")})
        return Reply(200, self.github.release_json(release))

    def list_assets(self, request, body, number):
        release = self.github.releases.get(int(number))
        if release is None or (release["draft"] and request.token != WRITER):
            return MISSING
        return self.listed(request, [self.github.asset_json(release, asset) for asset in release["assets"].values()])

    def get_asset(self, request, body, number):
        release, asset = self.github.find_asset(int(number))
        if release is None or (release["draft"] and request.token != WRITER):
            return MISSING
        if self.headers.get("Accept") == "application/octet-stream":
            return Reply(302, None, {"Location": self.github.link(asset)})
        return Reply(200, self.github.asset_json(release, asset))

    def delete_asset(self, request, body, number):
        release, asset = self.github.find_asset(int(number))
        if release is None:
            return MISSING
        del release["assets"][asset["id"]]
        return Reply(204)

    routes = {  # noqa: RUF012 (nobody changes it)
        r"": {"GET": get_repository},
        r"releases": {"GET": list_releases, "POST": create_release},
        r"releases/tags/(.+)": {"GET": by_tag},
        r"releases/(\d+)": {"PATCH": update_release},
        r"releases/(\d+)/assets": {"GET": list_assets},
        r"releases/assets/(\d+)": {"GET": get_asset, "DELETE": delete_asset},
    }


class _Uploads(_Handler):
    def carried_out(self, request):
        """Not under the lock: an upload takes its time."""
        length = int(self.headers.get("Content-Length") or 0)
        match = re.fullmatch(rf"/repos/{re.escape(REPO)}/releases/(\d+)/assets", request.path)
        if refusal := self.refused(request, change=True):
            return refusal
        release = self.github.releases.get(int(match[1])) if match and request.method == "POST" else None
        if release is None:
            return MISSING
        name = re.sub(r"[^A-Za-z0-9._+-]+", ".", request.query.get("name", [""])[0]).strip(".")
        with self.github.lock:
            if any(asset["name"] == name for asset in release["assets"].values()):
                self.rfile.read(length)
                return _invalid("ReleaseAsset", "already_exists", "name")
            number = next(self.github.numbers)
            kind = self.headers.get("Content-Type")
            asset = {"id": number, "name": name, "state": "starter", "content_type": kind, "data": b""}
            release["assets"][number] = asset
        self.github.seen(Request(**{**vars(request), "moment": "begun"}))
        data = self.received(length)
        with self.github.lock:
            asset.update(state="uploaded", data=data)
            return Reply(201, self.github.asset_json(release, asset))

    def received(self, length):
        """What is uploaded: bytes, or where that would take much memory, a file's that has no name any more."""
        if length < LARGE:
            data = self.rfile.read(length)
            if len(data) < length:
                raise DropError
            return data
        with tempfile.TemporaryFile() as file:
            while length and (piece := self.rfile.read(min(length, LARGE))):
                length -= file.write(piece)
            if length:
                raise DropError
            file.flush()
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


class _Web(_Handler):
    def answer(self, request):
        match = re.fullmatch(rf"/{re.escape(REPO)}/releases/download/(.+)/([^/]+)", request.path)
        for release in self.github.releases.values() if match else ():
            if release["tag_name"] == match[1] and not release["draft"] and not self.github.private:
                for asset in release["assets"].values():
                    if asset["name"] == match[2]:
                        return Reply(302, None, {"Location": self.github.link(asset)})
        return Reply(404, b"Not Found")


class _Objects(_Handler):
    def answer(self, request):
        number, until = int(request.path.strip("/")), request.query["se"][0]
        if request.token is not None:
            return Reply(400, b"<Error><Code>InvalidArgument</Code></Error>")
        if request.query["sig"][0] != self.github.signed(number, until) or float(until) < time.time():
            return Reply(403, b"<Error><Code>AuthenticationFailed</Code></Error>")
        data = memoryview(self.github.find_asset(number)[1]["data"])
        etag = f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'
        span = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if not span or self.headers.get("If-Range") not in (None, etag):
            return Reply(200, data, {"ETag": etag})
        first = int(span[1])
        if first >= len(data):
            return Reply(416, b"", {"Content-Range": f"bytes */{len(data)}"})
        fields = {"ETag": etag, "Content-Range": f"bytes {first}-{len(data) - 1}/{len(data)}"}
        return Reply(206, data[first:], fields)


HANDLERS = {
    host: type(f"_{host}", (handler,), {"host": host})
    for host, handler in {"api": _Api, "uploads": _Uploads, "web": _Web, "objects": _Objects}.items()
}
