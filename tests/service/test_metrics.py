"""What a service tells Prometheus, and how its parts add to it."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tidegate.serving.artifact import Holdout
from tidegate.serving.measuring import Measuring, show_holdout
from tidegate.serving.metrics import Histogram, Registry


def samples(text: str) -> dict[tuple[str, ...], float]:
    """The samples of a page: a name and the values of its labels but the service's → the number."""
    return {
        (s.name, *(v for k, v in sorted(s.labels.items()) if k != "service")): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
    }


def test_each_kind_is_read_when_asked_for() -> None:
    """A number, numbers by a label, a histogram and an info are shown as they are at that moment."""
    registry, counts, hits = Registry("toy"), {"full": 1.0}, Histogram((1, 2))
    registry.add("tidegate_a_total", "a", "counter", lambda: counts, "reason")
    registry.add("tidegate_b", "b", "gauge", lambda: 7)
    registry.add("tidegate_c_rows", "c", "histogram", lambda: hits)
    registry.add("tidegate_none", "none", "gauge", lambda: None)
    registry.add("tidegate_d_info", "d", "info", lambda: {"release": 'x"\\\n', "model_version": "3"})
    counts["late"] = 4
    for value in (1, 1.5, 9):
        hits.observe(value)
    assert samples(registry.text()) == {
        ("tidegate_a_total", "full"): 1,
        ("tidegate_a_total", "late"): 4,
        ("tidegate_b",): 7,
        ("tidegate_c_rows_bucket", "1"): 1,
        ("tidegate_c_rows_bucket", "2"): 2,
        ("tidegate_c_rows_bucket", "+Inf"): 3,
        ("tidegate_c_rows_count",): 3,
        ("tidegate_c_rows_sum",): 11.5,
        ("tidegate_d_info", "3", 'x"\\\n'): 1,
    }


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("hits_total", "counter"),
        ("tidegate_hits", "counter"),
        ("tidegate_hits_total", "gauge"),
        ("tidegate_Hits", "gauge"),
        ("tidegate_one", "gauge"),
    ],
)
def test_a_wrong_or_taken_name_is_refused(name: str, kind: Any) -> None:
    """A name has our prefix, says by `_total` whether it is a counter, and is used once."""
    registry = Registry("toy")
    registry.add("tidegate_one", "one", "gauge", lambda: 1)
    with pytest.raises(ValueError, match=name):
        registry.add(name, "again", kind, lambda: 1)


def test_a_part_that_fails_spoils_only_its_own(caplog: pytest.LogCaptureFixture) -> None:
    """What can't be read is left out and told once; the page stays readable."""
    registry = Registry("toy")
    registry.add("tidegate_bad", "bad", "gauge", lambda: 1 // 0)
    registry.add("tidegate_good", "good", "gauge", lambda: 1)
    with caplog.at_level(logging.ERROR):
        pages = [samples(registry.text()) for _ in range(3)]
    assert pages == [{("tidegate_good",): 1}] * 3
    assert caplog.text.count("can't be read") == 1


def test_what_lacks_is_named() -> None:
    """Each missing feature is counted by its name, and one that never lacked is 0, not absent."""
    measured = Measuring("toy", "score", "", ("a", "b"))
    for row in ([1.0, None], [float("nan"), None], [1.0, 2.0]):
        measured.count({"score": 0.5}, [row])
    found = samples(measured.text().decode())
    assert [found["tidegate_feature_missing_total", name] for name in "ab"] == [1, 2]
    assert found["tidegate_missing_features_total",] == 2
    assert (
        samples(Measuring("toy", "", "", ("a",)).text().decode())["tidegate_feature_missing_total", "a"] == 0
    )


def test_the_holdout_is_shown_beside_what_is_counted(tmp_path: Path) -> None:
    """Its mean score and each feature's share of gaps; of a model that tells nothing, 0 gaps and no score."""
    (tmp_path / "holdout.json").write_text('{"rows": 9, "score": 0.25, "missing": {"b": 0.5}}')
    pages = []
    for folder in (tmp_path, tmp_path / "nowhere"):
        measured, model = Measuring("toy"), SimpleNamespace(holdout=Holdout.of(folder / "holdout.json"))
        show_holdout(measured, lambda model=model: model, ("a", "b"))
        pages.append({k: v for k, v in samples(measured.text().decode()).items() if "baseline" in k[0]})
    gaps = "tidegate_feature_missing_baseline"
    assert pages[0] == {("tidegate_score_baseline",): 0.25, (gaps, "a"): 0, (gaps, "b"): 0.5}
    assert pages[1] == {(gaps, "a"): 0, (gaps, "b"): 0}


def test_a_process_says_who_and_how_large_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Release and version are an info's labels, and memory has its release's; its start is a plain gauge."""
    monkeypatch.setenv("TIDEGATE_RELEASE", "82be568dc222")
    monkeypatch.setenv("TIDEGATE_MODEL_VERSION", "7")
    found = samples(Measuring("toy").text().decode())
    assert found["tidegate_build_info", "7", "82be568dc222"] == 1
    assert found["tidegate_memory_bytes", "82be568dc222"] > 1e6
    assert found["tidegate_start_time_seconds",] > 1.7e9
