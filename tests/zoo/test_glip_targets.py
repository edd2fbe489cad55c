"""GLIP's targets and losses where a wrong reading of the card would show."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.zoo.glip_squares import VOCABULARY, vocabulary

from lumiray.errors import UserError
from lumiray.system import Scope
from lumizoo.glip.anchors import anchors_of, decode, encode, level_sizes, overlap
from lumizoo.glip.assign import assign
from lumizoo.glip.head import Predictions
from lumizoo.glip.losses import Targets, anchor_targets, centreness, generalised_iou_loss, grounding_terms, term_counts
from lumizoo.glip.tokens import Tokenizer, binary_map, positive_map

TEXT = "a red  square"


def tokenizer(length: int = 16) -> Tokenizer:
    return Tokenizer(VOCABULARY, length)


def covered(text: str, *spans: tuple[int, int], length: int = 16) -> list[int]:
    """Tokens that the spans of one box cover."""
    return np.flatnonzero(binary_map(tokenizer(length)(text), [spans])[0]).tolist()


def test_tokens_are_lower_cased_framed_padded_and_cut() -> None:
    words = [VOCABULARY.index(word) for word in ("[CLS]", "red", "square", "##s", ".", "[UNK]", "[SEP]")]
    found = tokenizer(10)("Red SQUARES. zebra")
    assert found.ids.tolist() == [*words, 0, 0, 0]
    assert found.mask.tolist() == [True] * 7 + [False] * 3
    cut = tokenizer(4)("red green blue red")
    assert cut.ids.tolist() == [2, VOCABULARY.index("red"), VOCABULARY.index("green"), 3]
    assert tokenizer().count("squares.") == 3


@pytest.mark.parametrize(
    ("span", "tokens"),
    [
        ((2, 5), [2]),  # red
        ((1, 5), [2]),  # begins on a blank: the next character counts
        ((5, 13), [3]),  # begins on two blanks: the third character counts
        ((2, 6), [2]),  # ends on a blank
        ((2, 7), [2]),  # ends on two of them
        ((0, 13), [1, 2, 3]),
        ((5, 7), []),  # nothing but blanks: it begins with the word behind and ends with the one before
    ],
)
def test_a_span_that_begins_or_ends_on_a_blank_is_moved_inwards(span: tuple[int, int], tokens: list[int]) -> None:
    assert covered(TEXT, span) == tokens


def test_three_blanks_are_too_many() -> None:
    assert covered("red   square", (3, 12)) == []
    assert covered("red   square", (0, 6)) == []


def test_several_spans_are_joined_and_rows_sum_to_one() -> None:
    assert covered("red square of blue", (0, 3), (14, 18)) == [1, 4]
    found = positive_map(tokenizer()("red square of blue"), [((0, 3), (14, 18)), ((4, 10),)])
    assert found.sum(1) == pytest.approx([1, 1], abs=2e-6)
    assert found[0, 1] == np.float32(1) / (np.float32(2) + np.float32(1e-6))


def test_words_behind_the_cut_have_no_token() -> None:
    text = "red green blue square"
    assert covered(text, (10, 14), length=4) == []
    assert covered(text, (4, 14), length=4) == []  # its end is lost, so the whole span is
    assert covered(text, (4, 9), length=4) == [2]
    assert positive_map(tokenizer(4)(text), [[(10, 14)]]).max() == 0


def test_special_tokens_are_asked_for_and_a_file_s_last_line_may_end(tmp_path: Path) -> None:
    assert Tokenizer.from_file(vocabulary(tmp_path), 8).size == len(VOCABULARY)
    with pytest.raises(UserError, match=r"--vocabulary has no token \[CLS\]"):
        Tokenizer(["[PAD]", "[UNK]", "[SEP]"], 8)
    with pytest.raises(UserError, match=r"--vocabulary .*none\.txt: cannot be read"):
        Tokenizer.from_file(str(tmp_path / "none.txt"), 8)


def test_corners_are_inclusive() -> None:
    one, beside, half = (torch.tensor(box, dtype=torch.float32) for box in ([0, 0, 3, 3], [4, 0, 7, 3], [2, 0, 5, 3]))
    assert overlap(one, one) == 1
    assert overlap(one, beside) == 0
    assert overlap(one, half) == pytest.approx(8 / 24)  # 2 x 4 pixels of 16 + 16 - 8
    anchors = anchors_of([(2, 3), (1, 2), (1, 1), (1, 1), (1, 1)], "cpu")
    assert [len(one) for one in anchors] == [6, 2, 1, 1, 1]
    assert anchors[0][4].tolist() == [8 + 3.5 - 31.5, 8 + 3.5 - 31.5, 8 + 3.5 + 31.5, 8 + 3.5 + 31.5]
    # a box of the anchor's 64 pixels at its place has the code 0, one of twice the pixels 5 ln 2
    assert encode(anchors[0][4], anchors[0][4]).abs().max() == 0
    wide = anchors[0][4] + torch.tensor([-32.0, 0, 32, 0])
    assert encode(wide, anchors[0][4]).tolist() == pytest.approx([0, 0, 5 * math.log(2), 0])


def test_decoding_is_the_inverse_and_bounds_sizes() -> None:
    torch.manual_seed(0)
    (anchors, *_) = anchors_of([(4, 4), (1, 1), (1, 1), (1, 1), (1, 1)], "cpu")
    boxes = anchors + 10 * torch.rand(16, 4)
    assert torch.allclose(decode(encode(boxes, anchors), anchors), boxes, atol=1e-4)
    huge = decode(torch.tensor([[0.0, 0.0, 1e4, 0.0]]), anchors[:1])
    assert float(huge[0, 2] - huge[0, 0] + 1) == pytest.approx(64 * 1000 / 16)


def sizes(height: int = 64, width: int = 64) -> tuple[tuple[int, int], ...]:
    return level_sizes(height, width)


def boxes(*given: list[float]) -> torch.Tensor:
    return torch.tensor([list(given)], dtype=torch.float32)


def test_an_anchor_that_two_equal_boxes_claim_goes_to_the_first() -> None:
    levels = anchors_of(sizes(), "cpu")
    box = [4.0, 4.0, 51.0, 51.0]
    (alone,) = assign(levels, boxes(box), torch.tensor([1]))
    (found,) = assign(levels, boxes(box, box), torch.tensor([2]))
    assert (alone == 0).any()
    assert torch.equal(found, alone)
    (found,) = assign(levels, boxes([0.0, 0.0, 9.0, 9.0], box, box), torch.tensor([3]))
    assert not (found == 2).any() and (found == 1).any()


def test_an_anchor_goes_to_the_box_that_it_covers_best() -> None:
    levels = anchors_of(sizes(), "cpu")
    small, large = [20.0, 20.0, 43.0, 43.0], [0.0, 0.0, 63.0, 63.0]
    (found,) = assign(levels, boxes(small, large), torch.tensor([2]))
    anchors = torch.cat(levels)
    both = overlap(anchors[:, None], boxes(small, large)[0])
    (first,) = assign(levels, boxes(small), torch.tensor([1]))
    (second,) = assign(levels, boxes(large), torch.tensor([1]))
    claimed = (first == 0) & (second == 0)
    assert claimed.any()
    assert torch.equal(found[claimed], both[claimed].argmax(1))


def test_positive_anchors_are_those_of_a_plain_reading_of_the_card() -> None:
    rng = np.random.default_rng(0)
    levels = anchors_of(sizes(96, 128), "cpu")
    anchors = torch.cat(levels).double()
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    corner = rng.uniform(0, 60, (7, 2))
    given = torch.from_numpy(np.concatenate((corner, corner + rng.uniform(8, 60, (7, 2))), 1))
    best = torch.full((len(anchors),), -1.0, dtype=torch.float64)
    wanted = torch.full((len(anchors),), -1)
    for number, box in enumerate(given):
        chosen, start = [], 0
        for level in levels:
            here = slice(start, start + len(level))
            distance = (centres[here] - (box[:2] + box[2:]) / 2).norm(dim=1)
            chosen += [start + place for place in distance.argsort()[:9].tolist()]
            start += len(level)
        found = overlap(anchors[chosen], box)
        for place, value in zip(chosen, found.tolist(), strict=True):
            x, y = centres[place]
            inside = min(x - box[0], y - box[1], box[2] - x, box[3] - y) > 0.01
            if value >= float(found.mean() + found.std()) and inside and value > best[place]:
                best[place], wanted[place] = value, number
    (found,) = assign(levels, given.float()[None], torch.tensor([7]))
    assert (wanted >= 0).sum() > 7
    assert torch.equal(found, wanted)


def test_padding_rows_of_boxes_claim_nothing() -> None:
    levels = anchors_of(sizes(), "cpu")
    box, other = [4.0, 4.0, 51.0, 51.0], [10.0, 10.0, 60.0, 60.0]
    padded = torch.cat((boxes(box, other), boxes(other, other)))
    found = assign(levels, padded, torch.tensor([1, 0]))
    assert torch.equal(found[0], assign(levels, boxes(box), torch.tensor([1]))[0])
    assert (found[1] == -1).all()


def test_two_thousand_boxes_are_assigned() -> None:
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 200, (2000, 2))
    many = torch.from_numpy(np.concatenate((corner, corner + rng.uniform(2, 50, (2000, 2))), 1)).float()[None]
    found = assign(anchors_of(sizes(256, 256), "cpu"), many, torch.tensor([2000]))
    assert found.max() < 2000 and (found >= 0).sum() > 500


def test_centreness_is_one_in_the_middle_and_nothing_outside() -> None:
    anchor = torch.tensor([[0.0, 0.0, 10.0, 10.0]])  # its centre is 5, 5
    given = torch.tensor([[0.0, 0.0, 10.0, 10.0], [4.0, 0.0, 14.0, 10.0], [6.0, 0.0, 16.0, 10.0]])
    assert centreness(given, anchor).tolist() == pytest.approx([1, math.sqrt(1 / 9), 0])


def test_the_box_loss_has_plain_areas_and_mends_crossed_corners() -> None:
    one, far = torch.tensor([0.0, 0.0, 4.0, 4.0]), torch.tensor([8.0, 0.0, 12.0, 4.0])
    assert float(generalised_iou_loss(one, one)) == pytest.approx(0, abs=1e-6)
    assert float(generalised_iou_loss(one, far)) == pytest.approx(1 + (48 - 32) / 48)
    crossed = torch.tensor([2.0, 0.0, 1.0, 4.0])
    assert float(generalised_iou_loss(crossed, one)) == pytest.approx(1, abs=1e-6)  # no width, inside of the other


def targets(count: int, words: list[int], tokens: int = 6, seen: int = 4) -> Targets:
    marked = torch.zeros(1, 1, tokens, dtype=torch.bool)
    marked[0, 0, words] = True
    return Targets(
        boxes([4.0, 4.0, 51.0, 51.0]),
        torch.tensor([count]),
        marked,
        torch.arange(tokens)[None] < torch.tensor([[seen]]),
    )


def guess(tokens: int = 6) -> Predictions:
    torch.manual_seed(1)
    number = sum(height * width for height, width in sizes())
    given = [torch.randn(1, number, *shape).requires_grad_() for shape in ((4,), (), (tokens,))]
    return Predictions(sizes(), *given)


def test_anchors_without_a_box_answer_with_the_last_token() -> None:
    wanted = anchor_targets(sizes(), targets(1, [1, 2]))
    free = wanted.owner[0] < 0
    assert wanted.words[0][free].unique(dim=0).tolist() == [[0, 0, 0, 0, 0, 1]]
    assert wanted.words[0][~free].unique(dim=0).tolist() == [[0, 1, 1, 0, 0, 0]]


def test_the_last_token_counts_only_where_the_text_fills_all_of_them() -> None:
    found = guess()
    short, full = (grounding_terms(found, targets(0, [], seen=seen))["alignment"].sum for seen in (5, 6))
    last = found.alignment[0, :, -1].detach()
    assert float((full - short).detach()) == pytest.approx(
        float((0.25 * (1 - last.sigmoid()) ** 2 * -torch.nn.functional.logsigmoid(last)).sum()), rel=1e-4
    )
    changed = Predictions(found.sizes, found.boxes, found.centreness, found.alignment.detach().clone())
    changed.alignment[..., 5] += 3
    assert grounding_terms(changed, targets(0, [], seen=5))["alignment"].sum == short


def test_without_a_box_only_the_alignment_is_learnt_and_gradients_are_finite() -> None:
    found = guess()
    terms = grounding_terms(found, targets(0, []))
    assert [float(one.sum.detach()) > 0 for one in terms.values()] == [True, False, False]
    assert [float(one.count) for one in terms.values()] == [0, 0, 0]
    sum(one.sum for one in terms.values()).backward()
    assert not found.boxes.grad.any() and not found.centreness.grad.any()
    assert found.alignment.grad[..., :4].all() and not found.alignment.grad[..., 4:].any()


def test_terms_are_counted_over_the_whole_global_batch() -> None:
    given = targets(1, [1])
    terms, counts = grounding_terms(guess(), given), term_counts(sizes(), given)
    assert {name: one.scope for name, one in terms.items()} == dict.fromkeys(terms, Scope.GLOBAL)
    assert counts.keys() == terms.keys()
    assert all(float(counts[name]) == float(one.count) > 0 for name, one in terms.items())
    assert {name: (one.weight, one.least) for name, one in terms.items()} == {
        "alignment": (1, 1),
        "box": (2, 0),
        "centreness": (1, 1),
    }


def test_two_pictures_together_are_the_sums_of_each() -> None:
    first, second = targets(1, [1]), targets(0, [])
    found = guess()
    both = Predictions(sizes(), *(torch.cat((one, one)) for one in (found.boxes, found.centreness, found.alignment)))
    joined = Targets(
        torch.cat((first.boxes, second.boxes)),
        torch.cat((first.counts, second.counts)),
        torch.cat((first.words, second.words)),
        torch.cat((first.mask, second.mask)),
    )
    together = grounding_terms(both, joined)
    alone = [grounding_terms(found, one) for one in (first, second)]
    for name, term in together.items():
        assert term.sum.item() == pytest.approx(sum(one[name].sum.item() for one in alone), rel=1e-5)
        assert float(term.count) == pytest.approx(sum(float(one[name].count) for one in alone))
