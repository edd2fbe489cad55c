"""GLIP's parity cases: blocks of the network and the whole, targets, losses, tokens, what is found in the end."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from check import fill
from recipe import Case
from torch import Tensor, nn

from lumizoo.glip.anchors import anchors_of, encode, level_sizes
from lumizoo.glip.config import GlipConfig
from lumizoo.glip.detect import Rules, detections
from lumizoo.glip.dynamic_head import DynamicConv
from lumizoo.glip.fusion import Fusion, flat
from lumizoo.glip.head import Head, Predictions
from lumizoo.glip.language import CLAMP
from lumizoo.glip.losses import Targets, anchor_targets, grounding_terms, positives
from lumizoo.glip.network import Glip
from lumizoo.glip.prompts import ClassName, prompt
from lumizoo.glip.tokens import Tokenizer, binary_map, positive_map

LEVELS = ("p3", "p4", "p5", "p6", "p7")


def tensors(case: Case) -> dict[str, Tensor]:
    """The case's inputs."""
    return {name: torch.from_numpy(value) for name, value in case.inputs().items()}


def masks(lengths: list[int], tokens: int) -> Tensor:
    """The first tokens of each text, bool `(B, T)`."""
    return torch.arange(tokens) < torch.tensor(lengths)[:, None]


def filled(module: nn.Module, case: Case) -> nn.Module:
    """A module with the case's weights, whose names end as its own do; in eval mode."""
    first = next(iter(module.state_dict()))
    whole = next(name for name, _, _ in case.spec["tensors"] if name.endswith("." + first) or name == first)
    fill(module, case, lambda name: name.removeprefix(whole.removesuffix(first)))
    trainable = sum(value.numel() for value in module.parameters() if value.requires_grad)
    assert trainable == case.spec["trainable_parameters"], f"{trainable} parameters"
    return module.eval()


def plain(found: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """Tensors as arrays."""
    return {name: value.detach().numpy() for name, value in found.items()}


@torch.no_grad()
def fusion_block(case: Case) -> dict[str, np.ndarray]:
    """Levels and text after one block of fusion."""
    config, inputs = case.spec["config"], tensors(case)
    assert config["clamp"] == CLAMP
    block = filled(Fusion(config["v_dim"], config["l_dim"], config["embed_dim"], config["num_heads"], 1.0), case)
    text = inputs["text"]
    mask = masks(config["text_lengths"], text.shape[1])
    text, *levels = block(text, mask, *(inputs[name] for name in LEVELS))
    return plain({"visual": flat(levels), "text": text})


@torch.no_grad()
def dyhead_block(case: Case) -> dict[str, np.ndarray]:
    """Levels after one dynamic convolution."""
    config, inputs = case.spec["config"], tensors(case)
    block = filled(DynamicConv(config["channels"], config["group_norm_groups"]), case)
    return plain(dict(zip(LEVELS, block(*(inputs[name] for name in LEVELS)), strict=True)))


@torch.no_grad()
def alignment_head(case: Case) -> dict[str, np.ndarray]:
    """Predictions from given results of the tower."""
    config, inputs = case.spec["config"], tensors(case)
    head = Head(GlipConfig(channels=config["channels"], bert_width=config["text_dim"], bert_heads=1, blocks=1))
    del head.dyhead_tower
    filled(head, case)
    levels = [inputs[name] for name in LEVELS]
    return plain(predicted(Predictions.of(levels, head.read(levels, inputs["text"]))))


def predicted(found: Predictions) -> dict[str, Tensor]:
    """Predictions by the names of the cases."""
    return {
        "box_regression": found.boxes,
        "centerness": found.centreness,
        "alignment_logits": found.alignment,
    }


def network_config(config: dict[str, Any]) -> GlipConfig:
    """Our settings of a case's network."""
    swin, bert, head = config["backbone"], config["bert"], config["head"]
    return GlipConfig(
        swin_width=swin["embed_dim"],
        swin_depths=tuple(swin["depths"]),
        swin_heads=tuple(swin["num_heads"]),
        swin_window=swin["window_size"],
        bert_width=bert["hidden_size"],
        bert_layers=bert["num_hidden_layers"],
        bert_heads=bert["num_attention_heads"],
        bert_hidden=bert["intermediate_size"],
        bert_positions=bert["max_position_embeddings"],
        vocabulary_size=bert["vocab_size"],
        channels=head["channels"],
        blocks=head["num_blocks"],
        norm_groups=head["group_norm_groups"],
        fusion=head["fusion"],
        fusion_width=head["fusion_embed_dim"],
        fusion_heads=head["fusion_heads"],
        max_tokens=head["max_tokens"],
    )


@torch.no_grad()
def network(case: Case) -> dict[str, np.ndarray]:
    """The whole network, and what passes between its parts."""
    config, inputs = case.spec["config"], tensors(case)
    net = filled(Glip(network_config(config)), case)
    mask = masks(config["text_lengths"], inputs["input_ids"].shape[1])
    maps = net.backbone["body"](inputs["image"])
    levels = net.backbone["fpn"](maps)
    hidden, embedded = net.language_backbone(inputs["input_ids"], mask)
    tower, text = net.rpn["head"].dyhead_tower(levels, hidden, mask)
    parts = {
        "backbone": torch.cat([one.flatten(1) for one in maps], 1),
        "pyramid": flat(levels),
        "text_embedded": embedded,
        "tower_visual": flat(tower),
        "tower_text": text,
    }
    return plain(parts | predicted(net(inputs["image"], inputs["input_ids"], mask)))


def targets_of(case: Case, lengths: list[int]) -> Targets:
    """Boxes and maps of a case as its notes define them."""
    config, inputs = case.spec["config"], case.inputs()
    height, width = np.float32(config["image_height"]), np.float32(config["image_width"])
    unit = inputs["boxes"]
    left, top = np.float32(0.6) * width * unit[:, 0], np.float32(0.6) * height * unit[:, 1]
    right = np.minimum(left + 12 + np.float32(0.38) * width * unit[:, 2] - 1, width - 1)
    bottom = np.minimum(top + 12 + np.float32(0.38) * height * unit[:, 3] - 1, height - 1)
    boxes, words = torch.from_numpy(np.stack((left, top, right, bottom), 1)), torch.from_numpy(inputs["positive_map"])
    counts = config["boxes_per_image"]
    padded = [nn.utils.rnn.pad_sequence(one.split(counts), batch_first=True) for one in (boxes, words)]
    tokens = words.shape[1]
    mask = masks(lengths, tokens) if lengths else torch.ones(len(counts), tokens, dtype=torch.bool)
    return Targets(padded[0], torch.tensor(counts), padded[1] != 0, mask)


def atss_targets(case: Case) -> dict[str, np.ndarray]:
    """Anchors and what each should answer with."""
    config = case.spec["config"]
    targets = targets_of(case, [])
    sizes = level_sizes(config["image_height"], config["image_width"])
    wanted = anchor_targets(sizes, targets, config["topk"])
    labels = torch.from_numpy(case.inputs()["labels"]) + 1
    of_box = nn.utils.rnn.pad_sequence(labels.split(config["boxes_per_image"]), batch_first=True)
    matched = wanted.owner >= 0
    code = encode(wanted.boxes, wanted.anchors.expand_as(wanted.boxes))
    return plain(
        {
            "anchors": torch.cat(anchors_of(sizes, "cpu")),
            "labels": torch.where(matched, of_box.gather(1, wanted.owner.clamp(min=0)), 0).float(),
            "matched_regression": torch.where(matched[..., None], code, 0.0),
            "token_labels": wanted.words,
        }
    )


def losses(case: Case) -> dict[str, np.ndarray]:
    """The three losses on given predictions, as one process has them."""
    config, inputs = case.spec["config"], tensors(case)
    targets = targets_of(case, config["text_lengths"])
    sizes = level_sizes(config["image_height"], config["image_width"])
    found = Predictions(
        sizes,
        config["box_regression_scale"] * inputs["box_regression"],
        inputs["centerness"],
        config["alignment_scale"] * inputs["alignment_logits"] + config["alignment_shift"],
    )
    terms = grounding_terms(found, targets)
    values = {name: one.weight * one.sum / max(float(one.count), one.least) for name, one in terms.items()}
    wanted = anchor_targets(sizes, targets)
    _, central = positives(wanted)
    return plain(
        {
            "positives": (wanted.owner >= 0).sum(1).float(),
            "centerness_targets": central[wanted.owner >= 0],
            "loss_reg": values["box"],
            "loss_centerness": values["centreness"],
            "loss_dot_product_token": values["alignment"],
            "total": torch.stack(list(values.values())).sum(),
        }
    )


def tokens(case: Case) -> dict[str, np.ndarray]:
    """Spans, token ids and maps of a detection prompt and of a caption."""
    config = case.spec["config"]
    assert config["lower_case"] and config["separator"] == ". "
    tokenizer = Tokenizer(config["vocabulary"], config["max_tokens"])
    names = config["class_names"]
    joined = prompt([ClassName(name) for name in names], range(len(names)))
    assert joined.text == config["detection_caption"], joined.text
    detection, caption = tokenizer(joined.text), tokenizer(config["caption"])
    spans = [[(begin, end) for begin, end in several] for several in config["phrase_spans"]]
    found = {
        "detection_spans": joined.spans,
        "detection_input_ids": detection.ids[detection.mask][None],
        "detection_positive_map": positive_map(detection, [(span,) for span in joined.spans]),
        "caption_input_ids": caption.ids[caption.mask][None],
        "caption_positive_map": positive_map(caption, spans),
        "caption_binary_map": binary_map(caption, spans),
    }
    return {name: np.asarray(value, np.float32) for name, value in found.items()}


def post_process(case: Case) -> dict[str, np.ndarray]:
    """Detections of given predictions."""
    config, inputs = case.spec["config"], tensors(case)
    height, width = config["image_height"], config["image_width"]
    found = Predictions(
        level_sizes(height, width),
        config["box_regression_scale"] * inputs["box_regression"],
        inputs["centerness"],
        config["alignment_scale"] * inputs["alignment_logits"] + config["alignment_shift"],
    )
    words = torch.zeros(len(config["label_to_tokens"]), found.alignment.shape[2], dtype=torch.bool)
    for label, places in config["label_to_tokens"].items():
        words[int(label) - 1, places] = True
    assert config["score_agg"] == "MEAN"
    rules = Rules(
        least_score=config["score_threshold"],
        most_of_level=config["pre_nms_top_n"],
        overlap=config["nms_threshold"],
        limit=config["detections_per_image"],
    )
    (one,) = detections(found, words, (height, width), rules)
    return plain({"boxes": one.boxes, "scores": one.scores, "labels": one.labels.float()})


KINDS = {
    "alignment_head": alignment_head,
    "atss_targets": atss_targets,
    "dyhead_block": dyhead_block,
    "fusion_block": fusion_block,
    "losses": losses,
    "network": network,
    "positive_map": tokens,
    "post_process": post_process,
}
