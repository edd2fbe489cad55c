"""Facts of GLIP (card glip)."""

from __future__ import annotations

from lumiray.about import About

ABOUT = About(
    name="GLIP",
    task="phrase grounding and detection: boxes around what a text speaks of",
    paper="Li, Zhang, Zhang et al., Grounded Language-Image Pre-training, CVPR 2022, arXiv 2112.03857",
    code="github.com/microsoft/GLIP",
    code_licence="MIT",
    weights_licence="none of their own is named; they are published with the code, which is MIT",
    figures={
        "GLIP-T": "COCO AP 46.6 zero-shot, 55.2 fine-tuned; LVIS minival AP_r 17.6 (best 20.1); ODinW-13 42.7",
        "GLIP-T (A), without fusion": "COCO AP 42.9 / 52.9; LVIS minival AP_r best 14.2; ODinW-13 28.7",
        "GLIP-T (B), Objects365": "COCO AP 44.9 / 53.8; LVIS minival AP_r best 13.5; ODinW-13 33.2",
        "GLIP-T (C), Objects365 and GoldG": "COCO AP 46.7 / 55.1; LVIS minival AP_r 14.3 (best 17.7); ODinW-13 44.4",
        "GLIP-L": "COCO AP 51.4 / 61.7 (multi-scale); LVIS minival AP_r 29.3 (best 30.1); ODinW-13 51.2",
    },
    stages={"pretrain": "grounding", "finetune": "grounding", "prompt": "grounding"},
    tensors=("rpn.head.bias_lang", "rpn.head.dot_product_projection_text.weight", "backbone.fpn.top_blocks.p6.weight"),
    verified=(
        "alignment_head",
        "atss_targets",
        "dyhead_block",
        "fusion_block",
        "losses",
        "network_small",
        "network_small_no_fusion",
        "network_swin_t",
        "positive_map",
        "post_process",
    ),
)
