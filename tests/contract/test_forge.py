"""What every Forge promises, asked of the fake, of a bare repository, and of GitHub's API over HTTP."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit

import pytest

from tidegate import plumbing, ports
from tidegate.adapters.github import MAX_BODY, GitHubForge
from tidegate.adapters.local_forge import LocalForge, init
from tidegate.errors import ConfigError, Conflict, PlatformError, Refused, Unreachable
from tidegate.testing import FakeForge

AUTHOR = "tidegate <tidegate@localhost>"
ADA = "Ada <ada@example.org>"
BRANCH = "promote/canary/flight-delay/aaaaaaaaaaaa"


class Stand(Protocol):
    """A forge, and a way to push to it."""

    forge: ports.Forge

    def push(self, branch: str) -> str: ...
    def make_conflict(self, branch: str) -> None: ...
    def comments(self, number: int) -> list[str]: ...


class FakeStand:
    def __init__(self) -> None:
        self.forge = FakeForge()
        self.pushes = 0

    def push(self, branch: str) -> str:
        self.pushes += 1
        self.forge.push(branch, f"{self.pushes:040x}")
        return self.forge.heads[branch]

    def make_conflict(self, branch: str) -> None:
        self.forge.conflicting.add(branch)

    def comments(self, number: int) -> list[str]:
        return list(self.forge.written.get(number, {}).values())


class LocalStand:
    def __init__(self, root: Path) -> None:
        self.bare = root / "origin.git"
        init(self.bare, Path("/bin/true"))
        self.clone = root / "clone"
        plumbing.git(root, "clone", "--quiet", str(self.bare), str(self.clone))
        for key, value in (("user.name", "Ada"), ("user.email", "ada@example.org")):
            plumbing.git(self.clone, "config", key, value)
        plumbing.git(self.clone, "checkout", "--quiet", "-b", "main")
        self.write("main", {"README.md": "hi\n", "envs/canary/release.yaml": "models: {}\n"}, new=False)
        self.forge = LocalForge(self.bare)
        self.pushes = 0

    def write(self, branch: str, files: dict[str, str], *, new: bool = True) -> str:
        if new:
            plumbing.git(self.clone, "fetch", "--quiet", "origin")
            plumbing.git(self.clone, "checkout", "--quiet", "-B", branch, "origin/main")
        for name, text in files.items():
            path = self.clone / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        plumbing.git(self.clone, "add", "-A")
        plumbing.git(self.clone, "commit", "--quiet", "-m", f"Write {', '.join(files)}")
        plumbing.git(self.clone, "push", "--quiet", "--force", "origin", f"HEAD:refs/heads/{branch}")
        return plumbing.git(self.clone, "rev-parse", "HEAD")

    def push(self, branch: str) -> str:
        self.pushes += 1
        return self.write(branch, {"changed.txt": f"{self.pushes}\n"})

    def make_conflict(self, branch: str) -> None:
        self.write("main", {"changed.txt": "something else\n"})

    def comments(self, number: int) -> list[str]:
        return list(self.forge.comments(number).values())


class GitHub(ThreadingHTTPServer):
    """Answers the calls that the adapter makes as docs.github.com/rest says."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.heads: dict[str, str] = {}
        self.conflicting: set[str] = set()
        self.pulls: dict[int, dict[str, Any]] = {}
        self.notes: dict[int, dict[str, Any]] = {}
        self.failures: list[tuple[int, dict[str, str]]] = []  # answered first, in order
        self.seen: list[tuple[str, str, Any]] = []

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, Any]:
        path = path.removeprefix("/repos/owner/name")
        if path == "/pulls" and method == "GET":
            return 200, self._page(
                [p for p in reversed(self.pulls.values()) if self._wanted(p, query)], query
            )
        if path == "/pulls" and method == "POST":
            return self._create(body)
        if found := re.fullmatch(r"/issues/(\d+)/comments", path):
            number = int(found[1])
            if method == "GET":
                return 200, self._page([n for n in self.notes.values() if n["pull"] == number], query)
            if number not in self.pulls:
                return 404, {"message": "Not Found"}
            note = {"id": len(self.notes) + 1, "pull": number, "body": body["body"]}
            self.notes[note["id"]] = note
            return 201, note
        if (found := re.fullmatch(r"/issues/comments/(\d+)", path)) and method == "PATCH":
            self.notes[int(found[1])]["body"] = body["body"]
            return 200, self.notes[int(found[1])]
        found = re.fullmatch(r"/pulls/(\d+)(/reviews|/merge)?", path)
        if not found or int(found[1]) not in self.pulls:
            return 404, {"message": "Not Found"}
        return self._one(method, self.pulls[int(found[1])], found[2], body)

    def _wanted(self, pull: dict[str, Any], query: dict[str, str]) -> bool:
        head = query.get("head", "").removeprefix("owner:")
        return query.get("state") in ("all", pull["state"]) and head in ("", pull["head"]["ref"])

    def _page(self, items: list[Any], query: dict[str, str]) -> list[Any]:
        size, page = int(query.get("per_page", "30")), int(query.get("page", "1"))
        return items[(page - 1) * size : page * size]

    def _create(self, body: Any) -> tuple[int, Any]:
        if body["head"] not in self.heads:
            errors = [{"resource": "PullRequest", "field": "head", "code": "invalid"}]
            return 422, {"message": "Validation Failed", "errors": errors}
        number = len(self.pulls) + 1
        head = {"ref": body["head"], "sha": self.heads[body["head"]], "label": f"owner:{body['head']}"}
        self.pulls[number] = {
            "number": number,
            "state": "open",
            "title": body["title"],
            "body": body["body"],
            "head": head,
            "user": {"login": "bot"},
            "merged_at": None,
            "html_url": f"https://github.test/{number}",
        }
        return 201, self.pulls[number]

    def _one(self, method: str, pull: dict[str, Any], what: str | None, body: Any) -> tuple[int, Any]:
        if pull["head"]["ref"] in self.heads and pull["state"] == "open":
            pull["head"]["sha"] = self.heads[pull["head"]["ref"]]
        if what is None:
            if method == "PATCH":
                pull.update(body)
            return 200, pull
        if what == "/reviews":
            return 200, {"id": 1, "state": "APPROVED"}
        if pull["head"]["ref"] in self.conflicting:
            return 405, {"message": "Pull Request is not mergeable"}
        if body["sha"] != pull["head"]["sha"]:
            return 409, {"message": "Head branch was modified. Review and try the merge again."}
        pull.update(state="closed", merged_at="2026-11-22T00:00:00Z", merged_by={"login": "ada"})
        del self.heads[pull["head"]["ref"]]
        return 200, {"sha": "f" * 40, "merged": True, "message": "Pull Request successfully merged"}


class _Handler(BaseHTTPRequestHandler):
    server: GitHub

    def log_message(self, *arguments: Any) -> None:
        pass

    def _do(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        at = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(at.query).items()}
        self.server.seen.append((self.command, at.path, dict(self.headers)))
        extra: dict[str, str] = {}
        if self.headers.get("authorization") != "Bearer secret":
            code, document = 401, {"message": "Bad credentials"}
        elif self.server.failures:
            (code, extra), document = self.server.failures.pop(0), {"message": "later"}
        else:
            code, document = self.server.answer(self.command, at.path, query, body)
        data = json.dumps(document).encode()
        self.send_response(code)
        for key, value in {
            **extra,
            "content-type": "application/json",
            "content-length": str(len(data)),
        }.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PATCH = do_PUT = _do  # noqa: N815


class GitHubStand:
    def __init__(self, server: GitHub) -> None:
        self.server = server
        self.url = f"http://127.0.0.1:{server.server_port}"
        self.forge = GitHubForge(self.url, "owner/name", "secret", wait=0.001)
        self.pushes = 0

    def push(self, branch: str) -> str:
        self.pushes += 1
        self.server.heads[branch] = f"{self.pushes:040x}"
        return self.server.heads[branch]

    def make_conflict(self, branch: str) -> None:
        self.server.conflicting.add(branch)

    def comments(self, number: int) -> list[str]:
        return [n["body"].split("\n", 1)[1] for n in self.server.notes.values() if n["pull"] == number]


@pytest.fixture
def github() -> Iterator[GitHubStand]:
    server = GitHub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield GitHubStand(server)
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(params=["fake", "local", "github"])
def stand(request: pytest.FixtureRequest, tmp_path: Path) -> Stand:
    if request.param == "fake":
        return FakeStand()
    if request.param == "local":
        return LocalStand(tmp_path)
    found: Stand = request.getfixturevalue("github")
    return found


# ---------------------------------------------------------------- every forge
def test_opened_is_listed(stand: Stand) -> None:
    """An opened pull request is listed as open, with the head that was pushed and what it was given."""
    head = stand.push(BRANCH)
    opened = stand.forge.open(BRANCH, "Promote", "the report", AUTHOR)
    (listed,) = stand.forge.list()
    assert listed == opened
    assert (listed.branch, listed.title, listed.body) == (BRANCH, "Promote", "the report")
    assert (listed.author, listed.state, listed.head) == (AUTHOR, "open", head)


def test_open_twice_updates(stand: Stand) -> None:
    """Opening a branch again keeps the number and replaces title and body."""
    stand.push(BRANCH)
    first = stand.forge.open(BRANCH, "Promote", "old", AUTHOR)
    second = stand.forge.open(BRANCH, "Promote again", "new", AUTHOR)
    assert second.number == first.number
    assert [(p.title, p.body) for p in stand.forge.list()] == [("Promote again", "new")]


def test_newest_first(stand: Stand) -> None:
    """Pull requests are listed newest first."""
    for branch in ("one", "two", "three"):
        stand.push(branch)
        stand.forge.open(branch, branch, "", AUTHOR)
    assert [pull.branch for pull in stand.forge.list()] == ["three", "two", "one"]


def test_unpushed_branch_conflicts(stand: Stand) -> None:
    """A branch that nobody pushed can't be opened."""
    with pytest.raises(Conflict, match=r"[Pp]ush"):
        stand.forge.open("nowhere", "Promote", "", AUTHOR)


def test_merge(stand: Stand) -> None:
    """A merge returns its commit, and the pull request is merged from then on."""
    stand.push(BRANCH)
    number = stand.forge.open(BRANCH, "Promote", "", AUTHOR).number
    commit = stand.forge.merge(number, ADA, "gates pass")
    assert re.fullmatch("[0-9a-f]{40}", commit)
    assert [pull.state for pull in stand.forge.list()] == ["merged"]
    with pytest.raises(Refused, match=r"merged|closed"):
        stand.forge.merge(number, ADA, "gates pass")


def test_merged_branch_opens_anew(stand: Stand) -> None:
    """The same branch pushed again after its merge gets a pull request of its own."""
    stand.push(BRANCH)
    first = stand.forge.open(BRANCH, "Promote", "", AUTHOR)
    stand.forge.merge(first.number, ADA, "gates pass")
    stand.push(BRANCH)
    second = stand.forge.open(BRANCH, "Promote", "", AUTHOR)
    assert second.number != first.number
    assert [pull.state for pull in stand.forge.list()] == ["open", "merged"]


def test_a_newer_promotion_closes_the_older_ones(stand: Stand) -> None:
    """Of one model's promotions to one environment, only the newest is open; all others are untouched."""
    others = (
        "promote/production/flight-delay/aaaaaaaaaaaa",
        "promote/canary/other/aaaaaaaaaaaa",
        "topic/a/b",
    )
    newer = "promote/canary/flight-delay/bbbbbbbbbbbb"
    for branch in (BRANCH, *others, newer):
        stand.push(branch)
        stand.forge.open(branch, branch, "", AUTHOR)
    stand.forge.open(newer, "updated", "", AUTHOR)
    states = {pull.branch: pull.state for pull in stand.forge.list()}
    assert states == {newer: "open", **dict.fromkeys(others, "open"), BRANCH: "closed"}
    with pytest.raises(Refused, match="is closed"):
        stand.forge.merge(1, ADA, "gates pass")


def test_a_superseded_promotion_opens_anew(stand: Stand) -> None:
    """The older release, promoted again, gets a new pull request, and supersedes the newer one."""
    newer = "promote/canary/flight-delay/bbbbbbbbbbbb"
    for branch in (BRANCH, newer, BRANCH):
        stand.push(branch)
        stand.forge.open(branch, branch, "", AUTHOR)
    found = [(pull.branch, pull.state) for pull in stand.forge.list()]
    assert found == [(BRANCH, "open"), (newer, "closed"), (BRANCH, "closed")]


def test_author_cannot_approve(stand: Stand) -> None:
    """Nobody approves what they opened."""
    stand.push(BRANCH)
    number = stand.forge.open(BRANCH, "Promote", "", AUTHOR).number
    with pytest.raises(Refused):
        stand.forge.merge(number, AUTHOR, "mine")
    assert stand.forge.list()[0].state == "open"


@pytest.mark.parametrize(("approver", "reason"), [(ADA, "  "), ("", "because")])
def test_approver_and_reason_are_needed(stand: Stand, approver: str, reason: str) -> None:
    """A merge without a name or a reason is refused."""
    stand.push(BRANCH)
    number = stand.forge.open(BRANCH, "Promote", "", AUTHOR).number
    with pytest.raises(Refused):
        stand.forge.merge(number, approver, reason)


def test_conflict_with_main(stand: Stand) -> None:
    """What does not merge with main is a Conflict, and stays open."""
    stand.push(BRANCH)
    number = stand.forge.open(BRANCH, "Promote", "", AUTHOR).number
    stand.make_conflict(BRANCH)
    with pytest.raises(Conflict):
        stand.forge.merge(number, ADA, "gates pass")
    assert stand.forge.list()[0].state == "open"


def test_unknown_number(stand: Stand) -> None:
    """A number that was never given is refused, for merging and for commenting."""
    with pytest.raises(Refused):
        stand.forge.merge(77, ADA, "gates pass")
    with pytest.raises(Refused):
        stand.forge.comment(77, "report", "text")


def test_comment_is_replaced_in_place(stand: Stand) -> None:
    """A comment with the same marker replaces the one before; another marker is another comment."""
    stand.push(BRANCH)
    number = stand.forge.open(BRANCH, "Promote", "", AUTHOR).number
    stand.forge.comment(number, "report", "first")
    stand.forge.comment(number, "other", "other")
    stand.forge.comment(number, "report", "second")
    assert sorted(stand.comments(number)) == ["other", "second"]


# ---------------------------------------------------------------- the bare repository
@pytest.fixture
def local(tmp_path: Path) -> LocalStand:
    return LocalStand(tmp_path)


def test_merge_commit(local: LocalStand) -> None:
    """The merge commit has main and the head as parents and says who approved and why; the branch is gone."""
    main = plumbing.resolve(local.bare, "main")
    head = local.push(BRANCH)
    number = local.forge.open(BRANCH, "Promote", "", AUTHOR).number
    commit = local.forge.merge(number, ADA, "gates pass\nTidegate-Approved-By: Mallory")
    assert plumbing.git(local.bare, "rev-parse", "main") == commit
    assert plumbing.git(local.bare, "log", "-1", "--format=%P", commit) == f"{main} {head}"
    approved = plumbing.git(
        local.bare, "log", "-1", "--format=%(trailers:key=Tidegate-Approved-By,valueonly)", commit
    )
    assert approved.strip() == ADA
    reason = plumbing.git(
        local.bare, "log", "-1", "--format=%(trailers:key=Tidegate-Reason,valueonly)", commit
    )
    assert reason.startswith("gates pass")
    assert plumbing.resolve(local.bare, f"refs/heads/{BRANCH}") is None
    assert plumbing.resolve(local.bare, f"refs/pull/{number}/head") == head


def test_merge_is_an_ordinary_push(local: LocalStand, tmp_path: Path) -> None:
    """The hook sees a merge as a push of main, and is told not to be followed."""
    hook = local.bare / "hooks" / "post-receive"
    hook.write_text(f'#!/bin/sh\ncat > {tmp_path}/pushed; echo "$TIDEGATE_FOLLOW" >> {tmp_path}/pushed\n')
    local.push(BRANCH)
    number = local.forge.open(BRANCH, "Promote", "", AUTHOR).number
    commit = local.forge.merge(number, ADA, "gates pass")
    pushed, follow = (tmp_path / "pushed").read_text().splitlines()
    assert pushed.endswith(f" {commit} refs/heads/main")
    assert follow == "0"


def test_superseded_says_by_which(local: LocalStand) -> None:
    """A superseded pull request says so, keeps its commits, and leaves no branch behind."""
    newer = "promote/canary/flight-delay/bbbbbbbbbbbb"
    head = local.push(BRANCH)
    local.forge.open(BRANCH, "Promote", "", AUTHOR)
    local.push(newer)
    local.forge.open(newer, "Promote", "", AUTHOR)
    assert local.forge.list()[-1].reason == "superseded by 2"
    assert plumbing.resolve(local.bare, f"refs/heads/{BRANCH}") is None
    assert plumbing.resolve(local.bare, "refs/pull/1/head") == head
    with pytest.raises(Refused, match="superseded by 2"):
        local.forge.merge(1, ADA, "gates pass")


def test_a_merge_that_git_can_not_try_is_no_conflict(local: LocalStand) -> None:
    """A failure of the machine is told as such: "does not merge" would send people to the wrong place."""
    number = local.forge.open(BRANCH, "t", "b", AUTHOR).number if local.push(BRANCH) else 0
    head = plumbing.git(local.bare, "rev-parse", f"refs/heads/{BRANCH}^{{tree}}")
    (local.bare / "objects" / head[:2] / head[2:]).unlink()
    with pytest.raises(PlatformError) as told:
        local.forge.merge(number, ADA, "fine")
    assert "does not merge" not in str(told.value)


@pytest.mark.parametrize(
    ("says", "error"), [("protected branch hook declined", Refused), ("failed to update ref", Conflict)]
)
def test_a_rule_of_the_remote_is_no_conflict(local: LocalStand, says: str, error: type[Exception]) -> None:
    """What a branch rule declines is refused for good; a ref that moved meanwhile may be tried again."""
    with pytest.raises(error):
        raise plumbing._translate(("push",), f"! [remote rejected] main -> main ({says})")


def test_a_hook_that_declines_is_refused(local: LocalStand) -> None:
    """The words of real git: a push that the remote's hook declines is Refused."""
    hook = local.bare / "hooks" / "pre-receive"
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    with pytest.raises(Refused, match="hook declined"):
        local.push(BRANCH)


def test_git_does_not_wait_for_ever(tmp_path: Path) -> None:
    """A remote that takes the connection and says nothing is Unreachable after the time-out."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"git://127.0.0.1:{silent.getsockname()[1]}/x"
        with pytest.raises(Unreachable, match="no end after"):
            plumbing.git(tmp_path, "ls-remote", address, timeout=0.5)


def test_rejected_release_is_refused(local: LocalStand) -> None:
    """A head that names a release that main has rejected is not merged."""
    release = "aaaaaaaaaaaa"
    rejection = f"envs/releases/flight-delay/{release}.rejected.yaml"
    line = f"models:\n  flight-delay: {release}\n"
    local.write(BRANCH, {"envs/canary/release.yaml": line})
    number = local.forge.open(BRANCH, "Promote", "", AUTHOR).number
    local.write("main", {rejection: "reason: errors\n"})
    with pytest.raises(Refused, match="was rejected"):
        local.forge.merge(number, ADA, "gates pass")


def test_same_mail_under_another_name(local: LocalStand) -> None:
    """An author who writes their name differently is still the author."""
    local.push(BRANCH)
    number = local.forge.open(BRANCH, "Promote", "", ADA).number
    with pytest.raises(Refused, match="can't approve"):
        local.forge.merge(number, "ADA L. <Ada@Example.org>", "gates pass")


def test_head_follows_the_branch(local: LocalStand) -> None:
    """An open pull request shows the commit that was pushed last."""
    local.push(BRANCH)
    local.forge.open(BRANCH, "Promote", "", AUTHOR)
    assert local.push(BRANCH) == local.forge.list()[0].head


def test_not_a_repository(tmp_path: Path) -> None:
    """A folder that is no repository is refused with the command that makes one."""
    with pytest.raises(ConfigError, match="forge init"):
        LocalForge(tmp_path)


def test_init_keeps_what_is_there(local: LocalStand, tmp_path: Path) -> None:
    """`forge init` on a forge changes nothing in it, and on a folder of other files is refused."""
    before = plumbing.git(local.bare, "for-each-ref")
    init(local.bare, Path("/bin/true"))
    assert plumbing.git(local.bare, "for-each-ref") == before
    subprocess.run(["touch", str(tmp_path / "file")], check=True)
    with pytest.raises(Refused, match="not empty"):
        init(tmp_path, Path("/bin/true"))


# ---------------------------------------------------------------- GitHub
@pytest.mark.parametrize(
    "failure", [(502, {}), (503, {}), (429, {"retry-after": "0"}), (403, {"x-ratelimit-remaining": "0"})]
)
def test_github_is_asked_again(github: GitHubStand, failure: tuple[int, dict[str, str]]) -> None:
    """A failure of GitHub's, or its rate limit, is tried again."""
    github.push(BRANCH)
    github.server.failures += [failure, failure]
    assert github.forge.open(BRANCH, "Promote", "", AUTHOR).number == 1


def test_github_superseded(github: GitHubStand) -> None:
    """On GitHub a comment says which promotion supersedes; a fork's branch of that name is left alone."""
    fork = "promote/canary/flight-delay/ffffffffffff"
    newer = "promote/canary/flight-delay/bbbbbbbbbbbb"
    for branch in (BRANCH, fork, newer):
        github.push(branch)
        github.forge.open(branch, branch, "", AUTHOR)
        if branch == fork:
            github.server.pulls[1]["state"] = "open"
            github.server.pulls[2]["head"]["label"] = f"stranger:{fork}"
    assert [pull.state for pull in github.forge.list()] == ["open", "open", "closed"]
    assert "Superseded by #3." in github.comments(1)
    assert github.comments(2) == []


def test_github_gives_up(github: GitHubStand) -> None:
    """A GitHub that keeps failing is Unreachable, after a few calls."""
    github.server.failures += [(500, {})] * 50
    with pytest.raises(Unreachable, match="500 later"):
        github.forge.list()
    assert len(github.server.seen) == 5


def test_github_does_not_answer(github: GitHubStand) -> None:
    """No connection is Unreachable."""
    closed = GitHubForge("http://127.0.0.1:1", "owner/name", "secret", wait=0.001)
    with pytest.raises(Unreachable):
        closed.list()


def test_github_wrong_token(github: GitHubStand) -> None:
    """A wrong token is refused at once, and the message says which rights are needed."""
    wrong = GitHubForge(github.url, "owner/name", "wrong", wait=0.001)
    with pytest.raises(Refused, match="GITHUB_TOKEN"):
        wrong.list()
    assert len(github.server.seen) == 1


def test_github_moved_head(github: GitHubStand, monkeypatch: pytest.MonkeyPatch) -> None:
    """A push between looking and merging is a Conflict: nobody approved those commits."""
    github.push(BRANCH)
    number = github.forge.open(BRANCH, "Promote", "", AUTHOR).number
    answer = github.server.answer

    def push_after_review(method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, Any]:
        if path.endswith("/merge"):
            github.push(BRANCH)
        return answer(method, path, query, body)

    monkeypatch.setattr(github.server, "answer", push_after_review)
    with pytest.raises(Conflict, match="modified"):
        github.forge.merge(number, ADA, "gates pass")


def test_github_long_body_is_cut(github: GitHubStand) -> None:
    """A report longer than GitHub takes is cut and says so."""
    github.push(BRANCH)
    github.forge.open(BRANCH, "Promote", "x" * 100_000, AUTHOR)
    body = github.server.pulls[1]["body"]
    assert len(body) <= MAX_BODY
    assert "cut here" in body


def test_github_finds_its_comment_on_a_later_page(github: GitHubStand) -> None:
    """A comment beyond the first hundred is still replaced in place."""
    github.push(BRANCH)
    github.forge.open(BRANCH, "Promote", "", AUTHOR)
    for number in range(120):
        github.forge.comment(1, f"note-{number}", "text")
    github.forge.comment(1, "note-119", "new")
    assert len(github.server.notes) == 120
    assert github.server.notes[120]["body"].endswith("new")


@pytest.mark.parametrize("repository", ["", "owner", "owner/name/more", "owner/na me", "../x/y"])
def test_github_repository_form(repository: str) -> None:
    """A repository that is not owner/name is a ConfigError, never part of an address."""
    with pytest.raises(ConfigError):
        GitHubForge("http://127.0.0.1:1", repository, "")
