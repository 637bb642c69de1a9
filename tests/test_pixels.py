"""Segmentation, pixel by pixel: which pixels are asked, what is answered there, and what an audit says of them."""

from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F
from commands import call, error_of
from datasets import Dataset, Image
from every_task import CASES, rows
from PIL import Image as Pictures
from transformers.models.segformer import SegformerImageProcessorPil

from hf_compalign import (
    AlignedDistillationTrainer,
    AuditCallback,
    AuditOptions,
    Columns,
    Predictions,
    attribution_agreement,
    audit,
    find_slices,
    fit_deferral,
    predict,
)
from hf_compalign.measure.audit import Audit
from hf_compalign.measure.predictions import parts_of
from hf_compalign.measure.predictions.pixels import PIXELS_PER_IMAGE, drawn_places
from hf_compalign.measure.statistics import cluster_bound, rate_interval
from hf_compalign.tasks import task_of

pytestmark = pytest.mark.numeric

NAME = "image-segmentation"
N = 6


def model(seed=1):
    """With the norm that `every_task` leaves out, so that it can be saved and loaded."""
    found = CASES[NAME].model(seed)
    found.decode_head.batch_norm = torch.nn.BatchNorm2d(16)
    return found.eval()


def processor(size=8, **options):
    return SegformerImageProcessorPil(size={"height": size, "width": size}, **options)


def pictures(n=N, seed=0, *, labels=True, size=(10, 12)):
    """Images with label maps, as files; a fifth of the pixels counts for nothing."""
    rng = np.random.default_rng(seed)
    images = [Pictures.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)) for _ in range(n)]
    maps = rng.integers(0, 3, (n, *size), dtype=np.uint8)
    maps[rng.random(maps.shape) < 0.2] = 255
    columns = {"id": [f"i{row}" for row in range(n)], "image": images, "kind": ["day", "night"] * (n // 2)}
    if not labels:
        return Dataset.from_dict(columns).cast_column("image", Image())
    found = Dataset.from_dict(columns | {"annotation": [Pictures.fromarray(one) for one in maps]})
    return found.cast_column("image", Image()).cast_column("annotation", Image())


def large(n=4, seed=0):
    """Prepared rows with more pixels than are drawn."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, (n, 24, 20))
    labels[rng.random(labels.shape) < 0.3] = 255
    pixels = rng.normal(size=(n, 3, 24, 20)).astype(np.float32)
    return Dataset.from_dict({"pixel_values": pixels.tolist(), "labels": labels.tolist()})


def scaled(network, dataset):
    """The logits of every pixel of every map, [N, H, W, C], by torch alone."""
    with torch.no_grad():
        logits = network(pixel_values=torch.tensor(dataset["pixel_values"][:])).logits
    size = np.shape(dataset["labels"][0])
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=False).permute(0, 2, 3, 1)


def places(found):
    """The row and the place in its map of each item, from the names."""
    ends = [name.rpartition("/")[2].split(",") for name in found.ids.tolist()]
    return found.examples, *np.array(ends, dtype=int).T


def test_where_maps_are_small_every_pixel_that_counts_is_an_item():
    dataset = rows(NAME, N)
    found = predict(model(), dataset, batch_size=4)
    labels = np.array(dataset["labels"][:])
    assert np.array_equal(np.stack(places(found)), np.stack(np.nonzero(labels != 255)))
    assert np.array_equal(found.labels, labels[labels != 255])
    assert found.label_names == ("LABEL_0", "LABEL_1", "LABEL_2")
    own = scaled(model(), dataset)
    assert tiny.distance(found.logits, own[torch.tensor(labels != 255)]) < tiny.ROUNDING


def test_an_audit_counts_the_pixels_that_changed_image_by_image():
    dataset = rows(NAME, N)
    found = audit(model(1), model(2), dataset, limits={"mismatch_rate": 0.99, "nfr": 0.01})
    labels = torch.tensor(dataset["labels"][:])
    ours, theirs = (scaled(model(seed), dataset).argmax(-1) for seed in (1, 2))
    counts, changed = labels != 255, (ours != theirs) & (labels != 255)
    lost = changed & (ours == labels)
    assert (found.n, found.n_labeled, found.n_examples) == (int(counts.sum()), int(counts.sum()), N)
    assert found.metrics["cie"] == int(changed.sum()) > 0
    assert found.metrics["mismatch_rate"] == pytest.approx(float(changed.sum() / counts.sum()))
    assert found.metrics["nfr"] == pytest.approx(float(lost.sum() / counts.sum()))
    hits, sizes = changed.sum((1, 2)).numpy(), counts.sum((1, 2)).numpy()
    assert found.metrics["mismatch_rate_upper_bound"] == pytest.approx(cluster_bound(hits, sizes))
    examples = np.repeat(np.arange(N), 64)
    interval = rate_interval(changed.flatten(), counts.flatten(), examples)
    assert found.metrics["mismatch_rate_interval"] == pytest.approx([*interval])
    assert [verdict.passed for verdict in found.limits] == [cluster_bound(hits, sizes) <= 0.99, False]


def test_of_large_maps_pixels_are_drawn_the_same_ones_for_every_model():
    dataset = large()
    found, other = predict(model(1), dataset), predict(model(2), dataset, batch_size=1)
    assert np.array_equal(found.ids, other.ids)
    assert not np.allclose(found.logits, other.logits)
    row, y, x = places(found)
    labels = np.array(dataset["labels"][:])
    assert (labels[row, y, x] == found.labels).all()
    assert 255 not in found.labels
    assert tiny.distance(found.logits, scaled(model(1), dataset)[row, y, x]) < tiny.ROUNDING
    # Those of the ignored label are left out of 256 that were drawn: some 30 % of them.
    sizes = np.bincount(row)
    assert ((sizes > 140) & (sizes < 220)).all()
    moved = predict(model(1), dataset.select([3, 1]))
    for place, old in enumerate((3, 1)):
        assert np.array_equal(moved.ids[moved.examples == place], found.ids[row == old])
    few = predict(model(1), dataset, columns=Columns(pixels_per_image=5))
    assert np.bincount(few.examples).max() <= 5
    with pytest.raises(ValueError, match="and be asked as many pixels of each: give one image processor for both"):
        audit(found, few)


def test_a_draw_depends_on_the_row_and_the_size_of_its_map():
    assert PIXELS_PER_IMAGE == 256
    one = drawn_places("0a1b", 40, 30)
    assert len(np.unique(one)) == len(one) == 256
    assert one.tolist() == sorted(one) == drawn_places("0a1b", 40, 30).tolist()
    assert 0 <= one.min() <= one.max() < 1200
    for other in (drawn_places("0a1c", 40, 30), drawn_places("0a1b", 30, 40)):
        assert one.tolist() != other.tolist()
    assert drawn_places("0a1b", 3, 5, most=15).tolist() == [*range(15)]


def test_every_pixel_is_drawn_as_often_as_any_other_and_rates_are_those_of_all_pixels():
    """Images of 20 x 20 whose pixels change in blocks and count in others: 400 draws of 40 pixels each."""
    rng = np.random.default_rng(0)
    changed = np.kron(rng.random((3, 4, 4)) < [[[0.1]], [[0.3]], [[0.6]]], np.ones((5, 5))).astype(bool)
    counts = np.kron(rng.random((3, 2, 2)) < 0.7, np.ones((10, 10))).astype(bool)
    truth = (changed & counts).sum() / counts.sum()
    times, rates = np.zeros(400), []
    for draw in range(400):
        hits = items = 0
        for image in range(3):
            drawn = drawn_places(f"{draw * 3 + image:x}", 20, 20, most=40)
            times[drawn] += 1
            kept = drawn[counts[image].ravel()[drawn]]
            hits, items = hits + changed[image].ravel()[kept].sum(), items + len(kept)
        rates.append(hits / items)
    # Each pixel is drawn 120 times on average, with a standard deviation of 10.4.
    assert abs(times - 120).max() < 5 * 10.4
    assert 9 < times.std() < 12
    error = np.std(rates) / len(rates) ** 0.5
    assert abs(np.mean(rates) - truth) < 3 * error + 0.002


def test_raw_images_with_maps_are_read_by_the_image_processor():
    dataset = pictures()
    found = predict(model(), dataset, processing_class=processor(), columns=Columns(image="image"))
    again = predict(model(), dataset, processing_class=processor())
    assert np.array_equal(again.ids, found.ids)
    read = processor()(dataset["image"][:], segmentation_maps=dataset["annotation"][:], return_tensors="np")
    prepared = Dataset.from_dict({"id": dataset["id"], **{name: value.tolist() for name, value in read.items()}})
    own = predict(model(), prepared)
    assert np.array_equal(own.ids, found.ids)
    assert np.array_equal(own.labels, found.labels)
    assert tiny.distance(found.logits, own.logits) < tiny.ROUNDING
    lists = dataset.remove_columns("annotation").add_column(
        "map", [np.array(one).tolist() for one in dataset["annotation"]]
    )
    masks = dataset.rename_column("annotation", "mask")
    masked = predict(model(), masks, processing_class=processor(), columns=Columns(label="mask"))
    assert np.array_equal(masked.labels, found.labels)
    assert np.array_equal(masked.ids, found.ids)
    named = predict(model(), lists, processing_class=processor(), columns=Columns(label="map"))
    assert np.array_equal(named.labels, found.labels)


def test_a_model_of_16_bits_is_asked_in_its_precision():
    network, rows = model().to(torch.bfloat16), large()
    pixels = torch.tensor(rows["pixel_values"]).to(torch.bfloat16)
    with torch.no_grad():
        logits = network(pixel_values=pixels).logits
    own = F.interpolate(logits, size=(24, 20), mode="bilinear", align_corners=False).float().movedim(1, -1)
    found = predict(network, rows)
    assert found.logits.dtype == np.float32
    assert tiny.distance(found.logits, own[places(found)]) < 2**-7  # of bfloat16


def test_without_label_maps_the_pixels_are_those_of_the_image_as_the_model_gets_it():
    found = predict(model(), pictures(labels=False), processing_class=processor())
    assert len(found) == N * 64
    assert (found.labels == -100).all()
    known = predict(model(), pictures(), processing_class=processor())
    assert set(known.ids) < set(found.ids)
    prepared = rows(NAME, N).remove_columns("labels")
    assert len(predict(model(), prepared)) == N * 64


def test_models_that_read_images_in_other_sizes_are_not_compared():
    ours, theirs = (predict(model(), pictures(), processing_class=processor(size)) for size in (8, 16))
    with pytest.raises(ValueError, match="Both models must read images in one size, and be asked as many pixels"):
        audit(ours, theirs)


def test_pixels_belong_to_the_groups_of_their_images_and_show_them():
    options = AuditOptions(processing_class=processor(), contents=True, latency=True)
    found = audit(model(1), model(2), pictures(), groups=["kind"], limits={"group_mismatch_gap": 1.0}, options=options)
    assert {row.group for row in found.groups} == {"day", "night"}
    assert sum(row.n for row in found.groups) == found.n
    assert sum(row.mismatches for row in found.groups) == found.metrics["cie"]
    assert found.items[0].image.startswith("data:image/png")
    assert found.passed
    saved = [predict(model(seed), pictures(), processing_class=processor()) for seed in (1, 2)]
    again = audit(*saved, pictures(), groups=["kind"], options=options.__class__(contents=True))
    assert again.items == found.items


def test_a_training_counts_the_mismatches_that_its_audit_counts(tmp_path):
    evaluated = rows(NAME, N, seed=5)
    watching = AuditCallback(model(1), evaluated)
    trainer = AlignedDistillationTrainer(
        model(2),
        tiny.arguments(tmp_path, eval_steps=1, max_steps=2),
        teacher=model(1),
        train_dataset=rows(NAME, 8),
        eval_dataset=evaluated,
        callbacks=[watching],
    )
    trainer.train()
    metrics = trainer.evaluate()
    assert metrics["eval_cie"] == metrics["eval_audit_cie"] > 0
    alone = audit(model(1), trainer.model, evaluated)
    assert alone.metrics["cie"] == metrics["eval_audit_cie"]
    assert alone.metrics["kl"] == pytest.approx(watching.latest.metrics["kl"])


def test_slices_are_of_images_by_one_pixel_of_each():
    dataset, columns = pictures(240, size=(4, 4)), Columns(pixels_per_image=9)
    found = predict(model(), dataset, processing_class=processor(), columns=columns)
    assert len(found) > len(np.unique(found.examples)) > 150
    night = found.examples % 2 == 1
    changed = replace(found, logits=np.where(night[:, None], found.logits[:, ::-1], found.logits))
    slices = find_slices(found, changed, dataset, columns=columns)
    assert (slices.n_searched + slices.n_tested, slices.of_examples) == (len(np.unique(found.examples)), True)
    assert "night" in str(slices)


def test_the_answers_to_a_part_of_the_images_are_those_that_predict_gives_to_it_alone():
    dataset, how = pictures(10), {"processing_class": processor(24), "columns": Columns(pixels_per_image=50)}
    whole = predict(model(), dataset, **how)
    parts = parts_of(whole, dataset, [[7, 2, 5], [0]], task=task_of(model()), columns=how["columns"])
    for places_of_part, found in zip([[7, 2, 5], [0]], parts, strict=True):
        alone = predict(model(), dataset.select(places_of_part), **how)
        assert np.array_equal(found.ids, alone.ids)
        assert np.array_equal(found.examples, alone.examples)
        assert np.array_equal(found.labels, alone.labels)
        assert tiny.distance(found.logits, alone.logits) < tiny.ROUNDING
        assert found.data_fingerprint == alone.data_fingerprint


def test_predictions_of_pixels_are_saved_and_loaded(tmp_path):
    found = predict(model(), pictures(), processing_class=processor())
    found.save(tmp_path / "pixels.npz")
    loaded = Predictions.load(tmp_path / "pixels.npz")
    assert np.array_equal(loaded.ids, found.ids)
    assert audit(loaded, found, pictures()).metrics["cie"] == 0


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two models with their processor, and the images in a file."""
    folder = tmp_path_factory.mktemp("segmentation")
    for seed, name in enumerate(("original", "small"), start=1):
        model(seed).save_pretrained(folder / name)
        processor().save_pretrained(folder / name)
    pictures().to_parquet(folder / "rows.parquet")
    return folder


def test_the_command_line_audits_pixels(place):
    asked = ["--dataset", place / "rows.parquet", "--groups", "kind", "--limit", "mismatch_rate=0.001"]
    result = call("audit", place / "original", place / "small", *asked, "--output", place / "audit.json")
    assert result.exit_code == 1, result.output
    found, expected = Audit.load(place / "audit.json"), audit(place / "original", place / "small", pictures())
    assert (found.n, found.n_examples) == (expected.n, N)
    assert found.metrics["cie"] == expected.metrics["cie"] > 0
    fewer = call("audit", place / "original", place / "small", *asked, "--pixels-per-image", 3, "--json")
    assert fewer.exit_code == 1
    assert f'"n_examples": {N}' in fewer.stdout
    baseline = ["--dataset", place / "rows.parquet", "--pixels-per-image", 3]
    assert call("record", place / "original", *baseline, "--output", place / "base.npz").exit_code == 0
    assert call("compare", place / "base.npz", place / "original", *baseline).exit_code == 0
    other = call("compare", place / "base.npz", place / "original", *baseline[:2])
    assert "as many pixels of each" in error_of(other)


def test_what_cannot_be_is_refused():
    dataset = rows(NAME, 2)
    with pytest.raises(ValueError, match="pixels_per_image is for models for image segmentation. Got a model for ima"):
        predict(tiny.vit(), dataset, columns=Columns(pixels_per_image=9))
    with pytest.raises(ValueError, match="pixels_per_image must be"):
        Columns(pixels_per_image=0)
    nothing = dataset.map(lambda row: {"labels": np.full_like(row["labels"], 255)})
    with pytest.raises(ValueError, match="No image has a pixel that counts: all that were drawn have the ignored"):
        predict(model(), nothing)
    beyond = dataset.map(lambda row: {"labels": np.full_like(row["labels"], 3)})
    with pytest.raises(ValueError, match=r"Labels must lie in \[0, 3\), or be 255 .* Got 3 in column 'labels', row 0"):
        predict(model(), beyond)
    classes = dataset.remove_columns("labels").add_column("label", [1, 2])
    with pytest.raises(ValueError, match=r"A label map holds a class id for each pixel.* Got \[\] of .*'label', row 0"):
        predict(model(), classes)
    for name in ("annotation", "label"):
        texts = dataset.remove_columns("labels").add_column(name, ["a cat", "a mat"])
        with pytest.raises(ValueError, match=rf"Got a str in column '{name}', row 0. Name the column of label maps"):
            predict(model(), texts)
    with pytest.raises(ValueError, match="There is no column 'maps'"):
        predict(model(), dataset, columns=Columns(label="maps"))


def test_what_is_not_known_for_pixels_is_refused():
    dataset, answers = rows(NAME, 2), [predict(model(seed), rows(NAME, 2)) for seed in (1, 2)]
    with pytest.raises(ValueError, match="Got a model for image-segmentation. Leave the attribution out."):
        attribution_agreement(model(1), model(2), dataset)
    with pytest.raises(ValueError, match="A deferral is decided example by example: give predictions with one item"):
        fit_deferral(*answers, budget=0.2)
