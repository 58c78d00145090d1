"""Table 4 shows UperNet on ADE20K only; frozen encoders have a table with a column per preset."""

from benchmark.interfaces import AdamW, Method
from benchmark.records.schema import Record
from benchmark.reports.published.rows import Target
from benchmark.reports.published.table import PaperTable
from benchmark.sampling import Sampling
from tests.fixtures.paper_records import report_inputs, run
from tests.reports.published.test_rows import as_published, build, numbers, published_cells, row, rows
from tests.reports.tables.conftest import measured

UPERNET = ("segmentation", "synclr-upernet", 1)
FROZEN = [("segmentation", preset, 1) for preset in ("capi-logreg", "capi-knn", "dinov3-linear")]


def segmented(preset: tuple[str, str, int], value: float = 0.5, **changes: object) -> Record:
    scores = {name: measured(value, name="miou") for name in ("ade20k", "camvid")}
    method = Method(Sampling(images=6), AdamW(2e-4, 512, 0.1, (0.9, 0.98), 0.1))
    return run("main-full-cc12m-1x/stablerep-syn", scores, preset, settings=method, **changes)  # type: ignore[arg-type]


def test_table_4_shows_upernet_on_ade20k_only() -> None:
    own = segmented(UPERNET, 0.412)
    others = [segmented(preset) for preset in (*FROZEN, ("segmentation", "synclr-upernet-clean", 1))]
    fine_tuned = {"ade20k miou, synclr-upernet v1": "41.2 ± 2.0"}
    for name, make in (("equal", build), ("published", as_published)):
        assert rows(make("table_4", *others), source="measured") == [], name
        table = make("table_4", own, *others)
        assert numbers(row(table, source="measured")) == fine_tuned, name
        assert {column for _, column, _ in published_cells(table)}.isdisjoint(fine_tuned), name
        assert not any("capi" in note or "dinov3" in note for note in table.footnotes), name


def test_a_frozen_encoder_has_a_column_per_preset_and_dataset_and_upernet_none() -> None:
    own = [segmented(preset, value) for preset, value in zip(FROZEN, (0.1, 0.2, 0.3))]
    table = build("frozen_segmentation", *own, segmented(UPERNET, 0.9))
    assert numbers(row(table, source="measured")) == {
        f"{dataset} miou, {preset} v1": f"{value} ± 2.0"
        for (_, preset, _), value in zip(FROZEN, ("10.0", "20.0", "30.0"))
        for dataset in ("ade20k", "camvid")
    }


def test_seeds_of_table_4_count_fine_tuned_encoders_only() -> None:
    own = [segmented(UPERNET, value, seed=seed) for seed, value in ((0, 0.4), (1, 0.5))]
    frozen = [segmented(FROZEN[0], seed=seed) for seed in range(3)]
    assert row(build("table_4", *own, *frozen), source="measured")["seeds"].text == "2"


def test_a_preset_belongs_to_one_target() -> None:
    knn, linear = FROZEN[1:]
    targets = (Target("segmentation", "ade20k", preset=knn[1]), Target("segmentation", "camvid", preset=linear[1]))
    table = PaperTable("t", "c", numbers=lambda _: (), experiment_globs=("main-*x/*",), targets=targets)
    found = row(table(report_inputs([segmented(knn), segmented(linear)])), source="measured")
    assert set(numbers(found)) == {"ade20k miou, capi-knn v1", "camvid miou, dinov3-linear v1"}


def test_encoders_with_other_resolution_have_another_column_of_table_4() -> None:
    table = build("table_4")
    small, large = (f"ade20k upernet{pixels} miou, as published" for pixels in ("", " 518 pixels"))
    at_518 = {cells["method"].text for cells, column, _ in published_cells(table) if column == large}
    assert at_518 == {"DINOv2 ViT-B/14", "DINOv2 ViT-L/14", "SynCLR ViT-L/14"}
    assert numbers(row(table, method="SynCLR ViT-B/16")) == {small: "54.3 (b)"}
