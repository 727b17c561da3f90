"""Release → branch → one changed line → pull request with the report; the same for every environment.

A thin shell: what may be promoted, and when a rollout has ended, is decided by `core.promotion`. Nothing
here touches a plane: it reads `origin`, pushes branches, and asks a forge.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from tidegate import config, plumbing
from tidegate.core import promotion as core
from tidegate.core.promotion import Outcome, Releases, Target
from tidegate.core.release_file import set_release
from tidegate.documents import read_yaml
from tidegate.errors import ConfigError, Conflict, NoData, PlatformError, Refused, Unreachable
from tidegate.ports import Clock, Forge, Pull

AUTOMATION = "tidegate <tidegate@localhost>"  # the author of every promotion, and so no approver
POLL = 1.0  # seconds between two looks at origin
LOOK_BACK = 50  # commits: main is not left unreadable for longer


@dataclass(frozen=True)
class Origin:
    """A checkout's view of its remote's main, fetched by `look`."""

    checkout: Path
    remote: str = "origin"
    branch: str = "main"

    def look(self) -> str:
        """Fetch and return main's newest commit. Raises Unreachable."""
        ref = f"refs/remotes/{self.remote}/{self.branch}"
        plumbing.git(self.checkout, "fetch", "--quiet", self.remote, f"+refs/heads/{self.branch}:{ref}")
        return plumbing.git(self.checkout, "rev-parse", ref)

    def read(self, commit: str, path: str) -> str | None:
        """Return a file's text at a commit, or None."""
        return plumbing.read(self.checkout, commit, path)

    def releases(self, commit: str) -> dict[str, dict[str, str]]:
        """Return environment → model → release at a commit; of a commit that is not there, nothing."""
        paths = {env: f"envs/{env}/release.yaml" for env in core.ORDER}
        texts = {env: self.read(commit, path) for env, path in paths.items()}
        return {env: config.parse_release_file(text, paths[env]) for env, text in texts.items() if text}

    def rejected(self, commit: str, target: Target) -> str | None:
        """Return the reason of a release's rejection at a commit; any file of that name rejects."""
        text = self.read(commit, target.rejection)
        if text is None:
            return None
        try:
            value, _ = read_yaml(text, target.rejection)
            return str(value.get("reason", "")) or "no reason given"
        except (ConfigError, AttributeError):
            return f"{target.rejection} can't be read"

    def last_rejected(self, commit: str, environment: str, model: str) -> str | None:
        """Return the release of a model that an environment rejected last, at a commit; or None."""
        found = []
        folder = f"envs/releases/{model}/"
        for path in plumbing.git(self.checkout, "ls-tree", "--name-only", commit, folder).splitlines():
            release = path.removeprefix(folder).removesuffix(".rejected.yaml")
            text = self.read(commit, path) if path.endswith(".rejected.yaml") else None
            try:
                value = read_yaml(text, path)[0] if text else None
            except ConfigError:
                continue
            if isinstance(value, dict) and value.get("environment") == environment:
                found.append((str(value.get("at", "")), release))
        return max(found)[1] if found else None

    def status(self, plane: str) -> Mapping[str, Any] | None:
        """Return the document that a plane's agent published last, or None. Raises Unreachable."""
        ref = f"refs/tidegate/status/{plane}"
        try:
            plumbing.git(self.checkout, "fetch", "--quiet", self.remote, f"+{ref}:{ref}")
        except PlatformError as error:  # git says "couldn't find remote ref" until the agent reported once
            if "find remote ref" in str(error):
                return None
            raise
        text = self.read(ref, "status.json")
        return json.loads(text) if text else None

    def follows(self, commit: str, since: str) -> bool:
        """Tell whether a commit is `since` or came after it; of one that is not here, no."""
        newer, older = (plumbing.resolve(self.checkout, name) if name else None for name in (commit, since))
        return bool(newer and older) and plumbing.is_ancestor(self.checkout, str(older), str(newer))

    def head(self, branch: str) -> str | None:
        """Return a branch's commit on the remote, fetched, or None."""
        listed = plumbing.git(self.checkout, "ls-remote", self.remote, f"refs/heads/{branch}")
        if not listed:
            return None
        plumbing.git(self.checkout, "fetch", "--quiet", self.remote, f"refs/heads/{branch}")
        return listed.split()[0]


def new_release(checkout: Path, model: str) -> tuple[Target, str]:
    """Return the staging target of the release that `package` built here, and its record's text."""
    path = checkout / "build" / model / "release.yaml"
    try:
        text = path.read_text()
    except FileNotFoundError as error:
        raise NoData(f"{model} has no build/{model}/release.yaml", "Make it with `dvc repro`.") from error
    record = config.read_record(text, str(path.relative_to(checkout)))
    return Target("staging", model, record.id), text


def built_models(checkout: Path) -> list[str]:
    """Return the models for which a release was packaged here."""
    return sorted(path.parent.name for path in (checkout / "build").glob("*/release.yaml"))


def promote(
    origin: Origin,
    forge: Forge,
    target: Target,
    *,
    record: str | None = None,
    body: Callable[[core.Facts], str] = core.describe,
    again: bool = False,
) -> Pull | None:
    """Open a promotion's pull request, or update the open one; None when main has that release already.

    `record` is the text of a release record that is not on main yet (staging only). `body` makes the page
    of the facts, and is asked only when there is something to promote. One that asks for a rejected release
    `again` takes its rejection away. Raises Refused, Conflict, Unreachable.
    """
    main = origin.look()
    releases = origin.releases(main)
    known, rejected = origin.read(main, target.record), origin.rejected(main, target)
    refused = core.refusal(
        target,
        releases,
        has_record=known is not None or (record is not None and target.environment == "staging"),
        rejected=None if again else rejected,
    )
    if refused:
        raise Refused(*refused)
    now_there = releases.get(target.environment, {}).get(target.model)
    if now_there == target.release and not (again and rejected is not None):
        return None
    text = known or record or ""
    config.parse_record(text, target.record)  # its content must have the id that is promoted
    branch_files = {} if known else _record_files(origin, main, target, text)
    branch_files |= _images_file(origin, main, target)
    forgiven = [target.rejection] if rejected is not None else []
    _push_branch(origin, main, target, branch_files, forgiven)
    facts = core.facts(target, msgspec.to_builtins(config.read_record(text, target.record)), now_there)
    return forge.open(target.branch, target.title, body(facts), AUTOMATION)


def _record_files(origin: Origin, main: str, target: Target, record: str) -> dict[str, str]:
    """Return the files of the commit that records a release: it, and the dvc.lock that it was built by."""
    files = {target.record: record}
    lock = origin.checkout / "dvc.lock"
    if lock.is_file() and lock.read_text() != origin.read(main, "dvc.lock"):
        files["dvc.lock"] = lock.read_text()
    return files


def _images_file(origin: Origin, main: str, target: Target) -> dict[str, str]:
    """Return the file of the release's images, if `tidegate image` wrote it here and main has none."""
    path = origin.checkout / target.images
    if not path.is_file() or origin.read(main, target.images) is not None:
        return {}
    text = path.read_text()
    config.parse_images(text, target.images)  # never push what the agent can't read
    return {target.images: text}


def _push_branch(
    origin: Origin, main: str, target: Target, files: Mapping[str, str], removed: Sequence[str] = ()
) -> None:
    """Push the promotion's branch, made from main: the record's commit if needed, then the one line."""
    folder = origin.checkout
    head = main
    if files:
        text = core.message(target, f"Record {target.model} {target.release}")
        head = plumbing.commit(folder, plumbing.tree(folder, head, files), (head,), text, AUTOMATION)
    line = set_release(origin.read(main, target.path) or "models: {}\n", target.model, target.release)
    config.parse_release_file(line, target.path)  # never push what the agent can't read
    tree = plumbing.tree(folder, head, {target.path: line, **dict.fromkeys(removed)})
    there = origin.head(target.branch)
    if there and plumbing.git(folder, "rev-parse", f"{there}^{{tree}}") == tree:
        return  # it says exactly this already
    commit = plumbing.commit(folder, tree, (head,), core.message(target, target.title), AUTOMATION)
    lease = f"--force-with-lease=refs/heads/{target.branch}:{there or ''}"
    plumbing.git(
        folder,
        *("push", "--quiet", lease, origin.remote, f"{commit}:refs/heads/{target.branch}"),
        env={"TIDEGATE_FOLLOW": "0"},
    )


# ---------------------------------------------------------------- after a merge
def merged(origin: Origin, since: str, until: str, say: Callable[[str], None]) -> list[Target]:
    """Return what the commits since..until promoted; nothing when the agent wrote the last of them.

    Raises ConfigError when `until` can't be read. A `since` that can't be is what this push corrects.
    """
    text = plumbing.git(origin.checkout, "log", "-1", "--format=%(trailers:key=Tidegate-Verdict)", until)
    if text.strip():
        return []
    after = origin.releases(until)
    if not plumbing.resolve(origin.checkout, since):
        return core.pushed({}, after)
    try:
        return core.pushed(origin.releases(since), after)
    except ConfigError as error:
        known = _last_readable(origin, since)
        told = f"compared with {known[0][:12]}, the last that can" if known else "nothing counts as promoted"
        say(f"{since[:12]}, before this push, can't be read ({error.message}): {told}")
        return core.pushed(known[1], after) if known else []


def _last_readable(origin: Origin, commit: str) -> tuple[str, Releases] | None:
    """Return the newest commit before `commit` whose release files all parse, and what they say.

    That is what the agents hold to while main can't be read.
    """
    paths = [f"envs/{environment}/release.yaml" for environment in core.ORDER]
    log = ("log", "--first-parent", f"--max-count={LOOK_BACK}", "--format=%H", commit, "--", *paths)
    for older in plumbing.git(origin.checkout, *log).split():
        try:
            return older, origin.releases(older)
        except ConfigError:
            continue
    return None


def wait(
    origin: Origin,
    target: Target,
    plane: str,
    clock: Clock,
    timeout: float,
    say: Callable[[str], None],
    since: str = "HEAD",
) -> tuple[Outcome, str, Mapping[str, Any]]:
    """Wait until the plane's agent has finished a rollout; returns how, why, and its last document.

    `since` is the commit that asked for it: what an agent said before it knew that commit counts for nothing.
    An origin that does not answer is asked again until `timeout` seconds are over. Raises Unreachable then.
    """
    end = clock.now() + timeout
    last = ""
    while True:
        document: Mapping[str, Any] | None = None
        try:
            main = origin.look()
            wanted = origin.releases(main).get(target.environment, {}).get(target.model)
            document = origin.status(plane)
            current = document is not None and origin.follows(str(document.get("commit", "")), since)
            rejected = origin.rejected(main, target)
            result, reason = core.outcome(target, wanted, rejected, document, current=current)
        except (Unreachable, Conflict) as error:
            result, reason = Outcome.WAIT, str(error)
        if reason != last:
            say(f"{target.model} {target.release} in {target.environment}: {reason}")
            last = reason
        if result is not Outcome.WAIT:
            return result, reason, document or {}
        if clock.now() >= end:
            raise Unreachable(
                f"{target.model} {target.release} is not through {target.environment} "
                f"after {timeout:g} s ({reason})",
                "See `tidegate status`; then run the promote workflow again.",
            )
        clock.sleep(POLL)


def pull_artifacts(checkout: Path) -> None:
    """Bring the pipeline's outputs of this commit from the shared DVC store, if it has a pipeline.

    Raises NoData before the first release, PlatformError when the store does not give them.
    """
    if not (checkout / "dvc.yaml").is_file():
        return
    if not (checkout / "dvc.lock").is_file():
        raise NoData("there is no dvc.lock at this commit", "Let the release workflow run on main first.")
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "pull", "--quiet", "--allow-missing"],
        cwd=checkout,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise PlatformError(f"dvc pull: {said[-1] if said else 'failed'}", "Run `tidegate stores link`.")
