"""A server on loopback that answers huggingface_hub as the Hugging Face Hub does, for repositories of models.

What is asked for and how it is answered: huggingface_hub 2.4.0 (hf_api.py, file_download.py, _commit_api.py, lfs.py,
utils/_http.py), https://huggingface.co/docs/hub/api, and git-lfs's batch API. Commits have a history, tags point at
them; what ends as weights do goes by LFS, and is redirected to a link elsewhere; anything else has git's SHA-1.
`HF_HUB_DISABLE_XET` must be set: the storage of chunks that the real Hub offers is not known here. `hooks` see every
request, and may return an answer in its place: (status, JSON or bytes, headers).
"""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

WRITER = "hf_writes0123456789"
LARGE = (".safetensors", ".bin", ".h5", ".pth", ".npz")


class Hub:
    """The server, its repositories (name → commits, tags, who may see it), what LFS holds and what was asked for."""

    def __init__(self):
        self.repos, self.objects, self.hooks, self.log = {}, {}, [], []

    def __enter__(self):
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Handler,), {"hub": self}))
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(5)

    @property
    def url(self):
        """Where it listens."""
        return f"http://127.0.0.1:{self.server.server_port}"

    def make(self, repo, **access):
        """A repository; `private` or `gated` for those that not everybody sees."""
        self.repos[repo] = {"commits": [(_oid("initial", {}), {})], "tags": {}, "access": access}

    def commit(self, repo, files, tag=None):
        """Another commit with these files beside the old ones; its hash."""
        held = self.repos[repo]
        content = {**held["commits"][-1][1], **files}
        oid = _oid(held["commits"][-1][0], content)
        held["commits"].append((oid, content))
        if tag:
            held["tags"][tag] = oid
        return oid

    def put_folder(self, repo, folder, **words):
        """The files of a folder as a commit."""
        return self.commit(repo, {path.name: path.read_bytes() for path in folder.iterdir()}, **words)

    def at(self, repo, revision):
        """Hash and files of a revision; None for none."""
        held = self.repos[repo]
        commits = dict(held["commits"])
        oid = held["commits"][-1][0] if revision in (None, "main") else held["tags"].get(revision, revision)
        return (oid, commits[oid]) if oid in commits else None

    @contextmanager
    def used(self, monkeypatch, tmp_path, token=None):
        """huggingface_hub in this process, talking to this server; it keeps what its environment said on import."""
        from huggingface_hub import constants

        values = {
            "ENDPOINT": self.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": self.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(tmp_path / "hub"),
            "HF_HUB_DISABLE_XET": True,
            "HF_TOKEN_PATH": str(tmp_path / "token"),
        }
        with monkeypatch.context() as patch:
            for name, value in values.items():
                patch.setattr(constants, name, value)
            patch.delenv("HF_TOKEN", raising=False)
            if token:
                patch.setenv("HF_TOKEN", token)
            yield self

    def environment(self, tmp_path):
        """What another process needs to talk to this server."""
        return {"HF_ENDPOINT": self.url, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_DISABLE_XET": "1"}


def _oid(before, files):
    lines = [before, *(f"{name} {sha256(data)}" for name, data in sorted(files.items()))]
    return sha256("\n".join(lines).encode())[:40]


def blob(data):
    """The name of git's blob."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def _refused(status, code):
    return status, {"error": code}, {"X-Error-Code": code}


class _Handler(BaseHTTPRequestHandler):
    hub = None

    def serve(self):
        self.path, _, _ = self.path.partition("?")
        path = unquote(urlsplit(self.path).path)
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else self._chunks()
        self.hub.log.append(f"{self.command} {path}")
        self.token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        answer = next((reply for hook in self.hub.hooks if (reply := hook(self.command, path))), None)
        self.reply(*(answer or self.answer(path, body)))

    def do_GET(self):
        """Answer."""
        self.serve()

    def do_HEAD(self):
        """Answer without the content."""
        self.serve()

    def do_POST(self):
        """Answer."""
        self.serve()

    def do_PUT(self):
        """Answer."""
        self.serve()

    def do_DELETE(self):
        """Answer."""
        self.serve()

    def _chunks(self):
        data = b""
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                data += self.rfile.read(size)
                self.rfile.readline()
        return data

    def reply(self, status, content=b"", headers=None):
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(data), **(headers or {})}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *args):
        """Keep the test's output quiet."""

    # what is asked for

    def answer(self, path, body):
        if path == "/api/repos/create":
            return self.create(json.loads(body))
        if match := re.fullmatch(r"/lfs/([0-9a-f]{64})", path):
            return self.large(match[1], body)
        for pattern, answer in self.routes.items():
            if match := re.fullmatch(pattern, path):
                held = self.hub.repos.get(match[1])
                if refusal := self.refusal(held):
                    return refusal
                return answer(self, match[1], body, *match.groups()[1:])
        return _refused(404, "NotFound")

    def refusal(self, held):
        """What keeps somebody out; the Hub does not tell strangers whether a repository is private or none."""
        if held is None or (held["access"].get("private") and self.token != WRITER):
            return _refused(404 if self.token else 401, "RepoNotFound")
        if held["access"].get("gated") and self.token != WRITER and "/resolve/" in self.path:
            return _refused(403, "GatedRepo")
        if self.command in ("POST", "DELETE", "PUT") and self.token != WRITER:
            return _refused(403, "Forbidden")
        return None

    def create(self, wanted):
        if self.token != WRITER:
            return _refused(401, "Unauthorized")
        repo = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
        url = {"url": f"{self.hub.url}/{repo}", "id": repo, "name": repo}
        if repo in self.hub.repos:
            return 409, {**url, "error": "You already created this model repo"}, {}
        self.hub.make(repo)
        return 200, url, {}

    def info(self, repo, _body, revision=None):
        found = self.hub.at(repo, revision)
        if found is None:
            return _refused(404, "RevisionNotFound")
        siblings = [{"rfilename": name} for name in found[1]]
        return 200, {"id": repo, "modelId": repo, "sha": found[0], "siblings": siblings, "tags": []}, {}

    def tree(self, repo, _body, revision):
        found = self.hub.at(repo, revision)
        if found is None:
            return _refused(404, "RevisionNotFound")
        return 200, [self.entry(name, data) for name, data in found[1].items()], {}

    def entry(self, name, data):
        entry = {"type": "file", "path": name, "size": len(data), "oid": blob(data)}
        if name.endswith(LARGE):
            entry["lfs"] = {"oid": sha256(data), "size": len(data), "pointerSize": 134}
        return entry

    def resolve(self, repo, _body, revision, name):
        found = self.hub.at(repo, revision)
        if found is None:
            return _refused(404, "RevisionNotFound")
        commit, files = found
        headers = {"X-Repo-Commit": commit}
        if name not in files:
            status, content, more = _refused(404, "EntryNotFound")
            return status, content, {**headers, **more}
        data = files[name]
        if not name.endswith(LARGE):
            return 200, data, {**headers, "ETag": f'"{blob(data)}"'}
        self.hub.objects[sha256(data)] = data
        linked = {"X-Linked-Etag": f'"{sha256(data)}"', "X-Linked-Size": len(data)}
        elsewhere = self.hub.url.replace("127.0.0.1", "localhost")  # the token must not go there
        return 302, b"", {**headers, **linked, "Location": f"{elsewhere}/lfs/{sha256(data)}"}

    def large(self, oid, body):
        if self.command == "PUT":
            if sha256(body) != oid:
                return 400, {"error": "other bytes"}, {}
            self.hub.objects[oid] = body
            return 200, {}, {}
        return 200, self.hub.objects[oid], {}

    def refs(self, repo, _body):
        held = self.hub.repos[repo]
        tags = [{"name": name, "ref": f"refs/tags/{name}", "targetCommit": oid} for name, oid in held["tags"].items()]
        head = {"name": "main", "ref": "refs/heads/main", "targetCommit": held["commits"][-1][0]}
        return 200, {"branches": [head], "converts": [], "tags": tags}, {}

    def preupload(self, repo, body, _revision):
        head = self.hub.repos[repo]["commits"][-1][1]
        files = []
        for file in json.loads(body)["files"]:
            name = file["path"]
            mode = "lfs" if name.endswith(LARGE) else "regular"
            oid = (sha256 if mode == "lfs" else blob)(head[name]) if name in head else None
            files.append({"path": name, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return 200, {"files": files}, {}

    def batch(self, _repo, body):
        objects = []
        for wanted in json.loads(body)["objects"]:
            there = wanted["oid"] in self.hub.objects
            upload = {"actions": {"upload": {"href": f"{self.hub.url}/lfs/{wanted['oid']}"}}}
            objects.append({"oid": wanted["oid"], "size": wanted["size"], **({} if there else upload)})
        return 200, {"transfer": "basic", "objects": objects}, {}

    def committed(self, repo, body, _revision):
        header, *operations = [json.loads(line) for line in body.splitlines()]
        if header["value"].get("parentCommit") not in (None, self.hub.repos[repo]["commits"][-1][0]):
            return 412, {"error": "the branch has moved"}, {}
        files = {}
        for operation in operations:
            value = operation["value"]
            large = operation["key"] == "lfsFile"
            files[value["path"]] = self.hub.objects[value["oid"]] if large else base64.b64decode(value["content"])
        oid = self.hub.commit(repo, files)
        return 200, {"commitUrl": f"{self.hub.url}/{repo}/commit/{oid}", "commitOid": oid}, {}

    def tag(self, repo, body, name):
        tags = self.hub.repos[repo]["tags"]
        if self.command == "DELETE":
            del tags[name]
            return 200, {}, {}
        wanted = json.loads(body)["tag"]
        if wanted in tags:
            return 409, {"error": "Tag reference exists already"}, {}
        tags[wanted] = self.hub.at(repo, name)[0]
        return 200, {}, {}

    routes = {  # noqa: RUF012 (nobody changes it)
        r"/api/models/([^/]+/[^/]+)": info,
        r"/api/models/([^/]+/[^/]+)/revision/(.+)": info,
        r"/api/models/([^/]+/[^/]+)/tree/(.+)": tree,
        r"/api/models/([^/]+/[^/]+)/refs": refs,
        r"/api/models/([^/]+/[^/]+)/preupload/(.+)": preupload,
        r"/api/models/([^/]+/[^/]+)/commit/(.+)": committed,
        r"/api/models/([^/]+/[^/]+)/tag/(.+)": tag,
        r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch": batch,
        r"/([^/]+/[^/]+)/resolve/((?:refs/[^/]+/)?[^/]+)/(.+)": resolve,
    }
