"""Published files into the networks, from one stage to the next, and out again (card codeformer, Checkpoint layout)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from lumiray.errors import UserError
from lumiray.system import Stage
from lumizoo.blocks.published import load_strictly, read_state
from lumizoo.codeformer.config import CodeformerConfig
from lumizoo.codeformer.network import CodeFormer
from lumizoo.codeformer.vqgan import Tokenizer

VQGAN_OPTION, DISCRIMINATOR_OPTION = "vqgan-weights", "discriminator-weights"
TOKENIZER_PARTS = ("encoder", "quantize")
TRANSFORMER_PART = "ft_layers."  # what no VQGAN has
PUBLISHED = ("codeformer", "vqgan")  # networks whose tensors have published names


def load_codeformer(network: CodeFormer, target: Tokenizer, config: CodeformerConfig, stage: Stage) -> None:
    """Fill CodeFormer and its targets from the files that the settings name.

    A stage that starts from stage vqgan takes that stage's file as its weights, too.

    Raises:
        UserError: a file is missing, holds more than tensors, or is of other networks or sizes.
    """
    forget(target)
    if config.vqgan_weights:
        load_vqgan(network, target, read_state(config.vqgan_weights, VQGAN_OPTION), config.vqgan_weights, VQGAN_OPTION)
    if config.weights:
        state = read_state(config.weights)
        if stage.start == "vqgan" and not any(name.startswith(TRANSFORMER_PART) for name in state):
            load_vqgan(network, target, state, config.weights, "weights")
        else:
            load_strictly(network, state, config.weights)


def load_vqgan(network: CodeFormer, target: Tokenizer, state: Mapping[str, Tensor], path: str, option: str) -> None:
    """Fill the tokenizer, and what CodeFormer has of a VQGAN, from the tensors of stage vqgan.

    Args:
        path, option: where they came from, for messages.

    Raises:
        UserError: they are no VQGAN of these sizes.
    """
    parts = {name: getattr(target, name) for name in TOKENIZER_PARTS} | {"generator": network.generator}
    load_strictly(nn.ModuleDict(parts), state, path, option)
    for name in TOKENIZER_PARTS:
        getattr(network, name).load_state_dict(getattr(target, name).state_dict())


def forget(target: Tokenizer) -> None:
    """Empty the codebook of a tokenizer that nothing has filled yet, so that `check_filled` can tell."""
    nn.init.zeros_(target.quantize.embedding.weight)


def check_filled(target: Tokenizer, stage: str) -> None:
    """Refuse to train towards codes of a random network, as the published option files would.

    Raises:
        UserError: neither a file nor a run has filled the tokenizer.
    """
    codebook = target.quantize.embedding.weight
    if codebook.numel() and not bool(codebook.any()):
        raise UserError(
            f"Stage {stage} has no VQGAN whose codes are its targets. Start it from a run of stage vqgan, or give the "
            "published file (vqgan_code1024.pth): --vqgan-weights."
        )


def carried_over(config: CodeformerConfig, stage: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors `KEY.name` of the stage before under the names of this one.

    What a stage's own options take from files is left to them.  The codes of stage vqgan become those of CodeFormer
    and the targets of both later stages; its discriminator is handed through stage codes, which does not use it.
    """
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        key, _, rest = name.partition(".")
        if key == "vqgan" and stage != "vqgan":
            found[f"codeformer.{rest}"] = value
            if rest.startswith(tuple(f"{part}." for part in TOKENIZER_PARTS)):
                found[f"target.{rest}"] = value
        else:
            found[name] = value
    files = {
        "codeformer": config.weights,
        "target": config.vqgan_weights,
        "discriminator": config.discriminator_weights,
    }
    return {name: value for name, value in found.items() if not files.get(name.partition(".")[0])}


def published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of CodeFormer, or of the VQGAN in its stage, under published names."""
    found = {}
    for name, value in state.items():
        key, _, rest = name.partition(".")
        if key in PUBLISHED:
            found[rest] = value
    return found


def is_real(tensor: Tensor) -> bool:
    """Whether a tensor has values: those of a rehearsal have shapes alone."""
    return type(tensor) in (Tensor, nn.Parameter)
