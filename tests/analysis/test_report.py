"""Reports say what the run's files say, escape every name, load nothing, and give every figure a text alternative."""

import itertools
import math
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score

from polymodal import InputError, Predictor
from polymodal.analysis import compare, report
from polymodal.analysis.reports.errors import CLASSES
from polymodal.analysis.reports.estimates import Estimate, difference, standard_error
from polymodal.analysis.reports.findings import compared, headline
from polymodal.analysis.reports.html import safe, table
from polymodal.analysis.reports.record import read_record
from polymodal.analysis.reports.samples import PAGE_BYTES
from polymodal.analysis.reports.svg import label_places, nice_ticks
from tests.analysis.runs import HOSTILE, write_media_table, write_run

VOID = {"meta", "link", "img", "br", "circle", "rect", "path", "line"}


class Page(HTMLParser):
    """What a page holds: elements in order, ids, text by element, and whether every element is closed."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.text = file.read_text(encoding="utf-8")
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.words: dict[str, list[str]] = {}
        self.feed(self.text)
        assert self.open == [], "an element is not closed"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open:
            self.words.setdefault(self.open[-1], []).append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def said(self, tag: str) -> str:
        return " ".join(self.words.get(tag, []))


def check(file: Path) -> Page:
    """What holds for every page that the library writes."""
    page = Page(file)
    names = [name for name, _ in page.elements]
    assert names.count("h1") == 1
    assert names.count("main") == 1
    assert page.all("html")[0]["lang"] == "en"
    assert "script" not in names
    assert not any(key.startswith("on") for _, attributes in page.elements for key in attributes)
    levels = [int(name[1]) for name in names if re.fullmatch("h[1-6]", name)]
    assert all(below <= above + 1 for above, below in itertools.pairwise(levels)), "headings skip a level"
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids)), "two elements share an id"
    for name, attributes in page.elements:
        for key in ("src", "href", "xlink:href", "action", "data", "poster"):
            value = attributes.get(key, "#")
            assert value.startswith(("#", "data:")), f"{name} {key}={value} leads out of the page"
            assert not value.startswith("#") or value[1:] in ["", *ids]
        for key in ("aria-labelledby", "aria-describedby"):
            assert set(attributes.get(key, "").split()) <= set(ids)
    assert "url(" not in page.text
    assert "@import" not in page.text
    assert all(one["alt"] for one in page.all("img"))
    assert all(one["aria-label"] for one in page.all("audio"))
    figures = page.all("figure")
    drawings = page.all("svg")
    assert len(drawings) == len(figures)
    for one in drawings:
        assert one["role"] == "img"
        assert len(one["aria-labelledby"].split()) == 2
    for body in re.findall(r"<figure.*?</figure>", page.text, re.DOTALL):
        assert re.search(r"<title[^>]*>[^<]+</title><desc[^>]*>[^<]+</desc>", body)
        assert "<figcaption>" in body
        assert "<table>" in body, "a figure has no table"
        assert not re.search(r'"[^"]*\b(nan|inf)\b[^"]*"', body), "a place that is not a number"
    for one in [a for _, a in page.elements if "scroll" in a.get("class", "").split()]:
        assert one["tabindex"] == "0"
        assert one["aria-label"]
    assert len(page.text) < 6_000_000
    return page


@pytest.fixture(scope="module")
def media_run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    return write_run(folder / "run", table=write_media_table(folder))


def test_classification_with_media(media_run):
    file = report(media_run)
    assert file == media_run / "report.html"
    page = check(file)
    assert len(page.all("audio")) >= 3
    assert len(page.all("img")) >= 3
    assert all(one["src"].startswith("data:image/") for one in page.all("img"))
    assert "<blockquote" in page.text
    for title in ("Confusion matrix", "Reliability diagram", "Coefficient of each modality", "Score of each modality"):
        assert title in page.said("h3")
    assert "config.yaml" in page.said("summary")
    assert HOSTILE in page.said("bdi"), "a name is shown as it is, as text"


def test_report_is_the_same_twice(media_run):
    first = report(media_run).read_bytes()
    assert report(media_run).read_bytes() == first


def test_worst_samples_are_the_most_confident_errors(media_run):
    page = check(report(media_run))
    frame = pd.read_csv(media_run / "predictions" / "test.csv", dtype={"target": str, "prediction": str})
    chance = frame.filter(like="prob_").max(axis=1)
    wrong = chance[frame["target"] != frame["prediction"]].sort_values(ascending=False, kind="stable")
    assert page.words["bdi"] == [frame["id"][i] for i in wrong.index[:12]]


def test_missing_table_and_files_are_told(tmp_path):
    path = write_media_table(tmp_path / "data")
    run = write_run(tmp_path / "run", table=path, skill=0.0)
    shutil.rmtree(tmp_path / "data" / "files")
    page = check(report(run))
    assert "no such file" in page.text
    assert not page.all("img")
    path.unlink()
    assert "The table cannot be read" in check(report(run)).text


def test_frame_in_memory_is_told(tmp_path):
    assert "trained on a frame in memory" in check(report(write_run(tmp_path / "run"))).text


def test_media_stay_within_the_limit(tmp_path, monkeypatch):
    run = write_run(tmp_path / "run", table=write_media_table(tmp_path / "data"), skill=0.0)
    monkeypatch.setattr("polymodal.analysis.reports.samples.PAGE_BYTES", 30_000)
    page = check(report(run))
    assert "left out to keep the page small" in page.text
    assert len(page.text) < 30_000 + 100_000 < PAGE_BYTES


def test_silent_and_sounding_clips(tmp_path):
    import av

    for name, rate in (("a.mkv", 0), ("b.mkv", 8000)):
        with av.open(str(tmp_path / name), "w") as out:
            video = out.add_stream("mpeg4", rate=10)
            video.width = video.height = 32
            video.pix_fmt = "yuv420p"
            sound = out.add_stream("pcm_s16le", rate=rate, layout="mono") if rate else None
            for i in range(8):
                out.mux(video.encode(av.VideoFrame.from_ndarray(np.full((32, 32, 3), 30 * i, np.uint8), "rgb24")))
            out.mux(video.encode(None))
            if sound is not None:
                noise = av.AudioFrame.from_ndarray(np.zeros((1, 4000), np.int16), "s16", "mono")
                noise.sample_rate = rate
                out.mux(sound.encode(noise))
                out.mux(sound.encode(None))
    pd.DataFrame({"id": ["s0", "s1"], "clip": ["a.mkv", "b.mkv"], "label": ["a", "b"]}).to_csv(
        tmp_path / "t.csv", index=False
    )
    run = write_run(tmp_path / "run", rows=2, kinds={"clip": "video"}, classes=("a", "b"), skill=0.0, seed=3)
    text = (run / "config.yaml").read_text().replace("table: null", f"table: {tmp_path / 't.csv'}")
    (run / "config.yaml").write_text(text)
    frame = pd.read_csv(run / "predictions" / "test.csv")
    frame["prediction"] = ["b", "a"]
    frame.to_csv(run / "predictions" / "test.csv", index=False)
    page = check(report(run))
    assert ["four frames" in one["alt"] for one in page.all("img")] == [True, True]
    assert len(page.all("audio")) == 1


@pytest.mark.parametrize("task", ["classification", "multilabel", "regression"])
@pytest.mark.parametrize("unimodal", [True, False])
def test_every_task(tmp_path, task, unimodal):
    page = check(report(write_run(tmp_path / "run", task, unimodal=unimodal)))
    headings = page.said("h2")
    expected = {"classification": "confused", "multilabel": "labels", "regression": "far off"}[task]
    assert expected in headings
    assert ("Can its probabilities be trusted" in headings) == (task == "classification")
    assert ("no uni-modal predictions" in page.text) != unimodal


@pytest.mark.parametrize("count", [2, 30, 130])
def test_many_classes(tmp_path, count):
    names = tuple(f"class number {i}" for i in range(count))
    page = check(report(write_run(tmp_path / "run", classes=names, rows=300)))
    rows = re.search(r'<table class="confusion.*?</table>', page.text, re.DOTALL)
    assert rows is not None
    assert rows[0].count("<tr>") == min(count, CLASSES) + 1
    assert (f"Of {count} classes" in page.text) == (count > CLASSES)


def test_label_names_that_hold_the_separator(tmp_path):
    names = ("a", "x|y|z", "b")
    check(report(write_run(tmp_path / "run", "multilabel", classes=names)))
    shown = read_record(tmp_path / "run").shown
    assert shown is not None
    frame = pd.read_csv(tmp_path / "run" / "predictions" / "test.csv", keep_default_na=False)
    assert shown.target[:, 1].tolist() == [int("x|y|z" in cell) for cell in frame["target"]]


def test_leaderboard(tmp_path):
    page = check(report(write_run(tmp_path / "run", recipe="auto")))
    assert "What was tried" in page.said("h2")
    assert "The recipe auto chose joint of 2 trials" in page.text


def test_little_is_enough(tmp_path):
    run = write_run(tmp_path / "run")
    for name in ("history.jsonl", "timing.json", "model.json"):
        (run / name).unlink()
    shutil.rmtree(run / "predictions")
    check(report(run))


def test_one_epoch_and_values_that_are_not_finite(tmp_path):
    run = write_run(tmp_path / "run", epochs=1)
    check(report(run))
    text = (run / "history.jsonl").read_text()
    (run / "history.jsonl").write_text(re.sub(r'"train_loss": [\d.]+', '"train_loss": NaN', text))
    check(report(run))


def test_a_sample_without_a_modality_does_not_count_for_it(tmp_path):
    run = write_run(tmp_path / "run")
    frame = pd.read_csv(run / "predictions" / "test.csv", dtype=str)
    frame.loc[:9, "prediction_sound"] = ""
    frame.to_csv(run / "predictions" / "test.csv", index=False)
    shown = read_record(run).shown
    assert shown is not None
    assert int(shown.there("sound").sum()) == 20
    check(report(run))


def test_a_run_of_the_library(tmp_path):
    draw = np.random.default_rng(0)
    label = draw.integers(3, size=150)
    frame = pd.DataFrame({"x": label + draw.normal(0, 0.5, 150), "word": np.array(["red", "green", "blue"])[label]})
    frame["label"] = np.array(["a", "b", HOSTILE])[label]
    predictor = Predictor(
        label="label", epochs=2, out=tmp_path / "run", show=False, balancer="multi_loss",
        modalities=["x=x:numeric", "word=word:text"],
    ).fit(frame)  # fmt: skip
    page = check(report(tmp_path / "run"))
    assert f"{predictor.metrics['test']['accuracy']:.3f}" in page.text
    assert "Validation, fused and each modality" in page.said("h3")


@pytest.mark.parametrize(("task", "other"), [("classification", "regression"), ("multilabel", "classification")])
def test_compare(tmp_path, task, other):
    runs = [
        write_run(tmp_path / f"run{HOSTILE.replace('/', '')}{i}", task, seed=i, skill=0.6 + 0.1 * i) for i in range(3)
    ]
    out = compare(runs, tmp_path / "new" / "compared.html")
    assert out == tmp_path / "new" / "compared.html"
    page = check(out)
    assert page.words["h2"] == ["Runs", "Differences to the first run", "Over seeds", "Learning curves", "Settings"]
    wrong = write_run(tmp_path / "other", other)
    with pytest.raises(InputError, match="cannot be compared"):
        compare([runs[0], wrong], out)
    with pytest.raises(InputError, match="two or more"):
        compare(runs[:1], out)


def test_compare_pairs_where_samples_are_the_same(tmp_path):
    one, two = write_run(tmp_path / "one"), write_run(tmp_path / "two", seed=1)
    page = check(compare([one, two], tmp_path / "out.html"))
    assert ">paired<" in page.text
    frame = pd.read_csv(two / "predictions" / "test.csv").iloc[:20]
    frame.to_csv(two / "predictions" / "test.csv", index=False)
    assert ">independent<" in check(compare([one, two], tmp_path / "out.html")).text


def test_not_a_run(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        report(tmp_path / "nothing")
    with pytest.raises(InputError, match=r"metrics\.json"):
        report(tmp_path)
    run = write_run(tmp_path / "run")
    (run / "predictions" / "test.csv").write_text("id,target\n1,a\n")
    with pytest.raises(InputError, match="not what a run writes"):
        report(run)


# Figures --------------------------------------------------------------------------------------------------------------


def test_standard_error_of_accuracy():
    target = np.zeros(100, int)
    decided = (np.arange(100) >= 80).astype(int)
    assert standard_error("accuracy", decided, target) == pytest.approx(math.sqrt(0.8 * 0.2 / 100))
    assert standard_error("accuracy", target, target) == pytest.approx(math.sqrt(102 / 104 * 2 / 104 / 100))
    assert standard_error("ece", decided, target) is None


@pytest.mark.parametrize("metric", ["f1_macro", "f1_micro", "f1_weighted"])
@pytest.mark.parametrize("labels", [False, True])
def test_f1_difference_against_sklearn(metric, labels):
    draw = np.random.default_rng(0)
    target, one, two = (draw.integers(2, size=(200, 4)) if labels else draw.integers(4, size=200) for _ in range(3))
    gap = difference(metric, target, one, two)
    assert gap is not None
    assert gap.error is not None
    kind = metric.removeprefix("f1_")
    expected = f1_score(target, one, average=kind) - f1_score(target, two, average=kind)
    assert gap.value == pytest.approx(expected)
    assert 0.01 < gap.error < 0.1


def test_paired_difference():
    target = np.zeros(400, int)
    same = np.zeros(400, int)
    worse = (np.arange(400) < 40).astype(int)
    gap = difference("accuracy", target, same, worse)
    assert gap is not None
    assert gap.value == pytest.approx(0.1)
    assert gap.error == pytest.approx(np.std(worse, ddof=1) / 20)


def test_words_of_a_difference():
    assert compared(Estimate(0.1, 0.01), False, "it") == "0.100 ± 0.010 above it"
    assert compared(Estimate(-0.1, 0.01), False, "it") == "0.100 ± 0.010 below it, which is worse"
    assert compared(Estimate(-0.1, 0.01), True, "it") == "0.100 ± 0.010 below it, which is better"
    assert "within noise" in compared(Estimate(0.01, 0.01), False, "it")
    assert compared(Estimate(0.0), False, "it") == "equal to it"


def test_headline_says_what_was_learned(tmp_path):
    text = headline(read_record(write_run(tmp_path / "run", rows=400, skill=0.9)))
    assert text.startswith("The fused model reaches 0.9")
    assert "400 samples" in text
    assert "above the best modality alone (" in text
    assert "mlb pushed picture ×1.30, sound ×1.10 and held back text ×0.90, age ×0.70" in text
    text = headline(read_record(write_run(tmp_path / "worse", rows=400, skill=0.5, unimodal=False)))
    assert "no uni-modal predictions" in text


def test_escaping():
    assert safe(HOSTILE) == "&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;&amp;&#x27;&quot;"
    assert safe("a\x00b\ud800") == "a\N{REPLACEMENT CHARACTER}b?"
    assert safe(safe("<")) == "&lt;"
    assert "<b>" not in table("<b>", ["<b>"], [["<b>"]])


def test_ticks_and_places():
    assert nice_ticks(1, 25, 6) == [0, 5, 10, 15, 20, 25]
    assert nice_ticks(-0.0012, 0.0018)[0] <= -0.0012
    places = label_places([10, 11, 12, 100], 14, 0, 100)
    assert all(b - a >= 13.99 for a, b in itertools.pairwise(places))
    assert max(places) <= 100


@pytest.mark.parametrize("theme", [0, 1])
def test_colours_have_contrast(theme):
    import polymodal.analysis.reports as package

    style = (Path(package.__file__).parent / "style.css").read_text()
    roots = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    colours = dict(re.findall(r"--([\w-]+): (#\w{6})", roots[theme]))

    def light(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def contrast(one: str, two: str) -> float:
        high, low = sorted((light(one), light(two)), reverse=True)
        return (high + 0.05) / (low + 0.05)

    for ground in ("page", "card", "soft"):
        for ink in ("ink", "ink-2", "link"):
            assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
    for i in range(8):
        assert contrast(colours[f"s{i}"], colours["card"]) >= 3, i
    tints = dict(re.findall(r"--(hit|miss): (\d+ \d+ \d+)", roots[theme]))
    card = [int(colours["card"][i : i + 2], 16) for i in (1, 3, 5)]
    for tint in tints.values():
        mixed = [round(0.58 * int(a) + 0.42 * b) for a, b in zip(tint.split(), card, strict=True)]
        assert contrast(colours["ink"], "#" + "".join(f"{c:02x}" for c in mixed)) >= 4.5
