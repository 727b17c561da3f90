"""The way into staging and out of it: every gate is asked, and only its word of this release counts."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tidegate import gating, report, staging
from tidegate.core.promotion import Target
from tidegate.core.verdict import Finding, Verdict
from tidegate.errors import NoData, Refused
from tidegate.files import digest

MODEL, RELEASE, URL = "toy", "0123456789ab", "http://127.0.0.1:9"
TARGET = Target("staging", MODEL, RELEASE)
# Stands for a gate: when it is run it writes the report that it is told to, and exits as it is told to.
SCRIPT = """
import json, sys
from pathlib import Path
{head}
if __name__ == "__main__":
    told = json.loads(Path("told.json").read_text()).get("{name}", {{}})
    Path("asked.txt").open("a").write(" ".join(["{name}", *sys.argv[1:]]) + "\\n")
    if "report" in told:
        out = Path("build/{model}/gates{folder}/{name}.json")
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(told["report"])
    sys.exit(told.get("exit", 0))
"""


OWN = """
from tidegate import gating
GATE = gating.Gate("{name}", gating.Settings, lambda subject: None, needs="{needs}", inputs="", fix="")
"""


class Checkout:
    """A checkout whose gates say what they are told to."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.told: dict[str, dict[str, object]] = {}
        self.said: list[str] = []
        (root / "gates").mkdir(parents=True)
        for name in gating.ON_STAGING:
            self.script(name)
            self.tell(name, Verdict.PASS)

    def script(self, name: str, needs: str = "") -> None:
        head, folder = (OWN.format(name=name, needs=needs), "/added") if needs else ("", "")
        text = SCRIPT.format(name=name, model=MODEL, folder=folder, head=head)
        (self.root / "gates" / f"{gating.stem(name)}.py").write_text(text)

    def tell(self, name: str, verdict: Verdict, code: int | None = None, release: str = RELEASE) -> None:
        source = report.Source(release=release)
        finding = Finding("thing", verdict, 1.0, 1.0, f"{name} was told so")
        text = report.to_json(report.Report(name, MODEL, (finding,), source=source))
        self.told[name] = {"report": text, "exit": verdict.exit_code if code is None else code}

    def run(self) -> None:
        (self.root / "told.json").write_text(json.dumps(self.told))
        staging.run_gates(self.root, TARGET, URL, self.said.append)

    @property
    def asked(self) -> list[list[str]]:
        return [line.split() for line in (self.root / "asked.txt").read_text().splitlines()]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Checkout]:
    others = _without_gates()  # of another checkout
    monkeypatch.syspath_prepend(tmp_path / "checkout")
    yield Checkout(tmp_path / "checkout")
    _without_gates()  # this one's: no later test may take them for its own
    sys.modules.update(others)


def _without_gates() -> dict[str, ModuleType]:
    """Forget every gate that is imported; returns them."""
    return {name: sys.modules.pop(name) for name in [*sys.modules] if name.partition(".")[0] == "gates"}


def test_all_gates_are_asked_in_their_order(checkout: Checkout) -> None:
    """Each gets the endpoint and the release; one that does not apply goes on and is said to."""
    checkout.tell("gpu", Verdict.NOT_APPLICABLE)
    checkout.run()
    assert [line[0] for line in checkout.asked] == [*gating.ON_STAGING]
    assert all(
        line[1:] == [MODEL, "--endpoint", f"{URL}/{MODEL}", "--release", RELEASE] for line in checkout.asked
    )
    assert "gate gpu: not applicable (exit 0): gpu was told so" in checkout.said
    assert "gate contract: PASS (exit 0)" in checkout.said


def test_all_gates_are_asked_when_the_first_fails(checkout: Checkout) -> None:
    """The reviewer wants the whole page; then the release stays where it is, and each gate is named."""
    checkout.tell("contract", Verdict.FAIL)
    checkout.tell("load", Verdict.INCONCLUSIVE)
    with pytest.raises(Refused, match="does not leave staging: contract FAIL, load INCONCLUSIVE"):
        checkout.run()
    assert [line[0] for line in checkout.asked] == [*gating.ON_STAGING]


@pytest.mark.parametrize("name", ["contract", "cost"])
def test_a_deleted_gate_has_not_passed(checkout: Checkout, name: str) -> None:
    """Also where its report of an earlier run lies there: a missing script is not a gate less."""
    checkout.run()
    (checkout.root / "gates" / f"{name}.py").unlink()
    with pytest.raises(Refused, match=f"{name} ERROR"):
        checkout.run()


def test_exit_code_and_report_must_agree(checkout: Checkout) -> None:
    """A gate that died after its report was written has not passed, nor has one that says otherwise."""
    checkout.tell("load", Verdict.PASS, code=1)
    checkout.tell("cost", Verdict.FAIL, code=0)
    with pytest.raises(Refused, match="load PASS with exit 1, cost FAIL with exit 0"):
        checkout.run()


def test_a_report_must_be_of_this_release_and_of_this_run(checkout: Checkout) -> None:
    """One of another release, of none, and none at all are no pass, whatever the exit code."""
    checkout.tell("contract", Verdict.PASS, release="ffffffffffff")
    checkout.tell("parity", Verdict.PASS, release="")
    checkout.told["load"] = {"exit": 0}
    checkout.told["cost"] = {"exit": 0, "report": "{}"}
    with pytest.raises(Refused, match=r"contract ERROR.*, parity ERROR.*, load ERROR.*, cost ERROR"):
        checkout.run()
    told = " ".join(checkout.said)
    assert "about release ffffffffffff, not 0123456789ab" in told
    assert "names no release" in told


def test_a_gate_that_hangs_is_stopped(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has not passed, and the others are asked all the same."""
    monkeypatch.setattr(staging, "TIMEOUT", 1.5)
    path = checkout.root / "gates" / "parity.py"
    path.write_text("if __name__ == '__main__':\n    import time\n    time.sleep(600)\n")
    with pytest.raises(Refused, match=r"parity ERROR"):
        checkout.run()
    assert [line[0] for line in checkout.asked] == [name for name in gating.ON_STAGING if name != "parity"]


@pytest.mark.parametrize(("needs", "more"), [("endpoint", ["--endpoint", f"{URL}/{MODEL}"]), ("release", [])])
def test_a_users_own_gate_is_asked_too(checkout: Checkout, needs: str, more: list[str]) -> None:
    """A gate that needs an endpoint or a release is run after the others, and holds back as they do."""
    own = f"own-{needs}"
    checkout.script(own, needs)
    checkout.tell(own, Verdict.PASS)
    checkout.run()
    assert checkout.asked[-1] == [own, MODEL, *more, "--release", RELEASE]
    checkout.tell(own, Verdict.FAIL)
    with pytest.raises(Refused, match=f"{own} FAIL"):
        checkout.run()


def test_a_users_own_gate_that_reads_files_is_the_pipelines(checkout: Checkout) -> None:
    """It has run before there was a release; one that can't be loaded is asked here, and fails here."""
    checkout.script("own-files", "files")
    assert staging.gates(checkout.root) == [*gating.ON_STAGING]
    (checkout.root / "gates" / "own_broken.py").write_text("raise SystemExit(0)\n")
    assert staging.gates(checkout.root) == [*gating.ON_STAGING, "own-broken"]
    with pytest.raises(Refused, match="own-broken ERROR"):
        checkout.run()


def test_without_an_address_nothing_is_asked(checkout: Checkout) -> None:
    """A plane that publishes no address can't be looked at."""
    with pytest.raises(NoData, match="publishes no address"):
        staging.run_gates(checkout.root, TARGET, "", checkout.said.append)


# ---------------------------------------------------------------- the way in
def artifact(root: Path, verdict: Verdict = Verdict.PASS, release: str = RELEASE) -> None:
    (root / "model.onnx").write_text("weights")
    source = report.Source(release=release, inputs={"model.onnx": digest(root / "model.onnx")})
    found = report.Report(
        "artifact", MODEL, (Finding("Bento", verdict, None, None, "as told"),), source=source
    )
    report.write(found, root / "build" / MODEL / "gates")


def test_what_the_artifact_gate_passed_is_admitted(tmp_path: Path) -> None:
    """Its report says PASS, of this release, of these files."""
    artifact(tmp_path)
    staging.admit(tmp_path, MODEL, RELEASE)


@pytest.mark.parametrize("verdict", [v for v in Verdict if v is not Verdict.PASS])
def test_only_pass_is_admitted(tmp_path: Path, verdict: Verdict) -> None:
    """Any other verdict refuses the release, also that the gate would not apply."""
    artifact(tmp_path, verdict)
    with pytest.raises(Refused, match=rf"does not enter staging: gate artifact {verdict}: as told"):
        staging.admit(tmp_path, MODEL, RELEASE)


def test_no_other_report_admits(tmp_path: Path) -> None:
    """A missing one, one of another release or of none, and one of files that have changed since."""
    with pytest.raises(Refused, match="it is not there"):
        staging.admit(tmp_path, MODEL, RELEASE)
    for release, words in (("ffffffffffff", "about release ffffffffffff"), ("", "of no release")):
        artifact(tmp_path, release=release)
        with pytest.raises(Refused, match=words):
            staging.admit(tmp_path, MODEL, RELEASE)
    artifact(tmp_path)
    (tmp_path / "model.onnx").write_text("other weights")
    with pytest.raises(Refused, match="stale"):
        staging.admit(tmp_path, MODEL, RELEASE)
