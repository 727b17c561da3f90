"""`tidegate doctor`: each check says yes and no for the right reason, and never changes the machine."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from tidegate import config, doctor, wiring
from tidegate.commands import history as command
from tidegate.doctor import Check
from tidegate.errors import ConfigError

ROOT = Path(__file__).parents[2]


def named(checks, name: str) -> Check:
    """The check of that name."""
    return next(check for check in checks if check.name == name)


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone-like folder with this repository's envs/ and a reachable origin."""
    folder = tmp_path / "work"
    shutil.copytree(ROOT / "envs", folder / "envs")
    origin = tmp_path / "origin.git"
    ada = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org")
    for arguments in (
        ("init", "-q", "--bare", str(origin)),
        ("init", "-q", "-b", "main", str(folder)),
        ("-C", str(folder), "add", "-A"),
        ("-C", str(folder), *ada, "commit", "-q", "-m", "Start"),
        ("-C", str(folder), "remote", "add", "origin", str(origin)),
        ("-C", str(folder), "push", "-q", "origin", "main"),
    ):
        subprocess.run(["git", *arguments], check=True, capture_output=True)
    monkeypatch.setenv("TIDEGATE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    return folder


def test_a_sound_checkout_passes_everything_required(checkout, tmp_path, monkeypatch):
    """On a machine with everything, no required check fails, and looking creates nothing."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/tmp")
    before = sorted(p for p in checkout.rglob("*") if ".git" not in p.parts)
    checks = doctor.examine(checkout)
    assert [c for c in checks if c.required and not c.ok] == []
    assert sorted(p for p in checkout.rglob("*") if ".git" not in p.parts) == before
    assert not (tmp_path / "home").exists()


def test_every_failed_check_says_what_to_do(tmp_path):
    """Whatever fails, an action is given with it."""
    for check in [*doctor.examine(None), *doctor.check_programs(tmp_path), doctor.check_git("no-such-git")]:
        assert check.ok or check.action


def test_an_old_git_is_refused(tmp_path):
    """A git without merge-tree --write-tree is not enough; the version found is shown."""
    fake = tmp_path / "git"
    fake.write_text("#!/bin/sh\necho git version 2.30.2\n")
    fake.chmod(0o755)
    check = doctor.check_git(str(fake))
    assert not check.ok
    assert "2.30.2" in check.found
    fake.write_text("#!/bin/sh\necho git version 2.38.0.windows.1\n")
    assert doctor.check_git(str(fake)).ok


def test_a_missing_git_is_said():
    """Without git the check fails instead of raising."""
    assert not doctor.check_git("no-such-git").ok


def test_an_old_python_is_refused():
    """Python 3.10 is too old, 3.11 is not."""
    assert not doctor.check_python((3, 10)).ok
    assert doctor.check_python((3, 11)).ok


def test_a_program_that_is_not_there_is_named(tmp_path, monkeypatch):
    """A program neither beside Python nor on PATH is missing; one beside Python is found."""
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "envoy").write_text("")
    (tmp_path / "bin" / "envoy").chmod(0o755)
    found = {check.name: check.ok for check in doctor.check_programs(tmp_path / "bin")}
    assert found == {"envoy": True, "act": False, "supervisord": False, "dvc": False, "bentoml": False}


def test_no_compiler_is_a_warning(tmp_path, monkeypatch):
    """Only faults of one gate are made of C: without it the rest works, and doctor says what does not."""
    monkeypatch.setenv("PATH", str(tmp_path))
    found = doctor.check_compiler()
    assert not found.ok
    assert not found.required
    assert "gate selftest" in found.action


def test_a_home_that_cannot_be_written_fails(tmp_path):
    """A home below a file fails with the way out, and one not made yet is asked of its parent."""
    (tmp_path / "file").write_text("")
    assert not doctor.check_home(tmp_path / "file" / "home").ok
    assert doctor.check_home(tmp_path / "not" / "yet").ok
    assert not (tmp_path / "not").exists()


def test_a_full_disk_fails(tmp_path, monkeypatch):
    """Less room than needed fails; exactly enough does not."""
    monkeypatch.setattr(doctor, "DISK_NEEDED", shutil.disk_usage(tmp_path).free * 2)
    assert not doctor.check_disk(tmp_path).ok
    monkeypatch.setattr(doctor, "DISK_NEEDED", 1)
    assert doctor.check_disk(tmp_path / "not" / "yet").ok


def test_a_long_socket_path_fails(tmp_path, monkeypatch):
    """A folder whose sockets would not fit into 107 bytes fails before anything is started."""
    platforms = {"production": config.Platform(plane="production")}
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/tmp/" + "x" * 80)
    assert not named(doctor.check_sockets(config.Home(tmp_path), platforms), "socket paths").ok
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/tmp")
    assert named(doctor.check_sockets(config.Home(tmp_path), platforms), "socket paths").ok


def test_a_taken_port_fails_unless_the_plane_has_it(tmp_path, monkeypatch):
    """A configured port in use fails; in use while the plane's own socket is there, it is the plane's."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    home = config.Home(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        platforms = {"p": config.Platform(plane="p", router=config.RouterSpec(port=port))}
        assert [c.ok for c in doctor.check_ports(home, platforms)] == [False]

        home.sockets.mkdir()
        (home.sockets / "p.envoy").write_text("")
        assert [c.ok for c in doctor.check_ports(home, platforms)] == [True]
    automatic = {"p": config.Platform(plane="p")}
    assert list(doctor.check_ports(home, automatic)) == []


def test_a_store_on_a_server_is_named_not_judged(tmp_path):
    """Stores on this machine are tried; one on a server is shown as not asked."""
    stores = config.StoresSpec(dvc="s3://bucket/dvc")
    checks = list(
        doctor.check_stores(config.Home(tmp_path), {"p": config.Platform(plane="p", stores=stores)})
    )
    assert "not asked" in named(checks, "store dvc").found
    assert named(checks, "store bentos").found == f"{tmp_path}/bentoml"


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("bentos", "s3://bucket/bentos"),
        ("bentos", "sqlite:///bentos"),
        ("state", "postgresql://host/state"),
        ("state", "{home}/state.db"),
        ("state", "sqlite://"),
        ("registry", "postgresql://host/mlflow"),
    ],
)
def test_a_store_that_no_adapter_takes_is_refused(tmp_path, name, address):
    """Neither doctor nor the wiring takes an address for a folder of that name; both say what to write."""
    home = config.Home(tmp_path)
    spec = config.Platform(plane="p", stores=config.StoresSpec(**{name: address}))
    check = named(list(doctor.check_stores(home, {"p": spec})), f"store {name}")
    assert not check.ok
    assert check.action
    takers = {"state": wiring.state, "bentos": wiring.bentos, "registry": wiring.registry}
    with pytest.raises(ConfigError):
        takers[name](spec, home)
    assert list(tmp_path.iterdir()) == []


def test_a_remote_that_does_not_answer_fails(checkout, tmp_path):
    """No remote, an unreachable one, and one without the branch each fail with their own action."""
    platforms = {"p": config.Platform(plane="p")}
    assert [c.ok for c in doctor.check_remotes(checkout, platforms)] == [True]
    actions = set()
    for arguments in (
        ("remote", "set-url", "origin", str(tmp_path / "gone.git")),
        ("remote", "remove", "origin"),
    ):
        subprocess.run(["git", "-C", str(checkout), *arguments], check=True)
        (check,) = doctor.check_remotes(checkout, platforms)
        assert not check.ok
        actions.add(check.action)
    other = {"p": config.Platform(plane="p", repository=config.RepositorySpec(branch="trunk"))}
    subprocess.run(
        ["git", "-C", str(checkout), "remote", "add", "origin", str(tmp_path / "origin.git")], check=True
    )
    (check,) = doctor.check_remotes(checkout, other)
    assert not check.ok
    assert len(actions | {check.action}) == 3


def test_a_file_that_does_not_parse_is_shown(checkout):
    """A malformed file under envs/ is named with its line, and later checks don't raise over it."""
    (checkout / "envs" / "canary" / "rollout.yaml").write_text("defaults:\n  stepz: []\n")
    check = named(doctor.examine(checkout), "envs/")
    assert not check.ok
    assert "rollout.yaml:2" in check.found


def test_the_command_exits_1_when_something_required_is_missing(checkout, monkeypatch):
    """Exit code 1 for a required check, 0 for a warning alone; --json says which."""
    monkeypatch.chdir(checkout)
    app = typer.Typer()
    command.register(app)
    monkeypatch.setattr(doctor, "examine", lambda _: [Check("memory", False, "1", "Close.", required=False)])
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 0
    assert "Close." in done.output
    monkeypatch.setattr(doctor, "examine", lambda _: [Check("git", False, "none", "Install git.")])
    done = CliRunner().invoke(app, ["doctor", "--json"])
    assert done.exit_code == 1
    assert json.loads(done.stdout)["checks"][0]["action"] == "Install git."


def test_doctor_runs_outside_of_a_checkout(tmp_path):
    """Where there is no repository, doctor still says what the machine has, and ends with 1."""
    program = Path(sys.executable).with_name("tidegate")
    done = subprocess.run([str(program), "doctor"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "no envs/" in done.stdout
    assert "git version" in done.stdout
