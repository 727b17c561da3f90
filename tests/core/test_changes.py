"""What differs between two releases, from the contents of their files."""

from __future__ import annotations

from tidegate.core import changes
from tidegate.core.changes import Commit, Data, Dependency, File, Parameter


def test_a_parameter_is_told_with_both_values() -> None:
    """Changed, added and removed values by their dotted keys; equal ones are left out."""
    old = {"models": {"a": {"train": {"rounds": 300, "seed": 7, "gone": True}}}, "gates": {"q": {"auc": 0.7}}}
    new = {
        "models": {"a": {"train": {"rounds": 400, "seed": 7, "new": [1, 2]}}},
        "gates": {"q": {"auc": 0.7}},
    }
    assert changes.parameters(old, new, "a") == (
        Parameter("models.a.train.gone", "true", None),
        Parameter("models.a.train.new", None, "[1, 2]"),
        Parameter("models.a.train.rounds", "300", "400"),
    )


def test_a_threshold_counts_and_another_model_does_not() -> None:
    """Gates' limits are for all models; what only another model uses changed nothing here."""
    old = {"models": {"a": {"x": 1}, "b": {"x": 1}}, "gates": {"q": {"auc": 0.7}}}
    new = {"models": {"a": {"x": 1}, "b": {"x": 2}}, "gates": {"q": {"auc": 0.6}}}
    assert changes.parameters(old, new, "a") == (Parameter("gates.q.auc", "0.7", "0.6"),)


def test_a_key_that_became_a_mapping_is_seen() -> None:
    """A change of form is a change, in both directions."""
    old, new = {"models": {"a": {"x": 1}}}, {"models": {"a": {"x": {"y": 1}}}}
    assert [each.key for each in changes.parameters(old, new, "a")] == ["models.a.x", "models.a.x.y"]
    assert changes.parameters(None, [], "a") == ()


def lock(md5: str, other: str = "o") -> dict[str, object]:
    """A dvc.lock with one stage of data a model, and one of its files."""
    out = {"path": "data/a/train.parquet", "md5": md5, "size": len(md5)}
    model = {"path": "build/a/model", "md5": md5, "size": 1}
    return {
        "stages": {
            "prepare@a": {"outs": [out]},
            "train@a": {"outs": [model]},
            "prepare@b": {"outs": [{"path": "data/b/x", "md5": other}]},
        }
    }


def test_data_is_told_by_its_hash_and_size() -> None:
    """Only data, only this model's; a file that is new or gone is told as such."""
    changed = Data("data/a/train.parquet", "aa", "bbb", 2, 3)
    assert changes.data(lock("aa"), lock("bbb", "p"), "a") == (changed,)
    assert changes.data(lock("aa"), lock("aa"), "a") == ()
    assert changes.data({}, lock("aa"), "a") == (Data("data/a/train.parquet", None, "aa", None, 2),)


def test_dependencies_are_told_by_version() -> None:
    """Names are compared as pip does; hashes, comments and markers mean nothing."""
    old = "Foo.Bar==1.0 \\\n    --hash=sha256:0\nbaz[x]==2 ; python_version > '3'\n# c==1\n"
    new = "foo-bar==1.1 \\\n    --hash=sha256:1\nqux==3\n"
    assert changes.dependencies(old, new) == (
        Dependency("baz", "2", None),
        Dependency("foo-bar", "1.0", "1.1"),
        Dependency("qux", None, "3"),
    )


def test_git_is_read_as_it_prints() -> None:
    """Added and removed lines, binary files as such; subjects with anything in them."""
    assert changes.files("3\t1\ta b.py\n-\t-\tx.bin\n") == (File("a b.py", 3, 1), File("x.bin", None, None))
    assert changes.commits("c0ffee\tSay\tit\n\n") == (Commit("c0ffee", "Say\tit"),)
