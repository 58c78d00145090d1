"""A Hub on this machine, for the unmodified clients: huggingface_hub, datasets and diffusers.

    with Hub(tmp_path) as hub:
        subprocess.run([...], env=hub.environment(tmp_path / "home"))

Large files go by Xet (`xet=True`), with `hf_xet` reading and writing a folder through its `local://` address, or by
plain Git LFS (`xet=False`: batch, then PUT). What is spoken, all below `/api` unless it starts with another name:

    GET  whoami-v2                                who the token is
    POST repos/create                             {name, organization, type, visibility} -> {url}; 409 where it exists;
                                                  a static Space begins with a page of the Hub's own
    POST validate-yaml                            {content} -> {errors, warnings}
    GET  {kind}/{id}[/revision/{rev}]             sha, siblings, ...; {kind} is models, datasets or spaces
    GET  {kind}/{id}/tree/{rev}[/{folder}]        files with size, git oid, LFS sha256 and Xet hash
    POST {kind}/{id}/paths-info/{rev}             the same of some paths
    GET  {kind}/{id}/refs                         branches and tags
    POST {kind}/{id}/tag/{rev}, .../branch/{name}
    POST {kind}/{id}/preupload/{rev}              {files: [{path, size}]} -> "lfs" or "regular", and its oid
    GET  {kind}/{id}/xet-(read|write)-token/{rev}
    POST {kind}/{id}/commit/{rev}                 lines of JSON: header, file, lfsFile, deletedFile, deletedFolder
    POST [{kind}/]{id}.git/info/lfs/objects/batch, then PUT objects/{sha256}
    GET, HEAD [{kind}/]{id}/resolve/{rev}/{path}     with Range; models have no {kind} in both

{rev} is a sha, a branch or a tag. Errors carry `X-Error-Code`, by which the clients know them. Writing needs the token;
a token that is wrong is refused everywhere.
"""

import base64
import hashlib
import json
import os
import re
import shutil
import struct
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

LARGE = (".parquet", ".npy", ".png", ".safetensors", ".bin")
"""As in the `.gitattributes` of a new repository; other files are large from LARGE_BYTES on."""
LARGE_BYTES = 10_000_000
STATIC = {
    "README.md": "---\ntitle: New\nsdk: static\n---\n\nCheck out the configuration reference\n",
    "index.html": "<h1>Welcome to your static Space!</h1>\n",
    "style.css": "body { padding: 2rem; }\n",
}
"""What a new static Space holds."""
CUT = 0
"""Instead of a status: the connection is cut without an answer."""


@dataclass(frozen=True)
class File:
    """A file at a revision; its content lies in the store under its sha256."""

    sha256: str
    size: int
    oid: str
    large: bool
    xet: str | None = None


@dataclass
class Repo:
    """Revisions: sha -> path -> file. `refs` are branches and tags."""

    private: bool = False
    gated: bool = False
    revisions: dict[str, dict[str, File]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, File], message: str, branch: str = "main") -> str:
        sha = hashlib.sha1(f"{len(self.messages)} {message}".encode()).hexdigest()
        self.revisions[sha], self.refs[branch] = files, sha
        self.messages.append(message)
        return sha


@dataclass(frozen=True)
class Request:
    """What was asked: `path` is without the query, decoded; `body` is complete."""

    method: str
    path: str
    body: bytes = field(repr=False)
    headers: dict[str, str] = field(repr=False)
    query: dict[str, list[str]] = field(repr=False)

    @property
    def line(self) -> str:
        return f"{self.method} {self.path}"


@dataclass
class Fault:
    pattern: str
    status: int
    times: float
    headers: dict[str, str]


@dataclass
class Answer(Exception):
    """Also raised, to answer from within."""

    status: int = 200
    body: Any = b""
    headers: dict[str, str] = field(default_factory=dict)


def refusal(status: int, code: str, message: str) -> Answer:
    return Answer(status, {"error": message}, {"X-Error-Code": code, "X-Error-Message": message})


class Hub:
    """The server; state is in memory, contents are in `folder`. Everything public may be changed while it runs."""

    def __init__(
        self, folder: Path, xet: bool = True, token: str = "hf_loopback", owners: tuple[str, ...] = ()
    ) -> None:
        self.store, self.cas, self.xet, self.token = folder / "store", folder / "cas", xet, token
        self.owners = owners or ("me", "synrep-bench")
        self.repos: dict[tuple[str, str], Repo] = {}
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.corrupt = "(?!)"
        """Files whose path this pattern finds are stored with their last byte changed."""
        self.before: Callable[[Request], None] = lambda request: None
        """Called with every request before it is answered."""
        self.lock = threading.RLock()
        for path in (self.store, self.cas):
            path.mkdir(parents=True)
        self.server = Server(("localhost", 0), type("Bound", (Handler,), {"hub": self}))

    @property
    def address(self) -> str:
        return "http://" + f"localhost:{self.server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def environment(self, home: Path, token: str | None = "", **more: str) -> dict[str, str]:
        """Of a client process: `home` is its cache; `token` is this server's, another, or None for none."""
        env = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
        env |= {"HF_ENDPOINT": self.address, "HF_HOME": str(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        env |= {} if self.xet else {"HF_HUB_DISABLE_XET": "1"}
        env |= {} if token is None else {"HF_TOKEN": token or self.token}
        return env | {"HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "*"} | more

    def fail(self, pattern: str, status: int, times: float = 1, **headers: str) -> None:
        """Answer the next `times` requests whose "METHOD path" the pattern finds with `status`; `CUT` cuts them off."""
        self.faults.append(Fault(pattern, status, times, {k.replace("_", "-"): v for k, v in headers.items()}))

    def lines(self, pattern: str) -> list[str]:
        """The requests so far, as "METHOD path", that the pattern finds."""
        return [request.line for request in self.requests if re.search(pattern, request.line)]

    def repo(self, name: str, kind: str = "datasets") -> Repo:
        return self.repos[kind, name]

    def put(self, name: str, folder: Path, kind: str = "models", message: str = "put") -> str:
        """Make the folder's files the next revision of a repository, without a client; returns its sha."""
        repo = self.repos.setdefault((kind, name), Repo())
        files = {}
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            place = path.relative_to(folder).as_posix()
            files[place] = self.keep(place, path.read_bytes())
        return repo.commit(files, message)

    def read(self, name: str, path: str, revision: str = "main", kind: str = "datasets") -> bytes:
        """A file's content."""
        repo = self.repo(name, kind)
        return (self.store / repo.revisions[repo.refs.get(revision, revision)][path].sha256).read_bytes()

    def keep(self, path: str, content: bytes, xet: str | None = None) -> File:
        if re.search(self.corrupt, path):
            content, xet = content[:-1] + bytes([content[-1] ^ 1]), None
        sha256 = hashlib.sha256(content).hexdigest()
        (self.store / sha256).write_bytes(content)
        large = is_large(path, len(content))
        kept = pointer(sha256, len(content)) if large else content
        oid = hashlib.sha1(b"blob %d\0" % len(kept) + kept).hexdigest()
        return File(sha256, len(content), oid, large, xet)

    def large_content(self, sha256: str) -> tuple[bytes, str | None]:
        """Content and Xet hash of an uploaded file."""
        hashes = self.xet_hashes() if self.xet else {}
        if hashes and not (self.store / sha256).exists():
            self.rebuild({name: xet for name, xet in hashes.items() if not (self.store / name).exists()})
        if not (self.store / sha256).exists():
            raise refusal(400, "BadRequest", f"object {sha256} was not uploaded")
        return (self.store / sha256).read_bytes(), hashes.get(sha256)

    def rebuild(self, hashes: dict[str, str]) -> None:
        """Files from their Xet hashes, into the store; from links to the folder, which the Xet client has locked."""
        import hf_xet

        def link(source: str, target: str) -> None:
            (shutil.copyfile if source.endswith(".redb") else os.link)(source, target)

        with tempfile.TemporaryDirectory(dir=self.cas.parent) as links:
            shutil.copytree(self.cas, links, copy_function=link, dirs_exist_ok=True)
            with hf_xet.XetSession().new_file_download_group(endpoint=f"local://{links}") as group:
                for sha256, xet in hashes.items():
                    group.start_download_file(hf_xet.XetFileInfo(xet, None), str(self.store / sha256))

    def xet_hashes(self) -> dict[str, str]:
        """sha256 -> Xet hash, of all files that the shards in the Xet folder describe."""
        found: dict[str, str] = {}
        for shard in self.cas.rglob("shards/*.mdb"):
            found |= dict(files_of_shard(shard.read_bytes()))
        return found


def is_large(path: str, size: int) -> bool:
    return path.endswith(LARGE) or size >= LARGE_BYTES


def pointer(sha256: str, size: int) -> bytes:
    """What Git itself holds for a large file."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def hexadecimal(words: bytes) -> str:
    """A Xet hash as it is written: four little-endian 64-bit words."""
    return "".join(f"{word:016x}" for word in struct.unpack("<4Q", words))


def files_of_shard(shard: bytes) -> Iterator[tuple[str, str]]:
    """(sha256, Xet hash) of the files that an .mdb shard describes: 48-byte entries after a 48-byte header."""
    place = 48
    while (words := shard[place : place + 32]) != b"\xff" * 32 and len(words) == 32:
        flags, segments = struct.unpack_from("<II", shard, place + 32)
        place += 48 * (1 + segments * (2 if flags & 0x80000000 else 1))
        if flags & 0x40000000:
            yield hexadecimal(shard[place : place + 32]), hexadecimal(words)
            place += 48


class Server(ThreadingHTTPServer):
    """Says nothing of clients that went away."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    hub: Hub
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True

    def log_message(self, *args: Any) -> None:
        """Nothing: requests are kept in `hub.requests`."""

    def answer(self) -> None:
        address = urlsplit(self.path)
        request = Request(
            self.command, unquote(address.path), self.content(), dict(self.headers), parse_qs(address.query)
        )
        self.hub.before(request)
        with self.hub.lock:
            self.hub.requests.append(request)
            try:
                answer = self.fault(request) or route(self.hub, request)
            except Answer as raised:
                answer = raised
        if answer.status == CUT:
            self.close_connection = True
            return
        body = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        self.send_response(answer.status)
        for name, value in ({"Content-Length": str(len(body))} | answer.headers).items():
            self.send_header(name, value)
        self.end_headers()
        if request.method != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_POST = do_PUT = answer

    def content(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            content = self.rfile.read(length := int(self.headers.get("Content-Length", 0)))
            if len(content) < length:
                raise ConnectionError("the client went away")
            return content
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def fault(self, request: Request) -> Answer | None:
        for fault in self.hub.faults:
            if fault.times > 0 and re.search(fault.pattern, request.line):
                fault.times -= 1
                return Answer(fault.status, {"error": "as the test wants it"}, fault.headers)
        return None


def route(hub: Hub, request: Request) -> Answer:  # noqa: PLR0911
    """Find who answers."""
    sent = request.headers.get("Authorization", request.headers.get("authorization"))
    known = sent == f"Bearer {hub.token}"
    if sent and not known:
        return Answer(401, {"error": "no"}, {"X-Error-Message": "Invalid credentials in Authorization header"})
    for pattern, function in ROUTES:
        if match := re.fullmatch(pattern, request.line):
            groups = match.groupdict()
            if "id" not in groups:
                return function(hub, request, known, **groups)
            kind = (groups.pop("kind") or "models").strip("/")
            repo = hub.repos.get((kind, groups.pop("id")))
            if repo is None or (repo.private and not known):
                return refusal(404 if known else 401, "RepoNotFound", "Repository not found")
            if request.method in ("POST", "PUT") and not known and "paths-info" not in request.path:
                return Answer(401, {"error": "Invalid username or password."})
            if "rev" in groups:
                groups["rev"] = repo.refs.get(groups["rev"] or "main", groups["rev"])
                if groups["rev"] not in repo.revisions and not request.path.endswith("preupload/main"):
                    return refusal(404, "RevisionNotFound", f"Invalid rev id: {groups['rev']}")
            return function(hub, request, repo, **groups)
    return refusal(404, "EntryNotFound", "no such address")


def whoami(hub: Hub, request: Request, known: bool) -> Answer:
    if not known:
        return Answer(401, {"error": "Invalid username or password."})
    orgs = [{"name": name} for name in hub.owners[1:]]
    return Answer(body={"type": "user", "name": hub.owners[0], "orgs": orgs, "auth": {"type": "access_token"}})


def create(hub: Hub, request: Request, known: bool) -> Answer:
    if not known:
        return Answer(401, {"error": "Invalid username or password."})
    asked = json.loads(request.body)
    owner = asked.get("organization") or hub.owners[0]
    kind, name = asked.get("type", "model") + "s", f"{owner}/{asked['name']}"
    if owner not in hub.owners:
        return refusal(403, "Forbidden", f'You don\'t have the rights to create a {kind[:-1]} under "{owner}"')
    url = {"url": f"{hub.address}/{name}" if kind == "models" else f"{hub.address}/{kind}/{name}"}
    if (kind, name) in hub.repos:
        return Answer(409, url | {"error": "You already created this repo"})
    repo = hub.repos[kind, name] = Repo(private=asked.get("visibility") == "private")
    attributes = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LARGE)
    files = {".gitattributes": attributes} | (STATIC if asked.get("sdk") == "static" else {})
    repo.commit({path: hub.keep(path, text.encode()) for path, text in files.items()}, "initial commit")
    return Answer(body=url)


def validate(hub: Hub, request: Request, known: bool) -> Answer:
    """A small part of what the Hub checks, with its messages."""
    content = json.loads(request.body)["content"]
    match = re.match(r"---\r?\n(.*?)\r?\n---", content, re.DOTALL)
    errors, warnings = [], []
    try:
        data = yaml.safe_load(match[1]) if match else None
    except yaml.YAMLError as error:
        data = {}
        errors.append({"message": f"YAML metadata is not valid: {error}"})
    if data is None:
        warnings.append({"message": "empty or missing yaml metadata in repo card"})
    elif not re.fullmatch(r"[a-z0-9.\-]+", str(data.get("license", "unknown"))):
        errors.append({"message": '"license" must be one of the known identifiers'})
    elif data.get("license") == "other" and not {"license_name", "license_link"} <= data.keys():
        warnings.append({"message": '"license_name" and "license_link" are wanted with "other"'})
    return Answer(400 if errors else 200, {"errors": errors, "warnings": warnings})


def entry(path: str, file: File) -> dict[str, Any]:
    """As trees list it."""
    found: dict[str, Any] = {"type": "file", "path": path, "size": file.size, "oid": file.oid}
    if file.large:
        lfs = {"oid": file.sha256, "size": file.size, "pointerSize": len(pointer(file.sha256, file.size))}
        found |= {"lfs": lfs} | ({"xetHash": file.xet} if file.xet else {})
    return found


def info(hub: Hub, request: Request, repo: Repo, rev: str) -> Answer:
    name = re.sub(r"/api/(models|datasets|spaces)/|/revision/.*", "", request.path)
    siblings = [{"rfilename": path} for path in sorted(repo.revisions[rev])]
    body = {
        "_id": "0",
        "id": name,
        "sha": rev,
        "private": repo.private,
        "siblings": siblings,
        "tags": [],
        "downloads": 0,
    }
    dates = {"createdAt": "2026-01-01T00:00:00.000Z", "lastModified": "2026-01-01T00:00:00.000Z"}
    return Answer(body=body | dates | {"gated": "auto" if repo.gated else False, "disabled": False, "likes": 0})


def tree(hub: Hub, request: Request, repo: Repo, rev: str, folder: str | None) -> Answer:
    prefix, files = (f"{folder.strip('/')}/" if folder and folder != "/" else ""), repo.revisions[rev]
    inside = {path: file for path, file in sorted(files.items()) if path.startswith(prefix)}
    if prefix and not inside:
        return refusal(404, "EntryNotFound", f"{prefix} does not exist")
    listed: dict[str, dict[str, Any]] = {}
    for path, file in inside.items():
        parts = path[len(prefix) :].split("/")
        for depth in range(1, len(parts)):
            directory = prefix + "/".join(parts[:depth])
            listed[directory] = {"type": "directory", "path": directory, "size": 0, "oid": "0" * 40}
        listed[path] = entry(path, file)
    if request.query.get("recursive", ["false"])[0].lower() != "true":
        listed = {path: found for path, found in listed.items() if "/" not in path[len(prefix) :]}
    return Answer(body=list(listed.values()))


def paths_info(hub: Hub, request: Request, repo: Repo, rev: str) -> Answer:
    body = request.body.decode()
    paths = json.loads(body)["paths"] if body.startswith("{") else parse_qs(body)["paths"]
    files = repo.revisions[rev]
    return Answer(body=[entry(path, files[path]) for path in paths if path in files])


def refs(hub: Hub, request: Request, repo: Repo) -> Answer:
    branches = [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": sha} for n, sha in repo.refs.items()]
    return Answer(body={"branches": branches, "converts": [], "tags": []})


def tag(hub: Hub, request: Request, repo: Repo, rev: str) -> Answer:
    repo.refs[json.loads(request.body)["tag"]] = rev
    return Answer(body={})


def branch(hub: Hub, request: Request, repo: Repo, name: str) -> Answer:
    start = json.loads(request.body or b"{}").get("startingPoint", "main")
    repo.refs[name] = repo.refs.get(start, start)
    return Answer(body={})


def preupload(hub: Hub, request: Request, repo: Repo, rev: str) -> Answer:
    there, files = repo.revisions.get(rev, {}), []
    for file in json.loads(request.body)["files"]:
        path, old = file["path"], there.get(file["path"])
        mode = "lfs" if is_large(path, file["size"]) else "regular"
        known = {"oid": old.sha256 if old.large else old.oid} if old else {}
        files.append({"path": path, "uploadMode": mode, "shouldIgnore": False} | known)
    return Answer(body={"files": files})


def xet_token(hub: Hub, request: Request, repo: Repo, rev: str) -> Answer:
    if not hub.xet:
        return Answer(404, {"error": "no Xet here"})
    cas, token, expires = f"local://{hub.cas}", "cas", 4_000_000_000
    headers = {"X-Xet-Cas-Url": cas, "X-Xet-Access-Token": token, "X-Xet-Token-Expiration": str(expires)}
    return Answer(body={"casUrl": cas, "accessToken": token, "exp": expires}, headers=headers)


def commit(hub: Hub, request: Request, repo: Repo, rev: str) -> Answer:
    files, message = dict(repo.revisions[rev]), ""
    for line in request.body.decode().splitlines():
        key, value = (item := json.loads(line))["key"], item["value"]
        if key == "header":
            message = value["summary"]
            if value.get("parentCommit", rev) != rev:
                return refusal(412, "PreconditionFailed", "A commit has happened since. Please refresh and try again.")
        elif key == "file":
            files[value["path"]] = hub.keep(value["path"], base64.b64decode(value["content"]))
        elif key == "lfsFile":
            files[value["path"]] = hub.keep(value["path"], *hub.large_content(value["oid"]))
        else:
            gone = value["path"].rstrip("/")
            files = {p: f for p, f in files.items() if p != gone and not p.startswith(f"{gone}/")}
    on = [name for name, sha in repo.refs.items() if sha == rev and request.path.endswith(f"/{name}")]
    sha = repo.commit(files, message, (on or ["main"])[0])
    place = request.path.split("/commit/")[0].removeprefix("/api/").removeprefix("models/")
    return Answer(body={"commitUrl": f"{hub.address}/{place}/commit/{sha}", "commitOid": sha, "success": True})


def lfs_batch(hub: Hub, request: Request, repo: Repo) -> Answer:
    objects = []
    for wanted in json.loads(request.body)["objects"]:
        there = (hub.store / wanted["oid"]).exists()
        upload = {"upload": {"href": f"{hub.address}/objects/{wanted['oid']}"}}
        objects.append(wanted if there else wanted | {"actions": upload})
    return Answer(body={"transfer": "basic", "objects": objects})


def lfs_put(hub: Hub, request: Request, known: bool, sha256: str) -> Answer:
    if hashlib.sha256(request.body).hexdigest() != sha256:
        return Answer(400, {"error": "content and address differ"})
    (hub.store / sha256).write_bytes(request.body)
    return Answer()


def resolve(hub: Hub, request: Request, repo: Repo, rev: str, path: str) -> Answer:
    if repo.gated:
        return refusal(403, "GatedRepo", "Access to this repository is restricted: ask for it on its page")
    if path not in repo.revisions[rev]:
        return refusal(404, "EntryNotFound", f"{path} does not exist in {rev}")
    file, headers = repo.revisions[rev][path], {"X-Repo-Commit": rev, "Accept-Ranges": "bytes"}
    headers["ETag"] = f'"{file.sha256 if file.large else file.oid}"'
    if file.large:
        headers |= {"X-Linked-Etag": headers["ETag"], "X-Linked-Size": str(file.size)}
    if file.xet and hub.xet:
        place = re.sub(r"^/(?!datasets/|spaces/)", "/models/", request.path.split("/resolve/")[0])
        headers |= {"X-Xet-Hash": file.xet}
        headers |= {"Link": f'<{hub.address}/api{place}/xet-read-token/{rev}>; rel="xet-auth"'}
    content = (hub.store / file.sha256).read_bytes()
    if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", request.headers.get("range", ""))):
        start, end = int(asked[1]), min(int(asked[2] or file.size), file.size - 1)
        headers["Content-Range"] = f"bytes {start}-{end}/{file.size}"
        return Answer(206, content[start : end + 1], headers)
    return Answer(200, content, headers)


KIND = r"/api/(?P<kind>models|datasets|spaces)/(?P<id>[^/]+(?:/[^/]+)?)"
PAGE = r"/(?P<kind>datasets/|spaces/)?(?P<id>[^/]+(?:/[^/]+)?)"
REV = r"(?P<rev>refs/[^/]+/[^/]+|[^/]+)"
ROUTES: list[tuple[str, Callable[..., Answer]]] = [
    (r"GET /api/whoami-v2", whoami),
    (r"POST /api/repos/create", create),
    (r"POST /api/validate-yaml", validate),
    (rf"GET {KIND}/revision/{REV}", info),
    (rf"GET {KIND}/tree/{REV}(?P<folder>/.*)?", tree),
    (rf"POST {KIND}/paths-info/{REV}", paths_info),
    (rf"GET {KIND}/refs", refs),
    (rf"POST {KIND}/tag/{REV}", tag),
    (rf"POST {KIND}/branch/(?P<name>.+)", branch),
    (rf"POST {KIND}/preupload/{REV}", preupload),
    (rf"GET {KIND}/xet-(?:read|write)-token/{REV}", xet_token),
    (rf"POST {KIND}/commit/{REV}", commit),
    (rf"POST {PAGE}\.git/info/lfs/objects/batch", lfs_batch),
    (r"PUT /objects/(?P<sha256>[0-9a-f]{64})", lfs_put),
    (rf"(?:GET|HEAD) {PAGE}/resolve/{REV}/(?P<path>.+)", resolve),
    (rf"GET {KIND}(?P<rev>)", info),
]
