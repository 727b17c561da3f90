"""Which pushes and pull requests start a workflow: GitHub's `on:` as a function of values.

act starts every workflow of an event whatever `branches` and `paths` say, so the local forge asks here first.
Semantics: docs.github.com, "Workflow syntax", `on.<push|pull_request>` and "Filter pattern cheat sheet".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

# In one push, what others build on comes first; workflows of one's own come before promotion, by name.
_ORDER = {"ci": 0, "train": 1, "release": 2, "promote": 9}
DELIVERY = ("train", "release", "promote")  # what takes a push to production
# The machines that a job may name: all are this one here. On GitHub, `self-hosted` is your own.
LABELS = ("ubuntu-latest", "ubuntu-24.04", "ubuntu-22.04", "self-hosted")
SKIP_MARKS = ("[skip ci]", "[ci skip]", "[no ci]", "[skip actions]", "[actions skip]")


class BadWorkflow(ValueError):
    """A workflow says something that GitHub refuses or the local forge can't do; the text says what."""


def triggered(workflow: Mapping[Any, Any], event: str, ref: str, changed: Sequence[str]) -> bool:
    """Tell whether a workflow starts on an event.

    `workflow` is the parsed YAML (PyYAML reads the key `on` as True), `event` is `push` or
    `pull_request`, `ref` the pushed ref or, for a pull request, the ref it goes into; `changed` the
    paths that differ. Raises BadWorkflow for filters that GitHub refuses.
    """
    wanted = workflow.get("on", workflow.get(True))
    if isinstance(wanted, str):
        return wanted == event
    if isinstance(wanted, Sequence):
        return event in wanted
    if not isinstance(wanted, Mapping) or event not in wanted:
        return False
    filters = wanted[event] or {}
    if event == "pull_request" and "synchronize" not in filters.get("types", ["synchronize"]):
        return False
    return _ref_matches(filters, ref) and (ref.startswith("refs/tags/") or _paths_match(filters, changed))


def _ref_matches(filters: Mapping[str, Any], ref: str) -> bool:
    kind, other = ("tags", "branches") if ref.startswith("refs/tags/") else ("branches", "tags")
    name = ref.removeprefix("refs/heads/").removeprefix("refs/tags/")
    include, ignore = _pair(filters, kind)
    if include is None and ignore is None:
        # A filter for tags alone says that branches start nothing, and the reverse.
        return not any(key in filters for key in (other, f"{other}-ignore"))
    if include is not None:
        return selected(name, include)
    return not any(matches(pattern, name) for pattern in ignore or ())


def _paths_match(filters: Mapping[str, Any], changed: Sequence[str]) -> bool:
    include, ignore = _pair(filters, "paths")
    if include is not None:
        return any(selected(path, include) for path in changed)
    if ignore is not None:
        return any(not any(matches(pattern, path) for pattern in ignore) for path in changed)
    return True


def _pair(filters: Mapping[str, Any], kind: str) -> tuple[list[str] | None, list[str] | None]:
    include, ignore = filters.get(kind), filters.get(f"{kind}-ignore")
    if include is not None and ignore is not None:
        raise BadWorkflow(f"`{kind}` and `{kind}-ignore` can't be used together; `!` in a pattern leaves out")
    return _list(include), _list(ignore)


def _list(value: Any) -> list[str] | None:
    if value is None:
        return None
    return [value] if isinstance(value, str) else [str(item) for item in value]


def selected(name: str, patterns: Iterable[str]) -> bool:
    """Tell whether the last pattern that matches `name` is one without `!`."""
    result = False
    for pattern in patterns:
        if pattern.startswith("!"):
            result = result and not matches(pattern[1:], name)
        elif matches(pattern, name):
            result = True
    return result


def matches(pattern: str, name: str) -> bool:
    """Tell whether one filter pattern matches the whole of a branch name or path."""
    return _compile(pattern).fullmatch(name) is not None


@lru_cache(maxsize=512)
def _compile(pattern: str) -> re.Pattern[str]:
    """Translate a filter pattern: `*` stays in a folder, `**` does not, `?` and `+` repeat what is before."""
    out: list[str] = []
    index = 0
    while index < len(pattern):
        rest = pattern[index:]
        char = pattern[index]
        if rest.startswith("**/") and (index == 0 or pattern[index - 1] == "/"):
            out.append("(?:.*/)?")
            index += 3
        elif rest.startswith("**"):
            out.append(".*")
            index += 2
        elif char == "*":
            out.append("[^/]*")
            index += 1
        elif char in "?+" and out:
            out[-1] = f"(?:{out[-1]}){char}"
            index += 1
        elif char == "[" and (end := pattern.find("]", index + 1)) > 0:
            out.append("[" + pattern[index + 1 : end].replace("\\", "") + "]")
            index = end + 1
        elif char == "\\" and index + 1 < len(pattern):
            out.append(re.escape(pattern[index + 1]))
            index += 2
        else:
            out.append(re.escape(char))
            index += 1
    try:
        return re.compile("".join(out), re.DOTALL)
    except re.error as error:
        raise BadWorkflow(f"`{pattern}` is not a filter pattern: {error}") from error


def skipped(message: str) -> bool:
    """Tell whether a head commit's message says that it starts nothing.

    The agent's commits (trailer `Tidegate-Verdict`) do: automation never triggers itself.
    """
    return any(mark in message for mark in SKIP_MARKS) or bool(
        re.search(r"^Tidegate-Verdict:", message, re.MULTILINE)
    )


def in_order(names: Iterable[str]) -> list[str]:
    """Return workflow names in the order in which one push runs them."""
    return sorted(names, key=lambda name: (_ORDER.get(name, 5), name))


def group(workflow: Mapping[Any, Any], name: str, ref: str, commit: str, event: str = "push") -> str | None:
    """Return the workflow's concurrency group with its `github.*` expressions filled in, or None.

    `a || b` is the first that is not empty. Runs of one group follow each other; without a group they may
    run at the same time, as on GitHub. Raises BadWorkflow for an expression that is not known here.
    """
    spec = workflow.get("concurrency")
    text = spec.get("group") if isinstance(spec, Mapping) else spec
    if text is None:
        return None
    branch = ref.removeprefix("refs/heads/")
    known = {"workflow": name, "ref": ref, "sha": commit, "ref_name": branch}
    known["head_ref"] = branch if event == "pull_request" else ""

    def fill(match: re.Match[str]) -> str:
        fields = [part.strip().removeprefix("github.") for part in match[1].split("||")]
        for field in fields:
            if field not in known:
                raise BadWorkflow(
                    f"`{match[0]}` in concurrency: here there is github.{', github.'.join(known)}"
                )
        return next((known[field] for field in fields if known[field]), "")

    filled = re.sub(r"\$\{\{\s*(github\.\w+(?:\s*\|\|\s*github\.\w+)*)\s*\}\}", fill, str(text))
    if "${{" in filled:
        raise BadWorkflow(
            f"`{text}` in concurrency is not understood here; use github.ref and the like alone"
        )
    return filled


def minutes(workflow: Mapping[Any, Any], default: float) -> float:
    """Return how many minutes a run may take: its jobs' `timeout-minutes` one after the other."""
    jobs = workflow.get("jobs") or {}
    return sum(float(job.get("timeout-minutes", default)) for job in jobs.values()) or default


def unmapped(workflow: Mapping[Any, Any], labels: Iterable[str]) -> list[str]:
    """Return what act would skip or need Docker for, one line each; empty means that all jobs can run.

    act skips a job whose `runs-on` it does not know, and exits 0: a gate that never ran would pass.
    """
    known = set(labels)
    problems = []
    for name, job in (workflow.get("jobs") or {}).items():
        if "uses" in job:
            problems.append(f"job `{name}` calls a reusable workflow")
            continue
        runs_on = job.get("runs-on")
        wanted = [runs_on] if isinstance(runs_on, str) else list(runs_on or [])
        if not wanted or not set(wanted) <= known:
            problems.append(
                f"job `{name}` runs on `{runs_on}`; here there is only {', '.join(sorted(known))}"
            )
        problems += [f"job `{name}` needs `{key}`" for key in ("container", "services") if job.get(key)]
    return problems or ([] if workflow.get("jobs") else ["there are no jobs"])
