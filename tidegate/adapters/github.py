"""Pull requests on GitHub by its REST API (docs.github.com/rest: pulls, issues/comments, reviews)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import tenacity

from tidegate.core.promotion import lane
from tidegate.errors import ConfigError, Conflict, Refused, TidegateError, Unreachable
from tidegate.ports import Pull

MAX_BODY = 65_000  # GitHub takes 65,536 characters
PAGE = 100
PAGES = 10  # a thousand pull requests is more than a person looks through
ATTEMPTS = 5
_CUT = "\n\n… cut here: the whole report is in the job's summary.\n"
_AUTHOR = re.compile(r"^<!-- tidegate-author: (.*) -->$", re.MULTILINE)


class GitHubForge:
    """The port `Forge` over one repository `owner/name`. Asks again after 429, 5xx and broken connections."""

    def __init__(
        self,
        api: str,
        repository: str,
        token: str,
        *,
        base: str = "main",
        wait: float = 0.5,
        timeout: float = 20.0,
    ) -> None:
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
            raise ConfigError(
                f"`{repository}` is not a GitHub repository",
                "Set forge.repository: owner/name in envs/platform.yaml.",
            )
        self._path = f"/repos/{repository}"
        self._owner = repository.split("/")[0]
        self._base = base
        headers = {"Accept": "application/vnd.github+json", "X-GitHub-Api-Version": "2022-11-28"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        self._client = httpx.Client(base_url=api.rstrip("/"), headers=headers, timeout=timeout)
        self._retry = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(Unreachable),
            stop=tenacity.stop_after_attempt(ATTEMPTS),
            wait=tenacity.wait_exponential(wait, max=20),
            reraise=True,
        )

    # ------------------------------------------------------------ the port
    def open(self, branch: str, title: str, body: str, author: str) -> Pull:
        """Open a pull request of a pushed branch into main, or update the open one of that branch.

        Older open promotions of the same model to the same environment are closed, with a comment.
        """
        pull = self._opened(branch, title, body, author)
        if lane(branch):
            query = {"state": "open", "base": self._base}
            found = [_pull(item) for item in self._pages("/pulls", query) if self._is_ours(item)]
            for older in filter(pull.supersedes, found):
                self.comment(older.number, "tidegate-superseded", f"Superseded by #{pull.number}.")
                self._call("PATCH", f"/pulls/{older.number}", json={"state": "closed"})
        return pull

    def _is_ours(self, item: dict[str, Any]) -> bool:
        """Tell whether a pull request's branch is of this repository: a fork may call its own alike."""
        return bool(item["head"].get("label") == f"{self._owner}:{item['head']['ref']}")

    def _opened(self, branch: str, title: str, body: str, author: str) -> Pull:
        text = _fit(f"<!-- tidegate-author: {' '.join(author.split())} -->\n{body}")
        query = {"state": "open", "head": f"{self._owner}:{branch}", "base": self._base}
        found = self._call("GET", "/pulls", params=query)
        if found:
            number = found[0]["number"]
            return _pull(self._call("PATCH", f"/pulls/{number}", json={"title": title, "body": text}))
        content = {"title": title, "body": text, "head": branch, "base": self._base}
        return _pull(self._call("POST", "/pulls", json=content))

    def list(self) -> Sequence[Pull]:
        """Return the newest pull requests, newest first."""
        query = {"state": "all", "sort": "created", "direction": "desc"}
        return [_pull(item) for item in self._pages("/pulls", query)]

    def comment(self, number: int, marker: str, body: str) -> None:
        """Write a comment, or replace the one that carries the same marker (an HTML comment)."""
        mark = f"<!-- {marker} -->"
        text = _fit(f"{mark}\n{body}")
        for item in self._pages(f"/issues/{number}/comments", {}):
            if str(item.get("body", "")).startswith(mark):
                self._call("PATCH", f"/issues/comments/{item['id']}", json={"body": text})
                return
        self._call("POST", f"/issues/{number}/comments", json={"body": text})

    def merge(self, number: int, approver: str, reason: str) -> str:
        """Approve as the token's user, merge the head that was looked at, return the merge commit.

        Raises Refused when the author approves or a rule forbids it, Conflict when the head moved.
        """
        pull = _pull(self._call("GET", f"/pulls/{number}"))
        if pull.state != "open":
            raise Refused(f"pull request {number} is {pull.state}", "Promote again to open a new one.")
        if not reason.strip() or not approver.strip():
            raise Refused("a merge needs an approver and a reason", "Give both: --as NAME --reason TEXT.")
        if _mail(approver) == _mail(pull.author):
            raise Refused(f"{approver} opened pull request {number}", "Let somebody else merge it.")
        said = " ".join(reason.split())
        review = {"event": "APPROVE", "body": said, "commit_id": pull.head}
        self._call("POST", f"/pulls/{number}/reviews", json=review)
        trailers = f"Tidegate-Pull: {number}\nTidegate-Approved-By: {' '.join(approver.split())}\n"
        content = {
            "sha": pull.head,
            "merge_method": "merge",
            "commit_title": f"Merge pull request {number}: {pull.title}",
            "commit_message": f"{said}\n\n{trailers}Tidegate-Reason: {said}\n",
        }
        return str(self._call("PUT", f"/pulls/{number}/merge", json=content)["sha"])

    # ------------------------------------------------------------ HTTP
    def _pages(self, path: str, query: dict[str, str]) -> Iterator[dict[str, Any]]:
        for page in range(1, PAGES + 1):
            items = self._call("GET", path, params={**query, "per_page": str(PAGE), "page": str(page)})
            yield from items
            if len(items) < PAGE:
                return

    def _call(self, method: str, path: str, **content: Any) -> Any:
        return self._retry(self._once, method, path, content)

    def _once(self, method: str, path: str, content: dict[str, Any]) -> Any:
        try:
            answer = self._client.request(method, f"{self._path}{path}", **content)
        except httpx.HTTPError as error:
            raise Unreachable(
                f"GitHub: {error or type(error).__name__}", "Check the network; run it again."
            ) from error
        if answer.is_success:
            try:
                return answer.json()
            except ValueError as error:
                raise Unreachable(
                    "GitHub answered with no JSON", "Check forge.api in envs/platform.yaml."
                ) from error
        raise _translate(method, path, answer)


def _translate(method: str, path: str, answer: httpx.Response) -> TidegateError:
    """Turn an answer that is no success into the error that says what to do."""
    what = f"GitHub {method} {path}: {answer.status_code} {_said(answer)}".strip()
    limited = answer.status_code == 403 and (
        answer.headers.get("x-ratelimit-remaining") == "0" or "retry-after" in answer.headers
    )
    if answer.status_code in (408, 429) or answer.status_code >= 500 or limited:
        return Unreachable(what, "It was tried several times; run it again later.")
    if answer.status_code in (401, 403):
        return Refused(what, "Give GITHUB_TOKEN the rights `contents` and `pull-requests: write`.")
    if answer.status_code == 404:
        return Refused(what, "Check forge.repository in envs/platform.yaml, and the token's rights.")
    if answer.status_code == 409 or (answer.status_code == 405 and "not mergeable" in what):
        return Conflict(what, "The branch moved or conflicts with main; look again, then repeat.")
    if answer.status_code == 405:
        return Refused(what, "A rule of the branch forbids it; see the pull request.")
    if answer.status_code == 422 and path == "/pulls":
        return Conflict(what, "Push the branch first; it must differ from main.")
    return Refused(what, "See the pull request on GitHub.")


def _said(answer: httpx.Response) -> str:
    try:
        document = answer.json()
    except ValueError:
        return answer.reason_phrase
    if not isinstance(document, dict):
        return answer.reason_phrase
    details = [
        str(e.get("message") or e.get("code") or "")
        for e in document.get("errors", ())
        if isinstance(e, dict)
    ]
    return "; ".join(part for part in (str(document.get("message", "")), *details) if part)


def _pull(item: dict[str, Any]) -> Pull:
    body = item.get("body") or ""
    named = _AUTHOR.search(body)
    merged = bool(item.get("merged_at"))
    return Pull(
        number=item["number"],
        branch=item["head"]["ref"],
        title=item["title"],
        body=_AUTHOR.sub("", body, count=1).removeprefix("\n") if named else body,
        author=named[1] if named else item["user"]["login"],
        state="merged" if merged else item["state"],
        head=item["head"]["sha"],
        url=item.get("html_url", ""),
        merged_by=(item.get("merged_by") or {}).get("login", ""),
    )


def _fit(text: str) -> str:
    return text if len(text) <= MAX_BODY else text[: MAX_BODY - len(_CUT)] + _CUT


def _mail(who: str) -> str:
    return who.rpartition("<")[2].rstrip("> ").strip().casefold()
