"""Facts of CLIP (card clip)."""

from __future__ import annotations

from lumiray.about import About

ABOUT = About(
    name="CLIP",
    task="contrastive pretraining of a picture and a text tower: zero-shot classification and retrieval",
    paper="Radford et al., ICML 2021, arXiv 2103.00020; Cherti et al., CVPR 2023, arXiv 2212.07143",
    code="github.com/openai/CLIP and github.com/mlfoundations/open_clip",
    code_licence="MIT (both)",
    weights_licence="that of each published weight; those of openai come with its code, which is MIT",
    figures={
        "ViT-B/32 openai": "ImageNet top-1 63.3; Flickr30k R@1 78.9 / 58.8; COCO R@1 50.1 / 30.4",
        "ViT-B/16 openai": "ImageNet top-1 68.3; Flickr30k R@1 82.2 / 62.2; COCO R@1 52.4 / 33.1",
        "ViT-L/14 openai": "ImageNet top-1 75.5; Flickr30k R@1 85.2 / 65.0; COCO R@1 56.3 / 36.5",
        "RN50 openai": "ImageNet top-1 59.8; Flickr30k R@1 80.0 / 57.4; COCO R@1 48.8 / 28.5",
        "ViT-B/32 laion2b_s34b_b79k": "ImageNet top-1 66.6; Flickr30k R@1 84.1 / 66.8; COCO R@1 56.3 / 39.3",
        "ViT-B/16 laion2b_s34b_b88k": "ImageNet top-1 70.2; Flickr30k R@1 86.3 / 69.8; COCO R@1 59.4 / 42.3",
    },
    stages={"pretrain": "image-text"},
    tensors=("logit_scale", "visual.conv1.weight", "token_embedding.weight"),
    verified=("distributed-losses", "losses", "recipe", "zero-shot"),
)
