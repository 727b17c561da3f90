"""What every Repository promises, asked of the fake and of git with a real bare repository."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tidegate.adapters.git import GitRepository, read_published, remote_url
from tidegate.errors import ConfigError, Conflict, PlatformError, Refused, Unreachable
from tidegate.ports import Change
from tidegate.testing import Crashed, Crashes, FakeRepository

FIRST = {"envs/production/release.yaml": "models: {}\n", "envs/platform.yaml": "{}\n", "README.md": "hi\n"}
RELEASE = "envs/production/release.yaml"


class Remote:
    """A bare repository and a person's clone of it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = root / "origin.git"
        self.clone = root / "clone"
        self.git("init", "--quiet", "--bare", "-b", "main", str(self.url), cwd=root)
        self.git("clone", "--quiet", str(self.url), str(self.clone), cwd=root)
        self.git("checkout", "--quiet", "-b", "main")
        self.git("config", "user.name", "Ada")
        self.git("config", "user.email", "ada@example.org")
        self.push(FIRST)

    def git(self, *arguments: str, cwd: Path | None = None) -> str:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
        done = subprocess.run(
            ["git", *arguments], cwd=cwd or self.clone, env=kept, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    def push(self, files: dict[str, str | bytes | None]) -> str:
        self.git("fetch", "--quiet", "origin")
        if self.git("ls-remote", "origin", "main"):
            self.git("reset", "--hard", "--quiet", "origin/main")
        for name, text in files.items():
            path = self.clone / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if text is None:
                path.unlink()
            elif isinstance(text, bytes):
                path.write_bytes(text)
            else:
                path.write_text(text)
        self.git("add", "-A")
        self.git("commit", "--quiet", "-m", "Edit by hand")
        self.git("push", "--quiet", "origin", "HEAD:main")
        return self.git("rev-parse", "HEAD")

    def show(self, path: str, at: str = "main") -> str:
        return self.git("show", f"{at}:{path}", cwd=self.url)


class GitCase:
    """git behind the questions that the contract asks."""

    def __init__(self, root: Path) -> None:
        self.remote = Remote(root)
        self.repository = GitRepository(str(self.remote.url), "main", root / "mirror.git")

    def push(self, files: dict[str, str | None]) -> str:
        return self.remote.push(dict(files))

    def published(self, name: str) -> dict | None:
        return read_published(self.remote.url, name)

    def cut(self) -> None:
        self.remote.url.rename(self.remote.root / "elsewhere.git")


class FakeCase:
    """The fake behind the same questions."""

    def __init__(self, root: Path) -> None:
        self.repository = FakeRepository(FIRST)

    def push(self, files: dict[str, str | None]) -> str:
        return self.repository.push(files)

    def published(self, name: str) -> dict | None:
        found = self.repository.published.get(name)
        return dict(found) if found is not None else None

    def cut(self) -> None:
        self.repository.reachable = False


@pytest.fixture(params=[FakeCase, GitCase], ids=["fake", "git"])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> FakeCase | GitCase:
    return request.param(tmp_path)


@pytest.fixture
def remote(tmp_path: Path) -> Remote:
    return Remote(tmp_path)


@pytest.fixture
def mirror(remote: Remote) -> GitRepository:
    return GitRepository(str(remote.url), "main", remote.root / "mirror.git")


# ---------------------------------------------------------------- the contract
def test_fetch_names_the_newest_commit(case):
    """A fetch names the newest commit, whoever pushed it, and the same one while nothing is pushed."""
    first = case.repository.fetch()
    assert case.repository.fetch() == first
    second = case.push({RELEASE: "models: {a: 000000000001}\n"})
    assert case.repository.fetch() == second != first


def test_files_are_those_under_envs_at_that_commit(case):
    """Files are what is under envs/ at the asked commit, not outside of it, and not at a later one."""
    first = case.repository.fetch()
    case.push({RELEASE: "models: {a: 000000000001}\n", "envs/new.yaml": "ä: 1\n"})
    second = case.repository.fetch()
    assert set(case.repository.files(first)) == {RELEASE, "envs/platform.yaml"}
    assert case.repository.files(first)[RELEASE] == "models: {}\n"
    assert case.repository.files(second)["envs/new.yaml"] == "ä: 1\n"


def test_files_of_an_unknown_commit_are_a_conflict(case):
    """Asking for a commit that the remote does not have is a Conflict: read again, then decide again."""
    with pytest.raises(Conflict):
        case.repository.files("1" * 40)


def test_a_commit_is_on_the_remote(case):
    """What was committed is the remote's newest commit, with written and deleted files, the rest kept."""
    parent = case.repository.fetch()
    made = case.repository.commit(
        Change(
            parent, {RELEASE: "models: {b: 2}\n", "envs/platform.yaml": None, "envs/x/y.yaml": "z"}, "Go back"
        )
    )
    assert case.repository.fetch() == made != parent
    assert dict(case.repository.files(made)) == {RELEASE: "models: {b: 2}\n", "envs/x/y.yaml": "z"}


def test_a_commit_on_an_old_parent_is_a_conflict(case):
    """A commit whose parent is not the remote's newest is a Conflict, and the remote stays as it is."""
    parent = case.repository.fetch()
    newest = case.push({RELEASE: "models: {a: 000000000001}\n"})
    with pytest.raises(Conflict):
        case.repository.commit(Change(parent, {RELEASE: "models: {b: 2}\n"}, "Too late"))
    assert case.repository.fetch() == newest


def test_a_change_that_changes_nothing_makes_no_commit(case):
    """A change that the files say already returns its parent: a retry makes no second commit."""
    parent = case.repository.fetch()
    change = Change(parent, {RELEASE: "models: {}\n", "envs/absent.yaml": None}, "Nothing")
    assert case.repository.commit(change) == parent
    assert case.repository.fetch() == parent


def test_publishing_replaces_the_document(case):
    """A name holds the document published last; a name that was never published holds none."""
    case.repository.publish("status/production", {"at": 1, "models": {}})
    case.repository.publish("status/production", {"at": 2, "models": {"ä": [1.5, None]}})
    assert case.published("status/production") == {"at": 2, "models": {"ä": [1.5, None]}}
    assert case.published("status/staging") is None


def test_an_unreachable_remote_is_unreachable(case):
    """Without the remote, fetch, commit and publish are Unreachable; what was read stays readable."""
    parent = case.repository.fetch()
    before = dict(case.repository.files(parent))
    case.cut()
    with pytest.raises(Unreachable):
        case.repository.fetch()
    with pytest.raises(Unreachable):
        case.repository.commit(Change(parent, {RELEASE: "x"}, "s"))
    with pytest.raises(Unreachable):
        case.repository.publish("status/production", {"at": 3})
    assert dict(case.repository.files(parent)) == before


# ---------------------------------------------------------------- the fake's own
def test_the_fake_crashes_after_the_numbered_change():
    """A numbered crash comes after its change took effect, once, and the fake goes on serving."""
    fake = FakeRepository(FIRST)
    Crashes(at=2).watch(fake)
    fake.publish("status/x", {"a": 1})
    with pytest.raises(Crashed):
        fake.commit(Change(fake.fetch(), {RELEASE: "1"}, "s"))
    assert fake.text(RELEASE) == "1"
    fake.commit(Change(fake.fetch(), {RELEASE: "2"}, "s"))
    assert fake.text(RELEASE) == "2"


# ---------------------------------------------------------------- git's own
def test_the_message_carries_trailers(mirror, remote):
    """git itself reads the trailers back, one line each, whatever line breaks their values had."""
    change = Change(
        mirror.fetch(),
        {RELEASE: "models: {a: b}\n"},
        "Roll back\nflight-delay",
        "The numbers: see below.\n\nMore.",
        {"Tidegate-Release": "3f9c02a7b51e", "Tidegate-Observed": "5%\n  of 20"},
    )
    made = mirror.commit(change)
    said = remote.git("log", "-1", "--format=%s|%an|%ce|%(trailers:only)", made, cwd=remote.url)
    assert said == (
        "Roll back flight-delay|tidegate agent|agent@tidegate.invalid|"
        "Tidegate-Release: 3f9c02a7b51e\nTidegate-Observed: 5% of 20"
    )
    assert remote.show("README.md", made) == "hi"


def test_an_unchanged_remote_costs_one_question(mirror, monkeypatch):
    """While nothing moved, a fetch asks one name and reads no object; files are read once a commit."""
    from tidegate.adapters.git import command, repository

    mirror.files(mirror.fetch())
    asked = []
    real = command.git
    monkeypatch.setattr(command, "git", lambda *a, **k: asked.append(a[0]) or real(*a, **k))
    monkeypatch.setattr(repository, "git", command.git)
    mirror.files(mirror.fetch())
    assert asked == ["ls-remote"]


def test_the_same_document_is_pushed_once(mirror, remote):
    """Publishing what was published last pushes nothing: the ref keeps its commit."""
    mirror.publish("status/production", {"a": 1})
    before = remote.git("rev-parse", "refs/tidegate/status/production", cwd=remote.url)
    remote.git("update-ref", "-d", "refs/tidegate/status/production", cwd=remote.url)
    mirror.publish("status/production", {"a": 1})
    assert read_published(remote.url, "status/production") is None
    mirror.publish("status/production", {"a": 2})
    assert remote.git("rev-parse", "refs/tidegate/status/production", cwd=remote.url) != before


@pytest.mark.parametrize("damage", ["objects", "empty", "garbage", "lock", "gone"])
def test_a_damaged_mirror_is_made_again(mirror, remote, damage):
    """However the mirror's folder was damaged, the next fetch, files and commit work."""
    mirror.files(mirror.fetch())
    folder = remote.root / "mirror.git"
    if damage == "objects":
        shutil.rmtree(folder / "objects")
    elif damage == "empty":
        shutil.rmtree(folder)
        folder.mkdir()
    elif damage == "garbage":
        (folder / "HEAD").write_text("garbage")
        (folder / "config").write_text("[[[")
    elif damage == "lock":
        (folder / "shallow.lock").write_text("")
    else:
        shutil.rmtree(folder)
    remote.push({"envs/later.yaml": "a: 1\n"})
    fresh = GitRepository(str(remote.url), "main", folder)
    for one in (mirror, fresh):
        head = one.fetch()
        assert one.files(head)["envs/later.yaml"] == "a: 1\n"
        one.commit(Change(head, {"envs/later.yaml": "a: 1\n", f"envs/{id(one)}.yaml": "b"}, "s"))


def test_a_mirror_damaged_between_fetch_and_commit_is_made_again(mirror, remote):
    """A mirror that loses its objects after the fetch does not lose the commit that follows."""
    parent = mirror.fetch()
    shutil.rmtree(remote.root / "mirror.git" / "objects")
    made = mirror.commit(Change(parent, {RELEASE: "models: {a: b}\n"}, "s"))
    assert remote.show(RELEASE, made) == "models: {a: b}"


def test_threads_share_a_repository(mirror, remote):
    """Fetching, publishing and committing from several threads at once disturb one another in nothing."""

    def fetch(n: int) -> None:
        assert RELEASE in mirror.files(mirror.fetch())

    def publish(n: int) -> None:
        mirror.publish(f"status/p{n}", {"n": n})

    def commit(n: int) -> None:
        for _ in range(50):
            try:
                mirror.commit(Change(mirror.fetch(), {f"envs/{n}.yaml": "x"}, f"Commit {n}"))
                return
            except Conflict:
                continue
        raise AssertionError("never the first")

    with ThreadPoolExecutor(6) as pool:
        jobs = [pool.submit(work, n) for n in range(4) for work in (fetch, publish, commit)]
    assert [job.exception() for job in jobs] == [None] * 12
    assert set(mirror.files(mirror.fetch())) >= {f"envs/{n}.yaml" for n in range(4)}
    assert [read_published(remote.url, f"status/p{n}") for n in range(4)] == [{"n": n} for n in range(4)]


def test_a_branch_set_back_is_not_put_forward(mirror, remote):
    """When a person set the branch back, a commit on the removed one is a Conflict, not a way back in."""
    first = mirror.fetch()
    remote.push({RELEASE: "models: {bad: 000000000001}\n"})
    bad = mirror.fetch()
    remote.git("update-ref", "refs/heads/main", first, cwd=remote.url)
    with pytest.raises(Conflict):
        mirror.commit(Change(bad, {RELEASE: "models: {worse: 1}\n"}, "s"))
    assert remote.git("rev-parse", "main", cwd=remote.url) == first


def test_a_remote_that_declines_is_refused(mirror, remote):
    """A protected branch is Refused, with the remote's words and the way around: a pull request."""
    hook = remote.url / "hooks" / "pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho main is protected >&2\nexit 1\n")
    hook.chmod(0o755)
    with pytest.raises(Refused, match="pull request"):
        mirror.commit(Change(mirror.fetch(), {RELEASE: "x"}, "s"))


def test_a_push_does_not_wait_for_what_the_hook_started(mirror, remote):
    """The hook sees TIDEGATE_FOLLOW=0, and a process that it leaves behind does not hold the push."""
    hook = remote.url / "hooks" / "post-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(
        '#!/bin/sh\necho "$TIDEGATE_FOLLOW" > seen\n'
        "setsid sh -c 'sleep 20' >/dev/null 2>&1 </dev/null & echo $! > left\n"
    )
    hook.chmod(0o755)
    start = time.monotonic()
    mirror.commit(Change(mirror.fetch(), {RELEASE: "x"}, "s"))
    assert time.monotonic() - start < 10
    assert (remote.url / "seen").read_text().strip() == "0"
    os.killpg(int((remote.url / "left").read_text()), 9)


def test_a_person_s_configuration_changes_nothing(mirror, remote, monkeypatch, tmp_path):
    """Hooks, signing, tags and variables of the caller's git change neither the commit nor the push."""
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    (hooks / "pre-push").write_text("#!/bin/sh\nexit 1\n")
    (hooks / "pre-push").chmod(0o755)
    (tmp_path / ".gitconfig").write_text(
        f"[core]\nhooksPath={hooks}\n[commit]\ngpgsign=true\n[push]\ngpgSign=true\n[user]\nuseConfigOnly=true\n"
    )
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("GIT_DIR", "/nonexistent")
    monkeypatch.setenv("GIT_INDEX_FILE", "/nonexistent")
    made = mirror.commit(Change(mirror.fetch(), {RELEASE: "x"}, "s"))
    assert remote.git("log", "-1", "--format=%an", made, cwd=remote.url) == "tidegate agent"


def test_a_branch_that_is_not_there_yet_may_come(tmp_path):
    """A remote without the branch is Unreachable, which is tried again, until somebody pushes it."""
    subprocess.run(["git", "init", "-q", "--bare", str(tmp_path / "o.git")], check=True)
    with pytest.raises(Unreachable, match="no branch main"):
        GitRepository(str(tmp_path / "o.git"), "main", tmp_path / "m").fetch()


def test_what_is_no_text_names_its_file(mirror, remote):
    """A file that is not UTF-8, or too large to be configuration, is a ConfigError that names it."""
    remote.push({"envs/bad.yaml": b"\xff\xfe"})
    with pytest.raises(ConfigError, match=r"envs/bad\.yaml"):
        mirror.files(mirror.fetch())
    remote.push({"envs/bad.yaml": "#" * 300_000})
    with pytest.raises(ConfigError, match="larger"):
        mirror.files(mirror.fetch())


def test_a_name_that_could_leave_its_folder_is_refused(mirror):
    """A document's name can't reach refs outside refs/tidegate/."""
    with pytest.raises(Refused):
        mirror.publish("../heads/main", {})


def test_no_place_for_the_mirror_is_a_platform_error(remote, tmp_path):
    """A mirror that can't be made says so, with the folder, and what to do."""
    (tmp_path / "file").write_text("")
    repository = GitRepository(str(remote.url), "main", tmp_path / "file" / "mirror")
    with pytest.raises(PlatformError, match="mirror"):
        repository.fetch()


def test_read_published_from_a_checkout(mirror, remote):
    """A workflow reads a plane's status through its checkout's origin, without any object of it."""
    mirror.publish("status/production", {"commit": "abc"})
    assert read_published(remote.clone, "status/production") == {"commit": "abc"}


def test_a_remote_s_address_is_absolute(remote, tmp_path):
    """A local remote's address is an absolute path; a server's is left as it is; none is a ConfigError."""
    assert remote_url(remote.clone, "origin") == str(remote.url)
    remote.git("remote", "set-url", "origin", "../origin.git")
    assert remote_url(remote.clone, "origin") == str(remote.url)
    remote.git("remote", "set-url", "origin", f"file://{remote.url}")
    assert remote_url(remote.clone, "origin") == str(remote.url)
    for url in ("https://example.org/a/b.git", "git@example.org:a/b.git"):
        remote.git("remote", "set-url", "origin", url)
        assert remote_url(remote.clone, "origin") == url
    with pytest.raises(ConfigError, match="git remote add"):
        remote_url(remote.clone, "upstream")


def test_a_published_document_that_is_broken_is_said(remote):
    """A document that is not JSON is a PlatformError, never an empty answer."""
    remote.git("checkout", "--quiet", "--orphan", "x")
    (remote.clone / "status.json").write_text("{")
    remote.git("add", "status.json")
    remote.git("commit", "-qm", "x")
    remote.git("push", "-q", "origin", "HEAD:refs/tidegate/status/p")
    with pytest.raises(PlatformError, match="not JSON"):
        read_published(remote.url, "status/p")
