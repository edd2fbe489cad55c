"""GLIP's rows: sizes, mirrors, prompts of classes, packing, and rows that cannot be used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.zoo.glip_squares import VOCABULARY, batch_of, built, prepared, row, squares, tiny

from lumiray.data.records import Detection, boxes_of, grounding_of, records_of
from lumiray.errors import UserError
from lumiray.system import BadRow, Record
from lumizoo.glip.class_prompts import class_prompts_in
from lumizoo.glip.pack import pack
from lumizoo.glip.prompts import ClassName, clean, prompt, prompts_of_all, sampled_prompt, swap_sides
from lumizoo.glip.resize import mirror_boxes, resized_shape
from lumizoo.glip.system import GlipSystem, targets_of
from lumizoo.glip.tokens import Tokenizer

CLASSES = ["red", "green", "blue", "square"]
GREY = np.full((40, 60, 3), 90, np.uint8)


def captioned(**changed: Any) -> Any:
    fields = {"caption": "red square", "boxes": [[10, 5, 30, 25]], "spans": [[[0, 3]]]}
    return row(GREY, **(fields | changed))


def named(*names: str) -> list[ClassName]:
    return [ClassName(name) for name in names]


def detected(**changed: Any) -> Any:
    return row(GREY, **({"classes": CLASSES, "boxes": [[10, 5, 30, 25]], "labels": [1]} | changed))


@pytest.mark.parametrize(
    ("size", "found"),
    [
        ((600, 800), (800, 1066)),  # the long side is cut off: 1066.67
        ((800, 600), (1066, 800)),
        ((500, 500), (800, 800)),
        ((480, 1000), (640, 1333)),  # 1333 * 480 / 1000 = 639.84
        ((800, 1000), (800, 1000)),
        ((1, 4000), (1, 4000)),
        ((3, 4000), (1, 1333)),
    ],
)
def test_the_short_side_is_800_unless_the_long_one_would_pass_1333(
    size: tuple[int, int], found: tuple[int, int]
) -> None:
    assert resized_shape(size, 800, 1333) == found


def test_a_row_is_resized_by_pil_and_its_boxes_with_it(tmp_path: Path) -> None:
    system = GlipSystem(tiny(tmp_path, short_side=80, long_side=200, train_sides=(80,)))
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    found = prepared(system, row(noise, caption="red", boxes=[[10, 5, 30, 25]], spans=[[[0, 3]]]), None)
    wanted = np.array(Image.fromarray(noise).resize((120, 80), Image.Resampling.BILINEAR))
    assert np.array_equal(found["picture"], wanted.transpose(2, 0, 1))
    assert found["size"].tolist() == [80, 120] and found["original"].tolist() == [40, 60]
    assert found["boxes"].tolist() == [[10, 5, 29, 24]]  # of the original; the last pixel is inside
    for seed in range(8):
        trained = prepared(system, row(noise, caption="red", boxes=[[10, 5, 30, 25]], spans=[[[0, 3]]]), seed)
        if np.array_equal(trained["picture"], wanted.transpose(2, 0, 1)):
            assert trained["boxes"].tolist() == [[20, 10, 58, 48]]
        else:
            assert np.array_equal(trained["picture"], wanted.transpose(2, 0, 1)[:, :, ::-1])
            assert trained["boxes"].tolist() == [[120 - 1 - 58, 10, 120 - 1 - 20, 48]]


def test_training_draws_sides_and_mirrors_from_the_generator(tmp_path: Path) -> None:
    system = GlipSystem(tiny(tmp_path, train_sides=(32, 48, 64)))
    picture, fields = squares(np.random.default_rng(0))
    seen = set()
    for seed in range(30):
        once, again = (prepared(system, row(picture, **fields), seed) for _ in range(2))
        assert all(np.array_equal(once[name], again[name]) for name in once)
        colour = once["picture"][:, int(once["boxes"][0][1]) + 4, int(once["boxes"][0][0]) + 4]
        whole = prepared(system, row(picture, **fields), None)
        first = whole["picture"][:, int(whole["boxes"][0][1]) + 4, int(whole["boxes"][0][0]) + 4]
        assert np.abs(colour.astype(int) - first).max() < 10  # the box lies where its square is
        seen.add((once["size"].tolist()[0], bool(once["boxes"][0][0] > once["boxes"][1][0])))
    assert len(seen) == 6


def test_a_mirrored_box_has_its_pixels_in_the_mirrored_picture() -> None:
    picture = np.zeros((4, 10))
    picture[1:3, 2:5] = 1
    (box,) = mirror_boxes(np.array([[2.0, 1.0, 4.0, 2.0]]), 10).astype(int)
    assert picture[:, ::-1][box[1] : box[3] + 1, box[0] : box[2] + 1].all()
    assert picture.sum() == (box[2] - box[0] + 1) * (box[3] - box[1] + 1)


def test_left_and_right_are_swapped_with_their_spans_only_where_it_is_asked() -> None:
    text = "Left of the right square, RIGHT. leftmost left"
    spans = [[(0, 4)], [(12, 24)], [(26, 31), (42, 46)]]
    found, moved = swap_sides(text, spans)
    assert found == "Right of the left square, LEFT. leftmost right"
    assert [[found[begin:end] for begin, end in several] for several in moved] == [
        ["Right"],
        ["left square"],
        ["LEFT", "right"],
    ]


@pytest.mark.parametrize("swap", [False, True])
def test_captions_of_mirrored_pictures_change_by_option(tmp_path: Path, swap: bool) -> None:
    system = GlipSystem(tiny(tmp_path, flip_words=swap))
    given = captioned(caption="left square", boxes=[[0, 0, 10, 20]], spans=[[[0, 4]]])
    words = set()
    for seed in range(10):
        found = prepared(system, given, seed)
        words.add((VOCABULARY[found["tokens"][0, 1]], bool(found["boxes"][0][0] > 0)))
    assert words == {("left", False), ("right" if swap else "left", True)}


def test_names_are_cleaned_and_joined_with_their_spans() -> None:
    assert [clean(name) for name in ("cup_(drinking)", "hot_dog", "a__b", "x(1)y(2)")] == [
        "cup ",
        "hot dog",
        "a b",
        "xy",
    ]
    found = prompt(named("cup_(drinking)", "hot_dog", "red"), [2, 0])
    assert found.text == "red. cup "
    assert [found.text[begin:end] for begin, end in found.spans] == ["red", "cup "]


def test_words_around_a_name_are_read_and_not_matched(tmp_path: Path) -> None:
    file = tmp_path / "prompts.yaml"
    file.write_text("blue: {prefix: 'one ', suffix: ' two'}\nred: {name: square, suffix: ' of red'}\n")
    system = GlipSystem(tiny(tmp_path, class_prompts=str(file)))
    stage = system.stages()[1]  # all classes in their order: red, green, blue
    given = detected(classes=CLASSES[:3], boxes=[[10, 5, 30, 25]] * 2, labels=[2, 0])
    found = system.prepare(stage, given, np.random.default_rng(0))
    words = [VOCABULARY[token] for token in found["tokens"][0][found["mask"][0]]]
    assert words == ["[CLS]", "square", "of", "red", ".", "green", ".", "one", "blue", "two", "[SEP]"]
    assert [np.flatnonzero(one).tolist() for one in found["words"]] == [[8], [1]]
    asked = system.prepare(stage, given, None)
    assert [np.flatnonzero(one).tolist() for one in asked["class_words"]] == [[1], [5], [8]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "names no class"),
        ("- red", "names no class"),
        ("red: square", "'red' is not a name with its parts"),
        ("3: {name: square}", "3 is not a name"),
        ("red: {infix: square}", "'red' has 'infix': 'square'; it may have prefix, name, suffix"),
        ("red: {suffix: 3}", "'red' has 'suffix': 3"),
        ("red: {", r"cannot be read \(ParserError\)"),
    ],
)
def test_a_file_of_prompts_that_cannot_be_used_is_one_clear_mistake(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "prompts.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=words):
        class_prompts_in(str(file))
    with pytest.raises(UserError, match=r"class-prompts .*nowhere\.yaml: cannot be read"):
        GlipSystem(tiny(tmp_path, class_prompts=str(tmp_path / "nowhere.yaml"))).portable()


def test_prompts_hold_the_classes_of_the_picture_and_some_others() -> None:
    colours, numbers = ("red", "green", "blue"), ("one", "two", "three", "four")
    names = named(*(f"{colour} {number}" for colour in colours for number in numbers))
    tokenizer = Tokenizer(VOCABULARY, 256)
    counts = []
    for seed in range(200):
        found = sampled_prompt(names, [3, 7], 5, tokenizer, np.random.default_rng(seed))
        assert {3, 7} <= set(found.numbers) and len(set(found.numbers)) == len(found.numbers)
        assert [found.text[begin:end] for begin, end in found.spans] == [names[number].name for number in found.numbers]
        counts.append(len(found.numbers) - 2)
    assert set(counts) == {0, 1, 2, 3, 4, 5}  # drawn among all classes, those of the picture are taken out
    assert sum(count >= 3 for count in counts) > 100  # half of the time all five are drawn
    orders = {sampled_prompt(names, [3, 7], 0, tokenizer, np.random.default_rng(seed)).numbers for seed in range(20)}
    assert orders == {(3, 7), (7, 3)}


def test_prompts_end_where_the_tokens_do() -> None:
    tokenizer = Tokenizer(VOCABULARY, 9)  # seven tokens besides [CLS] and [SEP]: three names of one token with dots
    names = named("red", "green", "blue", "square", "one", "two")
    for seed in range(20):
        draw = np.random.default_rng(seed)
        assert len(sampled_prompt(names, range(5), 6, tokenizer, draw).numbers) == 3
        found = sampled_prompt(names, [0], 6, tokenizer, draw)
        assert 0 in found.numbers and len(found.numbers) <= 3
        assert int(tokenizer(found.text).mask.sum()) <= 9


def test_boxes_of_classes_that_do_not_fit_are_dropped_with_them(tmp_path: Path) -> None:
    system = GlipSystem(tiny(tmp_path, max_tokens=6))  # two names
    given = detected(boxes=[[0, 0, 10, 10], [10, 0, 20, 10], [20, 0, 30, 10]], labels=[0, 1, 2])
    for seed in range(6):
        found = prepared(system, given, seed)
        assert found["count"] == len(found["boxes"]) == len(found["words"]) == 2
        assert found["words"].sum(1).tolist() == [1, 1]


def test_a_detection_row_names_the_tokens_of_its_class(tmp_path: Path) -> None:
    system = GlipSystem(tiny(tmp_path))
    for seed in range(6):
        found = prepared(system, detected(labels=[2]), seed)
        (place,) = np.flatnonzero(found["words"][0])
        assert VOCABULARY[found["tokens"][0, place]] == "blue"


def test_all_classes_are_asked_for_in_one_text_or_in_texts_of_forty() -> None:
    names = named("one", "two", "three") * 30
    (whole,) = prompts_of_all(names, Tokenizer(VOCABULARY, 256))
    assert whole.numbers == tuple(range(90))
    assert [len(one.numbers) for one in prompts_of_all(names, Tokenizer(VOCABULARY, 128))] == [40, 40, 10]


def test_an_evaluation_row_has_all_classes_and_labels_from_one(tmp_path: Path) -> None:
    system = GlipSystem(tiny(tmp_path))
    found = prepared(system, detected(boxes=[[0, 0, 10, 10], [10, 0, 20, 10]], labels=[3, 0]), None)
    assert found["labels"].tolist() == [4, 1]
    tokens = [[VOCABULARY[found["tokens"][0, place]] for place in np.flatnonzero(own)] for own in found["class_words"]]
    assert tokens == [[name] for name in CLASSES]
    spans = [[[0, 3]], [[4, 10]], [[0, 3]]]
    three = captioned(boxes=[[0, 0, 9, 9], [1, 1, 9, 9], [2, 2, 9, 9]], spans=spans)
    found = prepared(system, three, None)
    assert found["labels"].tolist() == [1, 2, 1] and len(found["class_words"]) == 2


def test_an_evaluation_row_says_which_classes_were_looked_for(tmp_path: Path) -> None:
    system = GlipSystem(tiny(tmp_path))
    one = {"boxes": [[0, 0, 10, 10]], "labels": [3]}
    assert prepared(system, detected(**one), None)["judged"].tolist() == [1] * len(CLASSES)
    found = prepared(system, detected(**one, absent=[1], not_exhaustive=[3]), None)["judged"].tolist()
    assert found == [0, 1, 0, 2, *[0] * (len(CLASSES) - 4)]


def test_pictures_of_several_sizes_are_padded_to_a_common_multiple_of_32(tmp_path: Path) -> None:
    system = GlipSystem(tiny(tmp_path, train_sides=(40,)))
    rows = [
        prepared(system, row(np.full((40, width, 3), 90, np.uint8), **fields))
        for width, fields in (
            (40, {"caption": "red", "boxes": [[0, 0, 9, 9]], "spans": [[[0, 3]]]}),
            (70, {"caption": "blue", "boxes": [[0, 0, 9, 9], [1, 1, 9, 9]], "spans": [[[0, 4]], [[0, 4]]]}),
        )
    ]
    packed = pack(rows)
    assert packed["picture"].shape == (2, 3, 64, 96)
    assert not packed["picture"][0, :, 40:].any() and not packed["picture"][0, :, :, 40:].any()
    assert packed["size"].tolist() == [[40, 40], [40, 70]] and packed["count"].tolist() == [1, 2]
    assert packed["boxes"].shape == (2, 2, 4) and not packed["boxes"][0, 1].any()
    assert packed["words"].shape == (2, 2, 16) and packed["tokens"].shape == (2, 1, 16)


def test_packed_pictures_have_the_losses_of_single_ones(tmp_path: Path) -> None:
    system = built(tiny(tmp_path, train_sides=(40, 64)))
    system.networks.eval()
    rng = np.random.default_rng(0)
    rows = [prepared(system, row(squares(rng)[0], **squares(rng)[1]), seed) for seed in range(4)]
    same = [one for one in rows if one["size"].tolist() == rows[0]["size"].tolist()]
    assert 1 < len(same) < 4  # of both sizes
    together = batch_of(system, rows)
    whole = system.losses("glip", together, 0)
    alone = [system.losses("glip", batch_of(system, [one]), 0) for one in same]
    kept = torch.tensor([any(one is each for each in same) for one in rows])
    own = {name: value[kept] for name, value in together.items()}
    part = system.losses("glip", own, 0)  # a micro-batch of a larger delivery: cropped to its own size
    for name, term in part.items():
        assert float(term.sum.detach()) == pytest.approx(sum(float(one[name].sum.detach()) for one in alone), rel=1e-4)
        assert float(term.count) == pytest.approx(sum(float(one[name].count) for one in alone), rel=1e-5)
        assert float(whole[name].sum.detach()) > float(term.sum.detach())
    counts = system.counts("glip", own)
    assert all(float(counts[name]) == float(term.count) for name, term in part.items())
    assert targets_of(own).boxes.shape[0] == len(same)


NAN = float("nan")


@pytest.mark.parametrize("seed", [None, 0])
@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (captioned(boxes=[[NAN, 0, 5, 5]]), r"box 0 is \[nan, 0, 5, 5\], not four finite numbers"),
        (captioned(boxes=[[0, 0, 5]]), "box 0 is .*not four finite numbers"),
        (captioned(boxes=[[0, 0, 5, 5]] * 2), "boxes, and one list of spans for each"),
        (captioned(spans=[[[0, 11]]]), r"the spans of box 0 are .* in 10 characters"),
        (captioned(spans=[[[3, 3]]]), "the spans of box 0 are"),
        (captioned(spans=[[]]), "the spans of box 0 are"),
        (captioned(caption=" "), "'caption' in .json is no text"),
        (detected(labels=[4]), "a box has the label 4, and there are 4 names"),
        (detected(labels=[True]), "a box has the label True"),
        (detected(labels=[]), "boxes, and one label for each"),
        (detected(classes=[*CLASSES, "(all)"]), r"the class '\(all\)' becomes no token"),
        (detected(classes=[*CLASSES[:3], " "]), "the names of classes are"),
        (row(b"broken", caption="red", boxes=[], spans=[]), "png: not a picture"),
    ],
)
def test_rows_that_cannot_be_used_say_why(tmp_path: Path, bad: Any, told: str, seed: int | None) -> None:
    with pytest.raises(BadRow, match=told):
        prepared(GlipSystem(tiny(tmp_path)), bad, seed)


@pytest.mark.parametrize(
    ("bare", "told"),
    [
        (captioned(boxes=[], spans=[]), "no box is left to learn from"),
        (captioned(boxes=[[70, 5, 90, 25]]), "no box is left to learn from"),
        (captioned(boxes=[[10, 5, 10, 25]]), "no box is left to learn from"),
        (captioned(caption="red   square", spans=[[[3, 6]]]), "no box has a token"),
    ],
)
def test_captions_without_a_box_are_not_trained_on_and_are_evaluated(tmp_path: Path, bare: Any, told: str) -> None:
    system = GlipSystem(tiny(tmp_path))
    with pytest.raises(BadRow, match=told):
        prepared(system, bare, 0)
    assert prepared(system, bare, None)["count"] in (0, 1)


def test_a_picture_that_has_none_of_its_classes_teaches_what_is_not_there(tmp_path: Path) -> None:
    system = built(tiny(tmp_path, negatives=len(CLASSES)))
    none, some = (prepared(system, detected(**told)) for told in ({"boxes": [], "labels": []}, {}))
    assert none["count"] == 0 and none["mask"].sum() > 2
    alone = batch_of(system, [none])
    terms = system.losses("glip", alone, 0)
    assert all(float(value) == 0 for value in system.counts("glip", alone).values())
    sums = {name: term.sum.item() for name, term in terms.items()}
    assert sums["alignment"] > 0 and sums["box"] == sums["centreness"] == 0
    terms["alignment"].sum.backward()
    assert all(torch.isfinite(one.grad).all() for one in system.networks.parameters() if one.grad is not None)
    both = batch_of(system, [none, some])
    assert {name: float(value) for name, value in system.counts("glip", both).items()} == pytest.approx(
        {name: float(value) for name, value in system.counts("glip", batch_of(system, [some])).items()}
    )


def test_boxes_are_cut_to_the_picture_and_empty_ones_dropped_with_their_spans(tmp_path: Path) -> None:
    given = captioned(
        boxes=[[-5, -5, 20, 20], [50, 30, 70, 50], [5, 5, 5, 9], [70, 0, 80, 9], [30, 30, 20, 20], [1, 1, 2, 9]],
        spans=[[[0, 3]], [[4, 10]], [[0, 1]], [[0, 1]], [[0, 1]], [[0, 3]]],
    )
    found = boxes_of(given)
    assert found.boxes.tolist() == [[0, 0, 20, 20], [50, 30, 60, 40], [1, 1, 2, 9]]
    assert found.spans == (((0, 3),), ((4, 10),), ((0, 3),))
    kept = prepared(GlipSystem(tiny(tmp_path)), given, None)
    assert kept["boxes"].tolist() == [[0, 0, 19, 19], [50, 30, 59, 39]]  # one pixel wide is nothing: x2 = x1
    with pytest.raises(BadRow, match="box 0 is"):
        grounding_of(given)


def test_two_thousand_boxes_are_taken(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 30, (2000, 2))
    boxes = np.concatenate((corner, corner + rng.uniform(3, 9, (2000, 2))), 1).round(2).tolist()
    found = prepared(GlipSystem(tiny(tmp_path)), captioned(boxes=boxes, spans=[[[0, 3]]] * 2000))
    assert found["count"] == 2000 and found["words"].shape == (2000, 16)


def test_a_row_with_classes_serves_grounding() -> None:
    assert Record.GROUNDING in records_of(detected())
    assert Record.GROUNDING not in records_of(detected(labels=[9]))
    found = boxes_of(detected())
    assert isinstance(found, Detection) and found.classes == tuple(CLASSES) and found.labels == (1,)


def test_the_vocabulary_is_asked_for_and_must_fit_the_table(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--vocabulary is missing.*vocab\.txt of bert-base-uncased"):
        GlipSystem().portable()
    with pytest.raises(UserError, match="has 22 tokens, and the text encoder has a table of 21"):
        GlipSystem(tiny(tmp_path, vocabulary_size=21)).portable()
    with pytest.raises(UserError, match=r"--swin-weights .*nowhere\.pth: no such file.*Swin's authors.*from scratch"):
        GlipSystem(tiny(tmp_path, swin_weights=str(tmp_path / "nowhere.pth"))).portable()
    assert Path(str(GlipSystem(tiny(tmp_path)).portable().vocabulary)).is_absolute()


def test_towers_that_start_from_scratch_are_named(tmp_path: Path) -> None:
    assert GlipSystem(tiny(tmp_path, bert_weights="bert.bin")).missing_weights() == ("swin-weights",)
    assert GlipSystem(tiny(tmp_path, weights="glip.pth")).missing_weights() == ()
