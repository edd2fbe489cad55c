"""CLIP's parity cases: losses in one process and over ranks, the recipe, the zero-shot classifier."""

from __future__ import annotations

import socket
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
import torch.nn.functional as functional
from recipe import Case
from torch import Tensor

from lumiray.data.picture import resize_for_evaluation
from lumiray.evaluate.retrieval import multi_caption_recall, retrieval_metrics
from lumiray.evaluate.zero_shot import class_embeddings, zero_shot_logits
from lumiray.system import Schedule
from lumiray.train.schedule import learning_rate
from lumizoo.blocks.contrast import NEVER_TILE, sigmoid_contrast, softmax_contrast
from lumizoo.blocks.distill import caption_loss, distillation_loss
from lumizoo.blocks.gather import gather_rows
from lumizoo.clip.captions import Tokenizer
from lumizoo.clip.config import ClipConfig
from lumizoo.clip.decay import no_decay
from lumizoo.clip.form import OPENAI_MEAN, OPENAI_STD
from lumizoo.clip.network import make_model


def pairs(case: Case) -> tuple[Tensor, Tensor]:
    """Normalised features of the notes: text = normalised (text_raw + 0.5 image_raw)."""
    inputs = {name: torch.from_numpy(value) for name, value in case.inputs().items()}
    image = functional.normalize(inputs["image_raw"], dim=1)
    return image, functional.normalize(inputs["text_raw"] + 0.5 * inputs["image_raw"], dim=1)


def arrays(values: dict[str, Any]) -> dict[str, np.ndarray]:
    """Everything as float32 arrays of at least one dimension."""
    return {name: np.atleast_1d(np.asarray(value, dtype=np.float32)) for name, value in values.items()}


def with_gradients(prefix: str, loss: Tensor, **leaves: Tensor) -> dict[str, Any]:
    """A loss and its gradients under the case's names."""
    gradients = torch.autograd.grad(loss, list(leaves.values()))
    named = {f"{prefix}_grad_{name}": gradient.numpy() for name, gradient in zip(leaves, gradients, strict=True)}
    return {f"{prefix}_loss": loss.item()} | named


def losses(case: Case) -> dict[str, np.ndarray]:
    """Softmax (dense, and equal in tiles), sigmoid, distillation and caption losses with gradients."""
    config, inputs = case.spec["config"], case.inputs()
    image, text = (value.requires_grad_() for value in pairs(case))
    scale = torch.tensor(config["logit_scale"], requires_grad=True)
    bias = torch.tensor(config["logit_bias"], requires_grad=True)
    teacher = [functional.normalize(torch.from_numpy(inputs[f"teacher_{one}_raw"]), dim=1) for one in ("image", "text")]
    count = len(image)
    got: dict[str, Any] = {}
    for tile in (NEVER_TILE, 7):  # the tiled form overwrites the dense one: both must be right
        contrastive = softmax_contrast(image, text, scale, tile=tile) / count
        distilled = distillation_loss(image, text, scale, *teacher, torch.tensor(config["teacher_logit_scale"]))
        sigmoid = sigmoid_contrast(image, text, scale, bias, tile=tile) / count
        new = with_gradients("softmax", contrastive, image=image, text=text, scale=scale)
        contrastive = softmax_contrast(image, text, scale, tile=tile) / count
        new |= with_gradients("distill_sum", contrastive + distilled, image=image, text=text, scale=scale)
        new |= with_gradients("sigmoid", sigmoid, image=image, text=text, scale=scale, bias=bias)
        new |= {"distill_contrastive": contrastive.item(), "distill_only": distilled.item()}
        for name, value in new.items():
            assert name not in got or np.allclose(got[name], value, atol=2e-6), f"{name} differs in tiles"
        got |= new
    logits, labels = torch.from_numpy(inputs["caption_logits"]), torch.from_numpy(inputs["caption_labels"])
    total, kept = caption_loss(logits, labels, config["pad_id"])
    got["coca_contrastive"] = config["clip_loss_weight"] * contrastive.item()
    got["coca_caption"] = config["caption_loss_weight"] * (total / kept).item()
    return arrays(got)


def distributed_losses(case: Case) -> dict[str, np.ndarray]:
    """Every variant on real processes; arrays are stacked by rank."""
    config = case.spec["config"]
    image, text = pairs(case)
    ranks = config["ranks"]
    with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        arguments = (ranks, port, folder, image, text, config["logit_scale"], config["logit_bias"])
        multiprocessing.spawn(_rank, arguments, nprocs=ranks)
        parts = [torch.load(Path(folder) / f"{rank}.pt", weights_only=True) for rank in range(ranks)]
    got = {name: np.stack([part[name].numpy() for part in parts]) for name in parts[0]}
    image, text = image.requires_grad_(), text.requires_grad_()
    scale = torch.tensor(config["logit_scale"], requires_grad=True)
    loss = softmax_contrast(image, text, scale) / len(image)
    return arrays(got | with_gradients("exact", loss, image=image, text=text, scale=scale))


def _rank(
    rank: int, ranks: int, port: int, folder: str, image: Tensor, text: Tensor, scale: float, bias: float
) -> None:
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=ranks)
    own = slice(rank * len(image) // ranks, (rank + 1) * len(image) // ranks)
    got: dict[str, Any] = {}
    for variant in ("softmax_global", "softmax_global_gather_grad", "softmax_local", "softmax_local_gather_grad"):
        got |= _leaves_and_loss(
            variant, lambda i, t, s, b, v=variant: _variant(v, i, t, s), image[own], text[own], scale, bias
        )
    for name, tile in (("softmax_local_gather_grad", NEVER_TILE), ("ring", 4)):  # ring: a memory-bounded exact form
        got |= _leaves_and_loss(
            name,
            lambda i, t, s, b, tile=tile: softmax_contrast(i, t, s, tile=tile) / len(i),
            image[own],
            text[own],
            scale,
            bias,
        )
    for tile in (NEVER_TILE, 4):
        got |= _leaves_and_loss(
            "sigmoid_gather",
            lambda i, t, s, b, tile=tile: sigmoid_contrast(i, t, s, b, tile=tile) / len(i),
            image[own],
            text[own],
            scale,
            bias,
        )
    torch.save({name: torch.as_tensor(value) for name, value in got.items()}, f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def _leaves_and_loss(name: str, loss_of: Any, image: Tensor, text: Tensor, scale: float, bias: float) -> dict[str, Any]:
    image, text = image.clone().requires_grad_(), text.clone().requires_grad_()
    leaves = {"scale": torch.tensor(scale, requires_grad=True), "bias": torch.tensor(bias, requires_grad=True)}
    loss = loss_of(image, text, leaves["scale"], leaves["bias"])
    if not name.startswith("sigmoid"):
        del leaves["bias"]
    return with_gradients(name, loss, image=image, text=text, **leaves)


def _variant(variant: str, image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """The forms that nobody should train with, composed here from the product's gather."""
    rank, count = dist.get_rank(), len(image)
    images, texts = gather_rows(image), gather_rows(text)
    labels = torch.arange(len(images))
    if "gather_grad" not in variant:
        images, texts = images.detach().clone(), texts.detach().clone()
        if "global" in variant:  # the own piece is put back with gradient
            images = torch.cat([images[: rank * count], image, images[(rank + 1) * count :]])
            texts = torch.cat([texts[: rank * count], text, texts[(rank + 1) * count :]])
    if "global" in variant:
        rows = ((images, texts), (texts, images))
    else:
        rows, labels = ((image, texts), (text, images)), labels[rank * count : (rank + 1) * count]
    return sum(functional.cross_entropy(scale * one @ other.T, labels) for one, other in rows) / 2


def recipe(case: Case) -> dict[str, np.ndarray]:
    """Schedules, tokens, retrieval figures, evaluation pixels."""
    config = case.spec["config"]
    warmup, lr = config["warmup"], config["lr"]
    schedules = {
        "cosine": Schedule("cosine", warmup),
        "const": Schedule("constant", warmup),
        "const_cooldown": Schedule(
            "constant-cooldown", warmup, config["cooldown_steps"], config["cooldown_power"], config["cooldown_end"]
        ),
    }
    got: dict[str, Any] = {
        f"lr_{name}": [1e4 * learning_rate(schedule, lr, step, config["steps"]) for step in config["at"]]
        for name, schedule in schedules.items()
    }
    for name, length in (("tokens", 77), ("tokens_16", 16)):
        got[name] = np.stack([Tokenizer(length)(text) for text in config["texts"]])
    image, text = pairs(case)
    for name, value in retrieval_metrics(image, text, chunk=7).items():
        got["retrieval_" + name.replace("R@", "R_at_")] = value
    each = config["captions_per_image"]
    owner = torch.arange(len(text)) // each
    for name, value in multi_caption_recall(image[::each], text, owner, ks=(1, 5)).items():
        got["multi_" + name.replace("recall@", "recall_at_")] = value
    picture = np.round(case.inputs()["picture"] * 255).astype(np.uint8)
    for mode in ("shortest", "longest", "squash"):
        pixels = resize_for_evaluation(picture, config["image_size"], mode).transpose(2, 0, 1) / 255
        mean, std = (np.array(values).reshape(3, 1, 1) for values in (OPENAI_MEAN, OPENAI_STD))
        got[f"pixels_{mode}"] = (pixels - mean) / std
    return arrays(got)


def zero_shot(case: Case) -> dict[str, np.ndarray]:
    """The classifier of a tiny CLIP, and which of its parameters escape weight decay."""
    import json

    from check import fill

    config = case.spec["config"]
    settings = {name: config[name] for name in ("embed_dim", "vision_cfg", "text_cfg", "quick_gelu")}
    model = make_model(ClipConfig(model=json.dumps(settings))).eval()
    fill(model, case)
    trainable = sum(value.numel() for value in model.parameters())
    assert trainable == case.spec["trainable_parameters"], f"{trainable} parameters"
    tokenizer = Tokenizer(config["text_cfg"]["context_length"])

    def tokens(texts: list[str]) -> Tensor:
        return torch.from_numpy(np.stack([tokenizer(text) for text in texts])).long()

    texts = [template.format(name) for name in config["classnames"] for template in config["templates"]]
    with torch.no_grad():
        image = functional.normalize(model.encode_image(torch.from_numpy(case.inputs()["pixels"])), dim=1)
        classifier = class_embeddings(
            lambda texts: model.encode_text(tokens(texts)), config["classnames"], config["templates"]
        )
        got: dict[str, Any] = {
            "tokens": tokens(texts),
            "text_features_unnormalised": model.encode_text(tokens(texts)).numpy(),
            "classifier": classifier.numpy(),
            "image_features": image.numpy(),
            "logits": zero_shot_logits(image, classifier).numpy(),
            "logit_scale_exp": model.logit_scale.exp().numpy(),
        }
    names = [name for name, _, _ in case.spec["tensors"]]
    for rule in ("release-3", "head"):
        exempt = no_decay(model, rule)
        got[f"no_weight_decay_{rule.replace('-', '_')}"] = [float(name in exempt) for name in names]
    return arrays(got)


KINDS = {
    "losses": losses,
    "distributed-losses": distributed_losses,
    "recipe": recipe,
    "zero-shot": zero_shot,
}
