"""The rules of the house, held by the repository itself: floors, pins, names, documents."""

from __future__ import annotations

import ast
import importlib
import os
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

import click
import pytest
import typer
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tidegate import cli, config

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "tidegate"


@cache
def house_files() -> tuple[Path, ...]:
    """Every file that is, or will be, tracked."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    done = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        env=kept,
        capture_output=True,
        text=True,
        check=True,
    )
    return tuple(ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file())


def text_of(path: Path) -> str:
    """A file's text; nothing for one that is none."""
    try:
        return path.read_text()
    except UnicodeDecodeError:
        return ""


# ---------------------------------------------------------------- floors
# From the top: an arrow goes to the same floor or a lower one. What is not named is on floor 2.
FLOORS = {
    **dict.fromkeys(("cli", "commands", "demo", "doctor", "planes", "selftest", "ui", "__main__"), 4),
    **dict.fromkeys(("wiring", "gating", "pages", "scored", "staging"), 3),
    **dict.fromkeys(("config", "report", "ports", "documents", "files"), 1),
    **dict.fromkeys(("core", "errors"), 0),
}


def module_name(path: Path) -> str:
    """`tidegate.core.release` of its file; a package's name of its __init__."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def arrows() -> dict[str, set[str]]:
    """Module → modules of the package that it imports, at its top or inside a function."""
    modules = {module_name(path): path for path in PACKAGE.rglob("*.py")}
    found: dict[str, set[str]] = {}
    for name, path in modules.items():
        out: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                base = node.module or ""
                if node.level:
                    package = name.split(".")[: -node.level if path.name != "__init__.py" else None]
                    base = ".".join([*package, base]).rstrip(".")
                for alias in node.names:
                    out.add(f"{base}.{alias.name}" if f"{base}.{alias.name}" in modules else base)
            elif isinstance(node, ast.Import):
                out |= {alias.name for alias in node.names}
        found[name] = {target for target in out if target.split(".")[0] == "tidegate"} - {name}
    return found


def room(module: str) -> str:
    """The second part of a module's name: the room that it is in."""
    return [*module.split("."), "", ""][1]


def floor(module: str) -> int:
    """The floor of a module; the package itself holds only its version, so anybody may import it."""
    return 0 if module == "tidegate" else FLOORS.get(room(module), 2)


def test_core_imports_nothing_from_the_rest():
    """core/ imports only core/: a decision depends on nothing that could not be given to it."""
    wrong = [
        f"{module} → {target}"
        for module, targets in arrows().items()
        if room(module) == "core"
        for target in targets
        if room(target) != "core"
    ]
    assert wrong == []


OUTSIDE = {
    "os",
    "sys",
    "time",
    "subprocess",
    "socket",
    "pathlib",
    "logging",
    "tempfile",
    "shutil",
    "threading",
}
OUTSIDE |= {"sqlite3", "httpx", "asyncio", "uuid", "secrets"}


def impure(tree: ast.AST) -> Iterator[str]:
    """What in a module reaches outside of it: I/O, the clock, the environment, unseeded randomness."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] in OUTSIDE)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in OUTSIDE:
            yield str(node.module)
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if re.search(
                r"^(open|print|input|random\.(?!Random$)\w+)$|date(time)?\.(now|utcnow|today)$", called
            ):
                yield called
            elif re.search(r"(default_rng|random\.Random)$", called) and not node.args and not node.keywords:
                yield f"{called} without a seed"


def test_core_is_pure():
    """core/ has no I/O, clock, environment or logging, and no randomness without a seed."""
    wrong = [
        f"{path.name}: {what}"
        for path in (PACKAGE / "core").rglob("*.py")
        for what in impure(ast.parse(path.read_text()))
    ]
    assert wrong == []


@pytest.mark.parametrize(
    "source",
    [
        "import os",
        "from time import time",
        "open('x')",
        "datetime.now()",
        "random.random()",
        "np.random.default_rng()",
    ],
)
def test_what_is_impure_is_seen(source):
    """The rule about purity finds each kind of reaching out (so its silence means something)."""
    assert list(impure(ast.parse(source)))


def test_adapters_do_not_import_each_other():
    """Adapters know no other adapter; what two need stands on a lower floor."""
    wrong = []
    for module, targets in arrows().items():
        for target in targets:
            own, other = module.split("."), target.split(".")
            both = own[1:2] == other[1:2] == ["adapters"] and len(own) > 2 and len(other) > 2
            if both and own[2] != other[2]:
                wrong.append(f"{module} → {target}")
    assert wrong == []


def test_arrows_point_down():
    """No module imports one from a floor above its own."""
    wrong = [
        f"{module} (floor {floor(module)}) → {target} (floor {floor(target)})"
        for module, targets in arrows().items()
        for target in targets
        if floor(target) > floor(module)
    ]
    assert wrong == []


def test_no_circles():
    """Modules don't import each other in a circle, not even by an import inside a function."""
    graph = arrows()
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " → ".join([*way[way.index(module) :], module])
        if module not in done:
            for target in sorted(graph.get(module, ())):
                # a package and its own parts are one thing
                if not module.startswith(f"{target}.") and target in graph:
                    visit(target, (*way, module))
            done.add(module)

    for module in sorted(graph):
        visit(module, ())


def test_fakes_are_not_used_by_the_package():
    """Nothing that runs for a user imports tidegate.testing."""
    assert [module for module, targets in arrows().items() if "tidegate.testing" in targets] == []


# ---------------------------------------------------------------- workflows, envs
def workflow_files() -> list[Path]:
    """Workflows and local actions."""
    folders = (ROOT / ".github" / "workflows", ROOT / ".github" / "actions")
    return [
        path
        for path in house_files()
        if path.suffix in (".yml", ".yaml") and any(f in path.parents for f in folders)
    ]


def used_actions(node: object) -> Iterator[str]:
    """Every `uses:` in a workflow or action."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "uses":
                yield str(value)
            else:
                yield from used_actions(value)
    elif isinstance(node, list):
        for item in node:
            yield from used_actions(item)


def test_every_action_is_pinned():
    """A workflow uses local actions, or others by a commit of 40 hex digits: a tag can be moved."""
    assert workflow_files()
    for path in workflow_files():
        for used in used_actions(yaml.safe_load(path.read_text())):
            assert used.startswith("./") or re.search(r"@[0-9a-f]{40}$", used), f"{path.name}: {used}"


def test_local_actions_exist():
    """Every `uses: ./…` names a folder with an action in it."""
    for path in workflow_files():
        for used in used_actions(yaml.safe_load(path.read_text())):
            if used.startswith("./"):
                assert (ROOT / used / "action.yml").exists() or (ROOT / used / "action.yaml").exists(), used


def test_workflows_hold_no_permission_by_default():
    """A workflow gives its token nothing at the top; each job says what it needs."""
    for path in workflow_files():
        document = yaml.safe_load(path.read_text())
        if "jobs" in document:
            assert document.get("permissions") == {}, path.name


def test_every_envs_file_parses():
    """Everything under envs/ parses, for each environment."""
    desired = config.load(ROOT)
    assert set(desired.environments) == set(config.ENVIRONMENTS)


# ---------------------------------------------------------------- README and docs
# Not paths of the repository, although they look like it.
NO_PATH = re.compile(
    r"^(refs|origin|owner|actions|application|text|promote|models:|s3:|https?:|git@|envs/releases|\.\.)\b"
)
# Made by commands, and ignored by Git.
MADE = re.compile(r"^(\.tidegate|\.venv|build|dvc_plots|data|\{home\}|dist)(/|$)")
PATH = re.compile(
    r"^(refs|origin|owner|actions|application|text|promote|models:|s3:|https?:|git@|envs/releases|\.\.)\b"
)
MADE = re.compile(
    r"^(\.tidegate|\.venv|build|dvc_plots|data|\{home\}|dist)(/|$)"
)  # made by commands, not in Git
PATH = re.compile(
    r"(?:\.?[A-Za-z0-9_][A-Za-z0-9_.<>-]*/)+(?:[A-Za-z0-9_.<>-]+)?|[A-Za-z0-9_-]+\.(?:py|md|ya?ml|toml|lock)"
)


def documents() -> list[Path]:
    """README and the pages of docs/."""
    docs = ROOT / "docs"
    return [p for p in house_files() if p.suffix == ".md" and (p == ROOT / "README.md" or docs in p.parents)]


def blocks(text: str) -> tuple[list[tuple[str, str]], list[str]]:
    """A page's fenced blocks (language, text) and its inline code."""
    fenced = [
        (lang.strip(), body) for lang, body in re.findall(r"^```([^\n]*)\n(.*?)^```", text, re.M | re.S)
    ]
    rest = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    return fenced, re.findall(r"`([^`\n]+)`", rest)


def exists(path: str, beside: Path) -> bool:
    """Whether a path is there, from the root or beside its page; only up to the first <placeholder>.

    A bare file name may be that of any file of the repository.
    """
    if "/" not in path:
        return any(path in (file.name, file.parent.name) for file in house_files())
    fixed = re.split(r"[^/]*<", path, maxsplit=1)[0]
    return not fixed or any((base / fixed).exists() for base in (ROOT, beside))


@pytest.mark.parametrize("page", documents(), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_named_paths_exist(page):
    """Every path that a page names as code or links to is in the repository, or is made by a command."""
    text = page.read_text()
    named = [span for span in blocks(text)[1] if PATH.fullmatch(span)]
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text)
    named += [link for link in links if "://" not in link and not link.startswith("mailto:")]
    gone = [p for p in named if not NO_PATH.match(p) and not MADE.match(p) and not exists(p, page.parent)]
    assert gone == []


@cache
def program() -> click.Group:
    """The command-line program with every group registered."""
    app = typer.Typer()
    for group in cli.GROUPS:
        importlib.import_module(f"tidegate.commands.{group}").register(app)
    found = typer.main.get_command(app)
    assert hasattr(found, "commands")
    return found


def commands_in(text: str) -> Iterator[list[str]]:
    """Every `tidegate …` and `make …` that a page shows, as words."""
    fenced, inline = blocks(text)
    shown = [
        line
        for lang, body in fenced
        if lang in ("", "console", "sh", "bash", "shell")
        for line in body.splitlines()
    ]
    for line in [*shown, *inline]:
        bare = re.sub(r"^\s*\$\s+", "", line).split("#")[0].split("&&")[-1].strip()
        if re.match(r"(tidegate|make)\s+\S", bare) and not re.search(r"[…│├]", bare):
            try:
                yield shlex.split(bare)
            except ValueError:
                yield bare.split()


def wrong_with(words: list[str]) -> str:
    """What is wrong with a shown command; nothing if it could be run."""
    if words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
        asked = [word for word in words[1:] if re.fullmatch(r"[a-z-]+", word)]
        return "".join(f"no target {word}" for word in asked if word not in targets)
    at: click.Command = program()
    for word in words[1:]:
        if word in ("--help", "-h"):
            continue
        if word.startswith("-"):
            known = {
                option for parameter in at.params for option in (*parameter.opts, *parameter.secondary_opts)
            }
            if at.context_settings.get("ignore_unknown_options"):  # `tidegate gate` hands them to the script
                known |= set(re.findall(r'add_argument\("(--[a-z]+)"', (PACKAGE / "gating.py").read_text()))
            if word.split("=")[0] not in known:
                return f"{at.name} has no option {word}"
        elif hasattr(at, "commands"):
            for name in word.split("|"):  # `tidegate up|down`
                if name not in at.commands:
                    return f"{at.name or 'tidegate'} has no command {name}"
            at = at.commands[word.split("|")[0]]
    return ""


@pytest.mark.parametrize("page", documents(), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_shown_commands_exist(page):
    """Every `tidegate …` and `make …` in a page is a command, with options that it has."""
    problems = {" ".join(words): wrong_with(words) for words in commands_in(page.read_text())}
    assert {shown: problem for shown, problem in problems.items() if problem} == {}


def test_wrong_commands_are_seen():
    """The rule about shown commands finds a wrong command, subcommand, option and target."""
    shown = "```console\n$ tidegate nonsense\n$ tidegate history --nonsense x\n```\n"
    text = f"{shown}`make nonsense` `tidegate history -e canary`"
    found = [wrong_with(words) for words in commands_in(text)]
    assert [bool(problem) for problem in found] == [True, True, True, False]


def leaves(group: click.Command, name: str = "tidegate") -> Iterator[tuple[str, click.Command]]:
    """Every command that does something."""
    if hasattr(group, "commands"):
        for key, command in group.commands.items():
            yield from leaves(command, f"{name} {key}")
    elif not group.hidden:
        yield name, group


def test_every_command_shows_an_example():
    """The help of every command has an example that could be typed."""
    bare = [
        name
        for name, command in leaves(program())
        if f"Example: {name}" not in " ".join((command.help or "").split())
    ]
    assert bare == []


def test_every_command_is_in_the_readme():
    """README names each command (a group counts for its own)."""
    readme = (ROOT / "README.md").read_text()
    shown = {name for words in commands_in(readme) if words[0] == "tidegate" for name in words[1].split("|")}
    assert {name for name, command in program().commands.items() if not command.hidden} - shown == set()


# ---------------------------------------------------------------- names that must not be in it
def forbidden() -> list[str]:
    """Names of the machine on which it is written; in pieces, since this file is looked at too."""
    found = ["/" + "work/", "/" + "root/", "../" + "shared", "--" + "index-url", "--extra-" + "index-url"]
    for name in (
        "PIP_INDEX_URL",
        "UV_INDEX_URL",
        "UV_DEFAULT_INDEX",
        "UV_INDEX",
        "npm_config_registry",
        "GOPROXY",
    ):
        host = urlsplit(os.environ.get(name, "")).hostname
        if host and host not in ("localhost", "127.0.0.1"):
            found.append(host)
    return found


def test_no_file_names_this_machine():
    """No tracked file holds a path of the machine that it was written on, or the address of an index."""
    wrong = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in house_files()
        for name in forbidden()
        if name in text_of(path)
    ]
    assert wrong == []


# ---------------------------------------------------------------- tests and lock
def test_every_test_says_its_property():
    """Every test function has a docstring: its property in a sentence."""
    bare = [
        f"{path.name}:{node.lineno} {node.name}"
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test")
        and not ast.get_docstring(node)
    ]
    assert bare == []


def locked(name: str = "requirements.lock") -> dict[str, tuple[str, bool]]:
    """Name → (version, whether it has a hash) of a lock."""
    text = (ROOT / name).read_text().replace("\\\n", " ")
    found = {}
    for line in text.splitlines():
        match = re.match(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?==(\S+)", line)
        if match:
            found[canonicalize_name(match[1])] = (match[2].rstrip(";"), "--hash=sha256:" in line)
    return found


def test_the_lock_satisfies_the_project():
    """Every dependency of pyproject.toml is locked at a version that it allows."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    versions = locked()
    asked = [
        *project["dependencies"],
        *(d for extra in project["optional-dependencies"].values() for d in extra),
    ]
    for requirement in map(Requirement, asked):
        name = canonicalize_name(requirement.name)
        assert name in versions, f"{name} is not locked: run make lock"
        assert requirement.specifier.contains(versions[name][0], prereleases=True), (
            f"{requirement}: {versions[name][0]}"
        )


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-gpu.lock"])
def test_every_locked_file_has_a_hash(lock):
    """Each requirement of a lock has a hash, and the lock names no index."""
    assert [name for name, (_, hashed) in locked(lock).items() if not hashed] == []
    options = [line for line in (ROOT / lock).read_text().splitlines() if re.match(r"(-i|--(?!hash))", line)]
    assert options == []


def test_the_lock_for_gpus_is_that_of_the_others():
    """An image for GPUs runs the same version of ONNX Runtime, and all else as it was tested."""
    gpu, versions = locked("requirements-gpu.lock"), locked()
    assert gpu.pop("onnxruntime-gpu")[0] == versions["onnxruntime"][0]
    assert {name: version for name, (version, _) in gpu.items()} == {n: versions[n][0] for n in gpu}


def test_the_makefile_installs_the_locked_uv():
    """The uv that bootstraps .venv is the one in the lock: one version, whoever calls it."""
    match = re.search(r"^UV_VERSION := (\S+)", (ROOT / "Makefile").read_text(), re.M)
    assert match
    assert match[1] == locked()["uv"][0]
