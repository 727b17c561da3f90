"""One plane's agent on fakes: what it does when files, stores, processes, routers and people misbehave."""

from __future__ import annotations

import pytest

from tests.builders import MODEL, A, B, C, Rig, envs, record, release_yaml
from tidegate.core import rollout
from tidegate.core.state import ModelState, Seen, Want
from tidegate.errors import PlatformError, Refused, ReleaseNotFound, Unreachable
from tidegate.ports import ReplicaState, Route


@pytest.fixture
def rig() -> Rig:
    """A plane where A is settled in production."""
    made = Rig()
    made.settle(A)
    return made


def canary(rig: Rig, seconds: int = 6) -> Rig:
    """Name B in canary, some seconds ago."""
    rig.push(canary=B)
    rig.drive(seconds)
    assert rig.weights[B]
    return rig


def test_a_look_with_nothing_to_do_stores_applies_and_publishes_nothing(rig: Rig) -> None:
    """A reconcile with nothing to do writes nothing, on a settled plane."""
    rig.drive(30)
    before = (
        rig.state.saves,
        rig.router.calls.count("apply"),
        rig.repository.publications,
        len(rig.state.log),
    )
    rig.drive(30)
    assert before == (
        rig.state.saves,
        rig.router.calls.count("apply"),
        rig.repository.publications,
        len(rig.state.log),
    )


# ---------------------------------------------------------------- Git
def test_a_malformed_release_file_leaves_the_last_good_one_in_force(rig: Rig) -> None:
    """File, line and suggestion stand in the status; nothing changes until the next commit mends it."""
    rig.repository.push({"envs/canary/release.yaml": f"models:\n  toy: {A}\nmodles: {{}}\n"})
    rig.drive(5)
    assert "envs/canary/release.yaml:3" in rig.problems
    assert "Did you mean `models`?" in rig.problems
    assert "stays in force" in rig.problems
    assert rig.weights == {A: 100}
    rig.push(canary=B)
    rig.drive(10)
    assert rig.problems == ""
    assert rig.weights[B]


def test_a_branch_set_back_to_the_last_good_commit_is_no_problem_any_more(rig: Rig) -> None:
    """A force-push away from a malformed commit clears its problem."""
    good = rig.repository.head
    rig.repository.push({"envs/canary/release.yaml": "]"})
    rig.drive(5)
    assert rig.problems
    rig.repository.head = good
    rig.drive(5)
    assert rig.problems == ""


def test_a_malformed_tree_does_not_stop_a_rollback(rig: Rig) -> None:
    """Somebody breaks a file while a canary fails: traffic leaves, the rejection is written, theirs stays."""
    canary(rig)
    rig.bad[B] = 0.5
    rig.repository.push({"envs/canary/release.yaml": "models: ["})
    rig.drive(15)
    assert rig.weights == {A: 100}
    assert rig.rejection(B)
    assert rig.repository.text("envs/canary/release.yaml") == "models: ["
    assert rig.reverts == 1


def test_a_release_without_a_record_is_not_taken_up(rig: Rig) -> None:
    """The problem names file, release and remedy; the plane stays as it is, and follows when it comes."""
    rig.repository.push({f"envs/releases/{MODEL}/{B}.yaml": None})
    text = envs()[f"envs/releases/{MODEL}/{B}.yaml"]
    rig.push(canary=B)
    rig.drive(5)
    assert f"envs/canary/release.yaml:2: {B} of {MODEL} has no record" in rig.problems
    assert "Merge its record" in rig.problems
    assert rig.weights == {A: 100}
    rig.repository.push({f"envs/releases/{MODEL}/{B}.yaml": text})
    rig.drive(10)
    assert (rig.problems, bool(rig.weights.get(B))) == ("", True)


def test_a_misspelt_model_takes_nothing_down(rig: Rig) -> None:
    """A typo in a model's name must not read as "this model is wanted nowhere any more"."""
    rig.repository.push({"envs/production/release.yaml": f"models:\n  {MODEL}x: {A}\n"})
    rig.drive(10)
    assert rig.weights == {A: 100}
    assert f"envs/production/release.yaml:2: {A} of {MODEL}x has no record" in rig.problems
    assert f"Did you mean `{MODEL}`?" in rig.problems


def test_a_rejected_release_asked_for_again_is_a_problem_that_says_so(rig: Rig) -> None:
    """It gets no traffic, and the status says why and what to do."""
    canary(rig).bad[B] = 0.5
    rig.drive(15)
    rig.push(canary=B)
    rig.drive(10)
    assert rig.weights == {A: 100}
    assert "was rejected" in rig.problems
    assert "delete its .rejected.yaml" in rig.problems


def test_an_unreachable_remote_is_asked_less_and_less_while_the_plane_goes_on(rig: Rig) -> None:
    """Back-off up to 4 s; a breach meanwhile is dealt with, and written within 5 s of the remote's return."""
    canary(rig)
    rig.repository.reachable = False
    rig.bad[B] = 0.5
    rig.drive(100)
    asked = rig.repository.calls.count("fetch")
    rig.drive(200)
    assert rig.repository.calls.count("fetch") - asked <= 100, "fetch by the poll and by the write-back"
    assert rig.weights == {A: 100}
    assert "again in" in rig.problems
    rig.repository.reachable = True
    rig.drive(5)
    assert (rig.reverts, rig.named("canary"), rig.weights) == (1, A, {A: 100})
    rig.drive(5)
    assert (rig.reverts, rig.named("canary"), rig.phase("canary"), rig.problems) == (1, A, "RolledBack", "")


def test_a_later_merge_by_a_person_is_not_reverted(rig: Rig) -> None:
    """C is merged while B fails: B's rejection is written, and canary goes on with C."""
    canary(rig).bad[B] = 0.5
    while rig.phase("canary") != "RollingBack":
        rig.repository.reachable = False
        rig.drive(1)
    rig.push(canary=C)
    rig.repository.reachable = True
    rig.drive(60)
    assert rig.named("canary") == C
    assert rig.rejection(B)
    change = next(c.change for c in rig.repository.log if c.change.subject.startswith("Roll back"))
    assert list(change.files) == [f"envs/releases/{MODEL}/{B}.rejected.yaml"]
    assert rig.weights[C]


def test_an_agent_that_may_not_push_still_follows_people(rig: Rig) -> None:
    """B stays out and the status says why; C is followed, over restarts; in the end Git is told."""
    for _ in range(90):
        rig.repository.fail_next(Refused("main is protected"), "commit")
    canary(rig).bad[B] = 0.5
    rig.drive(40)
    assert (rig.phase("canary"), rig.weights) == ("RollingBack", {A: 100})
    assert f"behind Git on purpose: envs/canary/release.yaml names {B}" in rig.problems
    rig.push(canary=C)
    rig.drive(40)
    assert rig.weights[C]
    assert "behind Git" not in rig.problems
    assert "main is protected" in rig.problems
    rig.restart()
    rig.push(canary=B)
    rig.drive(20)
    assert rig.weights == {A: 100}
    assert "behind Git on purpose" in rig.problems
    rig.repository.mend()
    rig.drive(70)
    assert rig.rejection(B)
    assert (rig.named("canary"), rig.problems) == (A, "")


def test_stale_wants_never_write_a_second_revert(rig: Rig) -> None:
    """Between the push and the next fetch Git seems to lack the revert; it is looked up, not pushed again."""
    canary(rig).bad[B] = 0.5
    rig.agent.git.due = lambda now, poll: False  # type: ignore[method-assign]
    rig.drive(20)
    assert (rig.reverts, rig.phase("canary")) == (1, "RollingBack")
    assert rig.repository.calls.count("commit") == 1
    del rig.agent.git.due
    rig.drive(3)
    assert (rig.reverts, rig.phase("canary")) == (1, "RolledBack")


def test_a_status_is_published_once_for_each_lasting_change(rig: Rig) -> None:
    """Counts and passing reasons are not worth a push; a phase or weight is, also after a failed push."""
    before = rig.repository.publications
    rig.repository.fail_next(Unreachable("gone"), "publish")
    canary(rig, 40)
    shown = rig.repository.published["status/production"]["models"][MODEL]["canary"]
    assert (shown["phase"], shown["weight"]) == ("Verified", 50)
    changes = rig.repository.publications - before
    assert 3 <= changes <= 8
    rig.drive(20)
    assert rig.repository.publications - before == changes


# ---------------------------------------------------------------- the state store
def test_a_full_disk_stops_all_acting_and_nothing_else(rig: Rig) -> None:
    """What can't be stored is not done: no start, no weight; it goes on when there is room."""
    rig.push(canary=B)
    for _ in range(10):
        rig.state.fail_next(PlatformError("no space left on device"), "save")
    documents = dict(rig.state.planes["production"])
    rig.drive(10)
    assert rig.state.planes["production"] == documents
    assert [r for _, r in rig.workloads.running] == [A]
    assert "no space left" in rig.agent.memory.problems["state"]
    rig.state.mend()
    rig.drive(15)
    assert rig.weights[B]
    assert rig.problems == ""


def test_a_breach_that_cannot_be_stored_is_found_again(rig: Rig) -> None:
    """A full disk at the moment of a breach loses nothing: the evidence is weighed again and told once."""
    canary(rig).bad[B] = 0.5
    for _ in range(5):
        rig.state.fail_next(PlatformError("no space left on device"), "save")
    rig.drive(25)
    assert rig.phase("canary") == "RolledBack"
    assert rig.kinds.count("breach") == 1


def test_a_lease_that_cannot_be_written_stops_acting_and_not_the_agent(rig: Rig) -> None:
    """A full disk when the lease is due is a problem, not a crash."""
    for _ in range(8):
        rig.state.fail_next(PlatformError("no space left on device"), "acquire")
    rig.push(canary=B)
    rig.drive(30)
    assert rig.weights[B]


# ---------------------------------------------------------------- the plane
def test_a_router_edited_by_hand_is_put_right_in_one_tick_and_told(rig: Rig) -> None:
    """Drift of the router lasts one look, and is an event with both tables."""
    rig.router.table = {
        MODEL: Route({A: 100}, {A: ("10.0.0.1:1",)}),
        "other": Route({C: 100}, {C: ("10.0.0.1:2",)}),
    }
    right = rig.router.history[-1]
    rig.drive(1)
    assert rig.router.table == right
    drifts = [event for event in rig.state.log if event.kind == "drift"]
    assert {event.model for event in drifts} == {MODEL, "other"}
    rig.drive(5)
    assert rig.kinds.count("drift") == 2


def test_a_promotion_is_no_drift(rig: Rig) -> None:
    """What the agent itself changes is never told as drift."""
    canary(rig, 40)
    rig.push(production=B)
    rig.drive(40)
    assert rig.weights == {B: 100}
    assert "drift" not in rig.kinds


def test_an_unconfirmed_write_is_no_drift(rig: Rig) -> None:
    """A router that took a table and did not say so in time is believed at the next look."""
    rig.router.fail_next(Unreachable("no confirmation"), "apply", after=True)
    canary(rig, 40)
    assert "drift" not in rig.kinds
    assert rig.problems == ""


def test_a_restarted_supervisor_gets_its_workloads_back(rig: Rig) -> None:
    """No process there, Healthy remembered: stable is started at once and served again."""
    rig.workloads.running.clear()
    rig.drive(1)
    assert rig.weights == {}, "nobody is there to serve"
    rig.drive(4)
    assert rig.weights == {A: 100}
    assert rig.phase("production") == "Healthy"
    endpoints = {r.endpoint for r in rig.workloads.running[MODEL, A].replicas}
    assert set(rig.router.table[MODEL].endpoints[A]) == endpoints


def test_a_probe_glitch_takes_no_traffic_away(rig: Rig) -> None:
    """A probe of stable that fails for a while changes no route."""
    tables = len(rig.router.history)
    rig.workloads.set_state(A, ReplicaState.STARTING)
    rig.drive(10)
    rig.workloads.set_state(A, ReplicaState.READY)
    rig.drive(5)
    assert len(rig.router.history) == tables


def test_a_supervisor_that_does_not_answer_forgets_no_patience(rig: Rig) -> None:
    """Workloads that could not be listed once are not dead at the next look."""
    canary(rig, 40)
    tables = len(rig.router.history)
    rig.workloads.fail_next(Unreachable("busy"), "list")
    rig.drive(1)
    rig.workloads.set_state(B, ReplicaState.STARTING)
    rig.drive(1)
    rig.workloads.set_state(B, ReplicaState.READY)
    assert len(rig.router.history) == tables
    assert rig.weights[B]


def test_a_breach_without_a_supervisor_takes_the_traffic_away(rig: Rig) -> None:
    """Nobody lists the workloads: the candidate loses its traffic, Git is told, nothing else happens."""
    canary(rig).bad[B] = 0.5
    for _ in range(40):
        rig.workloads.fail_next(Unreachable("no supervisord"), "list")
    endpoints, starts = dict(rig.router.table[MODEL].endpoints), rig.workloads.calls.count("start")
    rig.drive(20)
    assert rig.weights == {A: 100}
    assert dict(rig.router.table[MODEL].endpoints) == endpoints
    assert (rig.reverts, rig.named("canary"), rig.phase("canary")) == (1, A, "RolledBack")
    assert rig.workloads.calls.count("stop") == 0
    assert rig.workloads.calls.count("start") == starts
    assert "no supervisord" in rig.problems
    assert "drift" not in rig.kinds
    rig.workloads.mend()
    rig.drive(10)
    assert [r for _, r in rig.workloads.running] == [A]
    assert rig.problems == ""


def test_without_a_supervisor_no_other_route_is_written(rig: Rig) -> None:
    """A healthy canary keeps its step, a router edited by hand is told of when it is put right."""
    canary(rig)
    for _ in range(30):
        rig.workloads.fail_next(Unreachable("no supervisord"), "list")
    split, tables = rig.weights, len(rig.router.history)
    rig.drive(20)
    assert (rig.weights, len(rig.router.history)) == (split, tables)
    rig.router.table = {MODEL: Route({A: 100}, dict(rig.router.table[MODEL].endpoints))}
    rig.drive(5)
    assert rig.weights == {A: 100}
    assert "drift" not in rig.kinds
    rig.workloads.mend()
    rig.drive(1)
    assert (rig.weights, rig.kinds.count("drift")) == (split, 1)


def test_a_dead_candidate_leaves_its_share_to_stable_until_it_is_back(rig: Rig) -> None:
    """All replicas gone mid-step: stable serves all; back: warmed, the step confirmed again, Verified."""
    canary(rig)
    rig.workloads.set_state(B, ReplicaState.FAILED, "exit 137")
    rig.drive(2)
    assert rig.weights == {A: 100}
    rig.workloads.set_state(B, ReplicaState.READY)
    rig.drive(40)
    assert rig.phase("canary") == "Verified"


def test_one_dead_replica_of_stable_changes_nothing(rig: Rig) -> None:
    """The router skips a dead endpoint by itself."""
    tables = len(rig.router.history)
    rig.workloads.set_state(A, ReplicaState.FAILED, index=0)
    rig.drive(5)
    assert len(rig.router.history) == tables


def test_a_missing_bento_is_told_and_looked_for_again(rig: Rig) -> None:
    """ReleaseNotFound holds the rollout, stands in the status, is tried now and then, and clears."""
    rig.workloads.available = {A}
    rig.push(canary=B)
    rig.drive(60)
    assert "is not here" in rig.problems
    assert rig.phase("canary") == "Pending"
    assert 5 <= rig.workloads.calls.count("start") <= 15
    saves = rig.state.saves
    rig.drive(10)
    assert rig.state.saves - saves <= 2
    rig.workloads.available = None
    rig.drive(40)
    assert (rig.phase("canary"), rig.problems) == ("Verified", "")


def test_a_problem_ends_with_what_caused_it(rig: Rig) -> None:
    """A release that could not be started and is wanted no more leaves no problem behind."""
    rig.workloads.fail_next(ReleaseNotFound("the Bento is not here"), "start")
    rig.push(canary=B)
    rig.drive(3)
    assert "is not here" in rig.problems
    rig.push(canary=A)
    rig.drive(5)
    assert rig.problems == ""


def test_a_bento_that_never_becomes_ready_is_rejected_and_stable_not_touched(rig: Rig) -> None:
    """progressDeadline: rejected in Git with what the process said; not one table was written for it."""
    tables = [dict(t[MODEL].weights) for t in rig.router.history]
    rig.workloads.starts_as = ReplicaState.STARTING
    rig.push(canary=B)
    rig.drive(10)
    rig.workloads.set_state(B, ReplicaState.FAILED, "ImportError: toy")
    rig.drive(130)
    assert "ImportError: toy" in (rig.rejection(B) or "")
    assert rig.named("canary") == A
    assert all(dict(t[MODEL].weights) == {A: 100} for t in rig.router.history[len(tables) :])
    assert [r for _, r in rig.workloads.running] == [A]


def test_what_is_being_stopped_is_not_counted_on(rig: Rig) -> None:
    """Asked for again while its processes stop, a release is started anew, never served from dying ones."""
    canary(rig, 40)
    rig.push(canary=A)
    rig.drive(1)
    rig.agent.hands.stopping.add((MODEL, B))
    rig.push(canary=B)
    rig.drive(8)
    assert rig.weights == {A: 100}
    rig.agent.hands.stopping.clear()
    rig.drive(8)
    assert rig.weights[B]


def test_two_models_are_rolled_out_at_once_and_apart() -> None:
    """A breach of one model takes nothing from the other."""
    rig = Rig(envs(models=(MODEL, "other")))
    from tests.builders import record

    other = [record(n, "other").id for n in (1, 2)]
    for env in ("production", "canary"):
        rig.repository.push({f"envs/{env}/release.yaml": release_yaml({MODEL: A, "other": other[0]})})
    rig.drive(30)
    rig.bad[B] = 0.5
    rig.repository.push({"envs/canary/release.yaml": release_yaml({MODEL: B, "other": other[1]})})
    rig.drive(40)
    assert rig.weights == {A: 100}
    assert rig.router.table["other"].weights == {other[0]: 50, other[1]: 50}
    text = rig.repository.text("envs/canary/release.yaml")
    assert text == release_yaml({MODEL: A, "other": other[1]})


def test_each_model_goes_by_its_own_plan() -> None:
    """What rollout.yaml lays over the defaults for one model moves the other by nothing; nor does its end."""
    from tests.builders import record

    files = envs(models=(MODEL, "other"))
    own = "models: {other: {steps: [{setWeight: 30, pause: {duration: 60s, minRequests: 10}}]}}\n"
    files["envs/canary/rollout.yaml"] += own
    rig = Rig(files)
    other = [record(n, "other").id for n in (1, 2)]
    for env in ("production", "canary"):
        rig.repository.push({f"envs/{env}/release.yaml": release_yaml({MODEL: A, "other": other[0]})})
    rig.drive(30)
    rig.repository.push({"envs/canary/release.yaml": release_yaml({MODEL: B, "other": other[1]})})
    rig.drive(25)
    assert rig.weights == {A: 50, B: 50}
    assert rig.router.table["other"].weights == {other[0]: 70, other[1]: 30}
    assert rig.phase("canary") == "Verified"
    assert rig.status["models"]["other"]["canary"]["phase"] == "Progressing"
    rig.bad[other[1]] = 0.5
    rig.drive(20)
    assert rig.weights == {A: 50, B: 50}
    assert rig.router.table["other"].weights == {other[0]: 100}
    assert rig.repository.text("envs/canary/release.yaml") == release_yaml({MODEL: B, "other": other[0]})


# ---------------------------------------------------------------- people
def ask(rig: Rig, **payload: str) -> int:
    """Ask for a rollback."""
    return rig.inbox.send("production", "rollback", payload)


def test_a_rollback_goes_back_at_once_and_is_answered(rig: Rig) -> None:
    """Settled B goes back to A, its workload started first if it must be; Git names A again."""
    rig.settle(B, 60)
    rig.drive(30)
    assert [r for _, r in rig.workloads.running] == [B]
    request = ask(rig, model=MODEL, environment="production", by="Ann", reason="odd answers")
    rig.drive(10)
    assert rig.inbox.results[request] == {"accepted": True, "text": f"{B} goes back to {A}", "release": B}
    assert (rig.weights, rig.named("production"), rig.named("canary")) == ({A: 100}, A, A)
    assert rig.rejection(B) is None
    assert "Ann asked: odd answers" in rig.repository.log[0].change.body


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        ({"model": MODEL, "environment": "production"}, "no verified release"),
        ({"model": "nobody", "environment": "production"}, "no model is called nobody"),
        ({"model": MODEL, "environment": "staging"}, "holds no environment staging"),
        ({}, "no model is called (none named)"),
    ],
)
def test_a_request_that_makes_no_sense_is_answered_and_harms_nothing(
    rig: Rig, payload: dict[str, str], said: str
) -> None:
    """Whatever is asked gets an answer; the agent goes on."""
    request = ask(rig, **payload)
    other = rig.inbox.send("production", "dance", {})
    rig.drive(3)
    assert rig.inbox.results[request]["accepted"] is False
    assert said in rig.inbox.results[request]["text"]
    assert "dance" in rig.inbox.results[other]["text"]
    assert rig.weights == {A: 100}


def test_no_request_is_followed_twice() -> None:
    """An answer that can't be delivered for long never makes the agent go back one release further."""
    rig = Rig()
    for release in (A, B, C):
        rig.settle(release, 60)
    for _ in range(40):
        rig.inbox.fail_next(PlatformError("disk full"), "done")
    request = ask(rig, model=MODEL, environment="production")
    rig.drive(20)
    rig.restart()
    rig.drive(10)
    assert rig.weights == {B: 100}
    rig.inbox.mend()
    rig.drive(3)
    assert rig.inbox.results[request] == {"accepted": True, "text": f"{C} goes back to {B}", "release": C}
    rig.drive(20)
    assert rig.weights == {B: 100}


def test_an_inbox_that_cannot_be_read_is_a_problem_not_a_crash(rig: Rig) -> None:
    """The plane goes on without its operators' desk."""
    rig.inbox.fail_next(PlatformError("database is broken"), "pending")
    rig.drive(1)
    assert "database is broken" in rig.problems
    rig.drive(1)
    assert rig.problems == ""


def test_a_poke_makes_the_agent_look_at_git_at_once(rig: Rig) -> None:
    """Without waiting for the poll, and also while it backs off."""
    rig.repository.reachable = False
    rig.drive(100)
    rig.repository.reachable = True
    rig.push(canary=B)
    rig.inbox.send("production", "poke", {})
    rig.drive(4)
    assert B in [r for _, r in rig.workloads.running]


def test_run_survives_a_full_disk_at_its_start() -> None:
    """`run` tries again until it can start, then ticks until it is stopped."""
    rig = Rig(envs(A, A))
    rig.state.fail_next(PlatformError("no space left on device"), "load")
    from tidegate.agent.loop import Agent

    looks = iter(range(30))
    agent = Agent("production", rig.agent.ports, holder="here")
    agent.run(lambda: next(looks, None) is None)
    assert rig.weights == {A: 100}


def test_run_survives_a_defect_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    """An unforeseen error is a problem, with its traceback in the log, and over with the next look."""
    from tidegate.agent.loop import Agent

    rig = Rig(envs(A, A))
    looks, shown = iter(range(40)), []
    agent = Agent("production", rig.agent.ports, holder="here")
    rig.router.fail_next(ZeroDivisionError("odd"), "read")

    def stopped() -> bool:
        shown.append(rig.problems if "status" in rig.state.planes.get("production", {}) else "")
        return next(looks, None) is None

    agent.run(stopped)
    assert any("ZeroDivisionError: odd" in text for text in shown)
    assert "Traceback" in caplog.text
    assert (rig.weights, rig.problems) == ({A: 100}, "")


def test_a_defect_at_one_model_leaves_no_other_unwatched(monkeypatch: pytest.MonkeyPatch) -> None:
    """What can't be decided of one model is said and stays as it is; the next is brought out meanwhile."""
    first, then = (record(n, "other").id for n in (1, 2))
    rig = Rig(envs(A, A, models=(MODEL, "other")))
    decide = rollout.decide

    def odd(state: ModelState, want: Want, seen: Seen, now: float) -> rollout.Decision:
        if B in want.known and now > broken:
            raise ZeroDivisionError("odd")
        return decide(state, want, seen, now)

    broken = rig.clock.now() + 30
    monkeypatch.setattr(rollout, "decide", odd)
    for release in (first, then):
        named = {MODEL: A, "other": release}
        paths = (f"envs/{name}/release.yaml" for name in ("production", "canary"))
        rig.repository.push(dict.fromkeys(paths, release_yaml(named)), "Promote")
        rig.drive(40)
    assert "the look at toy failed by a defect of the agent, ZeroDivisionError: odd" in rig.problems
    assert (rig.weights, dict(rig.router.table["other"].weights)) == ({A: 100}, {then: 100})
    broken = rig.clock.now() + 100
    rig.drive(2)
    assert rig.problems == ""


def test_busy_looks_use_up_no_patience(rig: Rig) -> None:
    """Twenty looks within a second at a probe that fails are one glitch; three seconds are not."""
    rig.workloads.set_state(A, ReplicaState.STARTING)
    rig.drive(1)
    for _ in range(20):
        rig.agent.tick()
        rig.clock.advance(0.05)
    assert rig.phase("production") == "Healthy"
    rig.drive(4)
    assert rig.phase("production") == "Degraded"


def test_a_first_release_is_taken_back_to_nothing() -> None:
    """A rollout without a stable release can be ended by hand: nothing is served, and Git names nothing."""
    rig = Rig()
    rig.push(canary=B)
    rig.drive(6)
    assert rig.weights == {B: 100}
    request = ask(rig, model=MODEL, environment="canary", by="Ann")
    rig.drive(10)
    assert rig.inbox.results[request] == {"accepted": True, "text": f"{B} goes back to nothing", "release": B}
    assert (rig.weights, rig.named("canary")) == ({}, None)


def test_the_aliases_are_mirrored_again_after_a_failure_and_every_five_minutes() -> None:
    """A registry that is away is tried with back-off; one that was moved by hand is put right in time."""
    calls: list[float] = []
    rig = Rig(envs(A, A))

    def mirror(_: object) -> None:
        calls.append(rig.clock.now())
        if len(calls) <= 3:
            raise Unreachable("no registry")

    rig._planned["mirror"] = mirror
    rig.restart()
    rig.drive(30)
    assert len(calls) == 4
    assert rig.problems == ""
    rig.drive(250)
    assert len(calls) == 4
    rig.drive(60)
    assert len(calls) == 5
