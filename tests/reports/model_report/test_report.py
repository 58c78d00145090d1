"""The report on one model: its numbers are those of the records, and nothing is mixed or left out in silence."""

import json
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import pytest

from benchmark import plugins
from benchmark.analysis.paired import PairedComparisons
from benchmark.errors import SkipCode, UserError
from benchmark.interfaces import Pretrained, Score, Skipped
from benchmark.records import predictions
from benchmark.reports import inputs
from benchmark.reports.inputs import ReportInputs
from benchmark.reports.model_report.document import Report
from benchmark.reports.model_report.report import report
from tests.analysis.test_paired import written
from tests.fixtures.site_records import grouped
from tests.reports.model_report.conftest import (
    everywhere,
    lines,
    made,
    measured,
    part,
    record,
    section,
    with_predictions,
)

RESULTS = Path(__file__).parents[3] / "results"
MODEL, OTHER = "main-smoke-scenes-1x/stablerep_plus-syn", "main-smoke-scenes-1x/clip-syn"


@pytest.fixture(scope="module")
def committed() -> ReportInputs:
    """The committed records and the published numbers."""
    return inputs.read(RESULTS / "records", print)


def reported(committed: ReportInputs, name: str = MODEL, against: str | None = None) -> Report:
    return report(committed, name, against, lambda _repo, _revision: None)


def raw(name: str, evaluation: str, dataset: str) -> list[dict[str, Any]]:
    """The results in the files of records, one per seed."""
    files = sorted((RESULTS / "records" / name).glob(f"*/*/{evaluation}.json"))
    return [json.loads(path.read_text())["results"][dataset] for path in files]


def shown(parts: list[dict[str, Any]]) -> str:
    """Return the mean of one seed or three, ± half of its interval; t of three seeds is 4.3027."""
    values = [part["value"] for part in parts]
    over_seeds = 4.3027 * stdev(values) / np.sqrt(3) if len(values) == 3 else 0.0
    over_samples = [np.sqrt(fmean((part[end] - part["value"]) ** 2 for part in parts)) for end in ("low", "high")]
    return f"{100 * fmean(values):.1f} ± {100 * np.hypot(over_samples, over_seeds).mean():.1f}"


# Scores


@pytest.mark.parametrize(
    ("evaluation", "title", "score"),
    [("linear_probe.synclr", "linear_probe (synclr)", "top1"), ("knn.dino", "knn (dino)", "top1_k20_T0.07")],
)
def test_every_score_is_that_of_the_records(committed: ReportInputs, evaluation: str, title: str, score: str) -> None:
    found = lines(section(reported(committed), "Scores"), title)
    assert len(found) >= 5
    for line in found:
        own, pixels, random = (
            [result["scores"][score] for result in raw(name, evaluation, line["dataset"])]
            for name in (MODEL, "pretrained/pixels-16", "main-smoke-scenes-1x/untrained")
        )
        assert (len(own), len(pixels), len(random)) == (3, 1, 3)
        assert line["this model"] == shown(own)
        assert (line["pixels-16"], line["untrained"]) == (shown(pixels), shown(random))
        result = raw(MODEL, evaluation, line["dataset"])[0]
        assert (line["n"], line["chance"]) == (str(own[0]["n"]), f"{100 * result['chance']:.1f}")


def test_a_plot_has_the_numbers_of_its_table(committed: ReportInputs) -> None:
    found = part(section(reported(committed), "Scores"), "linear_probe (synclr)")
    for row, line in zip(found.plot, lines(section(reported(committed), "Scores"), found.table.title), strict=True):
        assert row.dataset == line["dataset"] and f"{row.chance:.1f}" == line["chance"]
        assert [mark.label for mark in row.marks] == ["stablerep_plus-syn", "pixels-16", "untrained"]
        assert [f"{mark.value:.1f}" for mark in row.marks] == [
            line[column].split()[0] for column in ("this model", "pixels-16", "untrained")
        ]
        half = (row.marks[0].high - row.marks[0].low) / 2
        assert line["this model"] == f"{row.marks[0].value:.1f} ± {half:.1f}"


def test_all_other_scores_are_listed(committed: ReportInputs) -> None:
    found = lines(section(reported(committed), "Other scores"), "zero_shot (openai)")
    (line,) = [each for each in found if (each["dataset"], each["score"]) == ("scenes-shape", "top5")]
    parts = [result["scores"]["top5"] for result in raw(MODEL, "zero_shot.openai", "scenes-shape")]
    assert line["this model"] == shown(parts)
    assert {each["score"] for each in found} == {"mean_per_class", "top5"}


def test_an_evaluation_that_does_not_exist_yet_is_reported_like_any_other() -> None:
    """Segmentation, as its scores will be: three scores, and an IoU per class."""
    iou = {"road": Score(0.8, 50, 0.7, 0.9), "sky": Score(0.6, 50, 0.5, 0.7), "car": Score(0.1, 50, 0.05, 0.2)}
    scores = {
        name: Score(value, 50, value - 0.05, value + 0.05)
        for name, value in (("miou", 0.5), ("pixel_accuracy", 0.9), ("mean_class_accuracy", 0.6))
    }
    found = made(everywhere({"camvid": measured(0.5, scores=scores, per_class=iou)}, evaluation="segments"), "smoke/a")
    (line,) = lines(section(found, "Scores"), "segments (synrep)")
    assert line["this model"] == line["pixels-16"] == line["untrained"] == "50.0 ± 5.0"
    assert [each["score"] for each in lines(section(found, "Other scores"), "segments (synrep)")] == [
        "mean_class_accuracy",
        "pixel_accuracy",
    ]
    extremes = lines(section(found, "Best and worst classes"), "segments (synrep)")
    assert [(each["class"], each["this model"]) for each in extremes] == [
        ("road", "80.0 ± 10.0"),
        ("car", "10.0 ± 7.5"),
    ]


def test_main_scores_of_different_names_are_named() -> None:
    scores = {"digits": measured(0.5), "voc2007": measured(0.6, name="map11")}
    found = [line["dataset"] for line in lines(section(made([record("a", scores)], "smoke/a"), "Scores"), PROBE)]
    assert found == ["digits, top1", "voc2007, map11"]


PROBE = "linear_probe (synrep)"


def test_a_missing_seed_has_a_footnote() -> None:
    failed = Skipped("the disk was full", SkipCode.FAILED)
    found = [record("a", {"digits": measured(0.5)}), record("a", {"digits": failed}, seed=1)]
    table = part(section(made(found, "smoke/a"), "Scores"), PROBE).table
    assert table.rows[0][1].text == "50.0 ± 2.0 (a)"
    assert table.footnotes == ("(a) 1 of 2 seeds: the disk was full",)


def test_results_on_other_samples_are_rows_of_their_own() -> None:
    """Neither the seeds of a model nor a baseline are mixed with results on other samples."""
    found = [record("a", {"digits": measured(0.5)}), record("a", {"digits": measured(0.7, n=361)}, seed=1)]
    found.append(record("untrained", {"digits": measured(0.3, n=361)}))
    both = lines(section(made(found, "smoke/a"), "Scores"), PROBE)
    assert sorted((line["n"], line["this model"], line["untrained"]) for line in both) == [
        ("360", "50.0 ± 2.0 (a)", "\N{EN DASH}"),
        ("361", "70.0 ± 2.0 (a)", "30.0 ± 2.0"),
    ]
    note = "(a) 1 of 2 seeds: the others were measured on other samples"
    assert part(section(made(found, "smoke/a"), "Scores"), PROBE).table.footnotes == (note,)


def test_what_was_selected_on_the_test_set_or_measured_on_unknown_files_is_marked() -> None:
    scores = measured(0.5, details={"selected_on": "test"})
    one = record("a", {"digits": scores})
    data = one.results["digits"].dataset.model_copy(update={"provenance": "unverified"})  # type: ignore[union-attr]
    one = one.model_copy(update={"results": {"digits": one.results["digits"].model_copy(update={"dataset": data})}})
    found = made([one], "smoke/a")
    table = part(section(found, "Scores"), PROBE).table
    assert table.rows[0][0].text == "digits (unverified)"
    assert table.footnotes == ("TEST-SELECTED: the best of what was tried on the test split itself: digits.",)
    assert "UNVERIFIED" in dict(section(found, "Datasets").facts)["digits"]


# Baselines


def baselines(found: Report) -> str:
    return dict(section(found, "Model").facts)["baselines"]


def test_the_baseline_is_the_same_encoder_of_the_same_comparison() -> None:
    scores = {"digits": measured(0.5)}
    own = record("a", scores, name="b/a")
    random = [record("untrained", scores, name=f"{folder}/untrained") for folder in ("a", "b", "c")]
    assert baselines(made([own, *random], "b/a")) == "b/untrained, version 1"
    assert baselines(made([own, *random[::2]], "b/a")) == "a/untrained, version 1"
    larger = Pretrained("timm:vit", "timm-vit", {"architecture": "vit"})
    found = made([record("x", scores, origin=larger), *random], "timm:vit")
    assert baselines(found) == "no records", "another encoder"
    assert baselines(made([own, *random], "b/untrained")) == "no records", "the same weights in another comparison"


# What the model is


def test_the_facts_of_a_run_are_those_of_its_records(committed: ReportInputs) -> None:
    facts = dict(section(reported(committed), "Model").facts)
    files = sorted((RESULTS / "records" / MODEL).glob("*/*/knn.dino.json"))
    found = [json.loads(path.read_text()) for path in files]
    assert facts["weights"] == ", ".join(
        f"sha256 {each['model']['weights_sha256'][:12]} (seed {each['seed']})" for each in found
    )
    assert facts["layer"] == found[0]["model"]["layer"] == "cls"
    assert "size 64" in facts["preprocessing"] and "mean 0.485 0.456 0.406" in facts["preprocessing"]
    assert facts["training data"] == f"synrep-bench/scenes-toy-1k @ {found[0]['training']['revision'][:12]}"
    assert facts["schedule"] == "40,800 views in batches of 120 (340 steps)"
    assert (facts["seeds"], facts["fingerprint"]) == ("0, 1, 2", found[0]["experiment"]["fingerprint"][:12])
    optimizer = "base lr 0.003, base views 240, betas 0.9 0.98, warmup 0.03333, weight decay 0.1"
    assert facts["optimizer settings"] == optimizer, "settings that are None are left out"
    assert facts["sampling settings"] == "crops 1, images 6, text True"


def test_a_pretrained_model_has_a_source_and_no_training() -> None:
    origin = Pretrained("timm:vit_base", "timm-vit_base", {"architecture": "vit_base"})
    facts = dict(section(made([record("x", {"digits": measured(0.5)}, origin=origin)], "timm:vit_base"), "Model").facts)
    assert facts["source"] == "timm:vit_base" and facts["encoder"] == "vit_base"
    assert not {"training data", "schedule", "seeds"} & facts.keys()


# Nothing measured, no predictions


def test_a_model_without_a_result_has_its_reasons_one_per_line() -> None:
    no_text = Skipped("no text tower", SkipCode.NO_TEXT_TOWER)
    absent = {name: Skipped(f"dataset {name} is neither here nor there", SkipCode.MISSING_DATASET) for name in "xyz"}
    odd = Skipped("odd: no", SkipCode.NOT_APPLICABLE)
    found = [
        record("a", {"x": absent["x"], "y": absent["y"], "odd": odd}),
        record("a", {"y": absent["y"], "z": absent["z"], "odd": odd}, evaluation="knn"),
        record("a", {"x": no_text, "y": no_text}, evaluation="zero_shot"),
        record("a", {"q": no_text}, evaluation="aro"),
    ]  # fmt: skip
    of = made(found, "smoke/a")
    assert section(of, "Scores").text == "Nothing was measured." and not section(of, "Scores").parts
    facts = dict(section(of, "Not measured").facts)
    others = set(plugins.names("benchmark.evaluations")) - {"linear_probe", "knn", "zero_shot", "aro"}
    assert facts.pop("no record") == ", ".join(sorted(others))
    assert facts == {
        "the dataset is not on the machine": "x (linear_probe); y (knn, linear_probe); z (knn)",
        "odd: no": "odd (knn, linear_probe)",
        "no text tower": "all datasets (aro, zero_shot)",
    }
    titles = [each.title for each in of.sections]
    assert titles == ["Model", "Scores", "Published numbers", "Not measured"]


def test_stored_features_are_named_and_have_no_confusion_without_predictions() -> None:
    scores = measured(0.5, details={"classes": ["a", "b"]}, features_sha256="d" * 64)
    found = made([record("x", {"digits": scores})], "smoke/x")
    assert "read from files" in dict(section(found, "Model").facts)["features"]
    confused = section(found, "Most confused classes")
    assert confused.facts == (("predictions that are not next to the records", f"{PROBE} on digits"),)
    assert not confused.parts


def test_predictions_of_no_other_model_are_read(committed: ReportInputs, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    original = predictions.read

    def noted(folder: Path, result: Any) -> Any:
        read.append(folder.relative_to(RESULTS / "predictions").as_posix().rsplit("/", 3)[0])
        return original(folder, result)

    monkeypatch.setattr(predictions, "read", noted)
    fresh = ReportInputs(committed.records, PairedComparisons.for_records(RESULTS / "records"), committed.published)
    reported(fresh)
    assert set(read) == {MODEL}
    reported(fresh, against=OTHER)
    assert set(read) == {MODEL, OTHER}


# Groups and classes


def test_groups_have_their_gap_and_the_best_first() -> None:
    of = grouped({"young": 0.2, "old": 0.7, "other": 0.5})
    found = section(made([record("a", {"faces": of}, evaluation="fairface")], "smoke/a"), "Groups")
    (part,) = found.parts
    assert part.table.title == "fairface (synrep): faces"
    assert [[cell.text for cell in row] for row in part.table.rows] == [
        ["old", "70.0 ± 10.0", "100"],
        ["other", "50.0 ± 10.0", "100"],
        ["young", "20.0 ± 10.0", "100"],
    ]
    (caption,) = part.table.captions
    assert "best 70.0 ± 10.0 (old)" in caption and "worst 20.0 ± 10.0 (young)" in caption
    assert "gap 50.0; chance 10.0." in caption


def test_the_worst_group_of_several_seeds_is_named_if_it_is_the_same() -> None:
    for second, name in ((0.3, " (young)"), (0.9, " (another group in each seed)")):
        seeds = [grouped({"young": 0.2, "old": 0.7}), grouped({"young": second, "old": 0.7})]
        found = [record("a", {"faces": scores}, seed=seed, evaluation="fairface") for seed, scores in enumerate(seeds)]
        (caption,) = section(made(found, "smoke/a"), "Groups").parts[0].table.captions
        assert caption.partition("worst ")[2].partition(";")[0].endswith(name)


def test_the_best_and_the_worst_class_are_those_of_the_mean_over_seeds() -> None:
    def scores(*values: float) -> dict[str, Score]:
        return {name: Score(value, 10, value, value) for name, value in zip("abc", values)}

    seeds = [scores(0.9, 0.5, 0.1), scores(0.3, 0.8, 0.2)]
    found = [
        record("x", {"digits": measured(0.5, per_class=per_class)}, seed=seed) for seed, per_class in enumerate(seeds)
    ]
    best, worst = lines(section(made(found, "smoke/x"), "Best and worst classes"), PROBE)
    assert (best["class"], best["this model"]) == ("b", "65.0 ± 190.6")
    assert (worst["class"], worst["this model"]) == ("c", "15.0 ± 63.5")


LABELS = np.array([0] * 10 + [1] * 10 + [2] * 20)
ANSWERS = (
    np.array([0] * 6 + [1] * 4 + [1] * 9 + [0] + [2] * 12 + [0] * 6 + [-1] * 2),  # 0 -> 1: 4, 1 -> 0: 1, 2 -> 0: 6
    np.array([0] * 8 + [1] * 2 + [1] * 10 + [2] * 18 + [0] * 2),  # 0 -> 1: 2, 2 -> 0: 2
)


@pytest.mark.parametrize("name", ["prediction", "prediction_k20"])
def test_confused_classes_are_counted_over_seeds(tmp_path: Path, name: str) -> None:
    found = []
    for seed, answers in enumerate(ANSWERS):
        one = record("x", {"digits": measured(0.5, n=40, details={"classes": ["cat", "dog", "owl"]})}, seed=seed)
        wrong = {f"{name}_other": LABELS} if "_" in name else {}
        found.append(with_predictions(tmp_path, one, {"label": LABELS, name: answers, **wrong}))
    pairs = PairedComparisons(tmp_path / "predictions")
    shown = lines(section(made(found, "smoke/x", pairs=pairs), "Most confused classes"), PROBE)
    assert [(each["class"], each["taken for"], each["share"]) for each in shown] == [
        ("owl", "cat", "20.0"),  # 8 of 40
        ("cat", "dog", "30.0"),  # 6 of 20
        ("dog", "cat", "5.0"),  # 1 of 20
    ]


@pytest.mark.parametrize(
    ("columns", "details"),
    [
        ({"unit": LABELS, "margin": LABELS / 3}, {"classes": ["a", "b", "c"]}),
        ({"label": LABELS, "prediction": LABELS}, {"classes": 3}),
        ({"label": LABELS, "prediction": LABELS}, {}),
        ({"label": LABELS, "prediction": LABELS}, {"classes": ["a", "b"]}),
        ({"label": LABELS, "prediction": LABELS}, {"classes": ["a", "b", "c"]}),
    ],
    ids=["no classes predicted", "a number of classes", "no names", "too few names", "no error"],
)
def test_results_without_confused_classes_have_none(
    tmp_path: Path, columns: dict[str, np.ndarray], details: dict[str, Any]
) -> None:
    one = with_predictions(tmp_path, record("x", {"digits": measured(0.5, n=40, details=details)}), columns)
    found = made([one], "smoke/x", pairs=PairedComparisons(tmp_path / "predictions"))
    assert "Most confused classes" not in [each.title for each in found.sections]


def test_confusions_need_the_predictions_of_every_seed(tmp_path: Path) -> None:
    def found(second: dict[str, np.ndarray]) -> Report:
        seeds = [
            record("x", {"digits": measured(0.5, n=40, details={"classes": ["a", "b", "c"]})}, seed=seed)
            for seed in (0, 1)
        ]
        seeds[0] = with_predictions(tmp_path, seeds[0], {"label": LABELS, "prediction": ANSWERS[0]})
        seeds[1] = with_predictions(tmp_path, seeds[1], second) if second else seeds[1]
        return made(seeds, "smoke/x", pairs=PairedComparisons(tmp_path / "predictions"))

    absent = section(found({}), "Most confused classes")
    assert absent.facts == (("predictions that are not next to the records", f"{PROBE} on digits"),)
    assert not absent.parts
    other = found({"label": LABELS, "margin": LABELS / 3})
    assert "Most confused classes" not in [each.title for each in other.sections]


def test_confusions_of_committed_predictions_are_those_of_their_matrix(committed: ReportInputs) -> None:
    """FairFace stores its confusion matrix, so it is known without the predictions."""
    matrices = [np.array(each["details"]["confusion"]) for each in raw(MODEL, "fairface.synrep-joint", "scenes-groups")]
    names = raw(MODEL, "fairface.synrep-joint", "scenes-groups")[0]["details"]["classes"]
    wrong_KK = sum(matrices) * (1 - np.eye(len(names), dtype=int))
    first = lines(section(reported(committed), "Most confused classes"), "fairface (synrep-joint)")[0]
    actual, predicted = divmod(int(wrong_KK.argmax()), len(names))
    assert (first["class"], first["taken for"]) == (names[actual], names[predicted])
    assert first["share"] == f"{100 * wrong_KK.max() / (3 * 150):.1f}"


# Against another model


def test_swapped_models_swap_better_and_worse(committed: ReportInputs) -> None:
    one, other = (
        section(reported(committed, *names), f"Against {names[1]}") for names in ((MODEL, OTHER), (OTHER, MODEL))
    )
    first, second = (
        {verdict: {text.rpartition(" ")[0] for text in of.split("; ")} for verdict, of in found.facts}
        for found in (one, other)
    )
    assert first == {"better": second["worse"], "worse": second["better"]}
    assert min(map(len, first.values())) >= 4
    for title in (each.table.title for each in one.parts):
        for line, reverse in zip(lines(one, title), lines(other, title), strict=True):
            assert float(line["difference"]) == -float(reverse["difference"])
            assert (line["this model"], line["other"], line["p"]) == (
                reverse["other"], reverse["this model"], reverse["p"],
            )  # fmt: skip
            assert {"better": "worse", "worse": "better", "": ""}[line[""]] == reverse[""]


def test_differences_are_corrected_for_their_number(tmp_path: Path) -> None:
    """A difference that is significant alone is not one of twenty."""
    generator = np.random.default_rng(4)
    noise = generator.normal(size=400)
    noise -= noise.mean()
    shift = 2.3 * noise.std() / 20  # p = 0.02
    answers = {"clip": 0.5 + 0.05 * (noise + shift), "mae": np.full(400, 0.5)}
    models = {name: written(tmp_path, name, [values]) for name, values in answers.items()}
    pairs = PairedComparisons.for_records(tmp_path / "records")
    records = [each for found in models.values() for each in found]
    against = section(made(records, "smoke/clip", "smoke/mae", pairs), "Against smoke/mae")
    (line,) = lines(against, "few_shot (ssl-transfer)")
    assert (line["p"], line[""]) == ("0.021", "better")
    assert "does not cover other seeds" in against.text
    many = [
        record_with_copies(each, answers[name], tmp_path, copies=20) for name, found in models.items() for each in found
    ]
    against = section(made(many, "smoke/clip", "smoke/mae", pairs), "Against smoke/mae")
    shown = lines(against, "few_shot (ssl-transfer)")
    assert len(shown) == 20
    assert {(each["p"], each[""]) for each in shown} == {("0.43", "")}
    assert dict(against.facts)["better"] == dict(against.facts)["worse"] == "none"


def record_with_copies(one: Any, answers: np.ndarray, out: Path, copies: int) -> Any:
    """Return the record with its result on further datasets, which have the same predictions."""
    (result,) = one.results.values()
    found = one.model_copy(update={"results": {f"copy{at}": result for at in range(copies)}})
    columns = {"episode": np.arange(len(answers)), "accuracy": answers}
    for at in range(copies):
        found = with_predictions(out, found, columns, f"copy{at}")
    return found


def test_a_comparison_without_predictions_is_refused() -> None:
    found = [record(name, {"digits": measured(0.5)}) for name in ("a", "b")]
    with pytest.raises(UserError, match="smoke/a and smoke/b have no evaluation in common that both have predictions"):
        made(found, "smoke/a", "smoke/b")


def test_a_model_is_not_compared_with_itself() -> None:
    found = [record("a", {"digits": measured(0.5)})]
    said = "expected another model after --against, found smoke/a itself; choose another"
    with pytest.raises(UserError, match=said):
        made(found, "smoke/a", "smoke/a")


def test_what_cannot_be_compared_is_listed(committed: ReportInputs) -> None:
    """One dataset of the other model has lost its predictions."""
    records = list(committed.records)
    for at, each in enumerate(records):
        if each.experiment.name == OTHER and each.evaluation.name == "knn":
            result = each.results["digits"].model_copy(update={"predictions": None})
            records[at] = each.model_copy(update={"results": {**each.results, "digits": result}})
    found = report(ReportInputs(records, committed.pairs), MODEL, OTHER, lambda _repo, _revision: None)
    facts = dict(section(found, f"Against {OTHER}").facts)
    assert facts["not compared, without predictions or on other samples"] == "knn on digits"


def test_the_order_of_the_records_does_not_matter() -> None:
    found = everywhere({"digits": measured(0.5), "pets": measured(0.6)})
    assert made(found, "smoke/a") == made(found[::-1], "smoke/a")
