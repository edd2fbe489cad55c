"""Published files into the network, and back in the same layout (card glip, Checkpoint layout, Training)."""

from __future__ import annotations

from torch import Tensor, nn

from lumiray.errors import UserError
from lumizoo.blocks.published import load_strictly, read_state, whole_path
from lumizoo.glip.anchors import cell_anchors
from lumizoo.glip.network import TABLE, Glip

ANCHORS = "rpn.anchor_generator.cell_anchors."
POSITIONS = "embeddings.position_ids"  # that BERT may bring
TOWERS = {  # where their files come from
    "swin_weights": "the classifier of ImageNet-1k, for GLIP-L of 22k at 384 pixels, that Swin's authors publish",
    "bert_weights": "bert-base-uncased of the model hub (pytorch_model.bin or model.safetensors)",
}
OLD_NORMS = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}


def tower_file(path: str | None, name: str) -> str | None:
    """The absolute path of a tower's file, `swin_weights` or `bert_weights`; None stays None.

    Raises:
        UserError: it is not there; says what it should be.
    """
    try:
        return whole_path(path, name.replace("_", "-"))
    except UserError as error:
        raise UserError(f"{error} It is {TOWERS[name]}; without this option the tower starts from scratch.") from None


def load_published(network: Glip, path: str) -> None:
    """Fill the network from a published checkpoint; anchors and positions, which are computed, are passed over.

    A table of prompt tuning that the file lacks stays as it is.

    Raises:
        UserError: the file is missing, holds more than tensors, or does not fit (names are told).
    """
    state = read_state(path)
    taken = {
        name: value for name, value in state.items() if not name.startswith(ANCHORS) and not name.endswith(POSITIONS)
    }
    own = {name: value for name, value in network.state_dict().items() if name == TABLE}
    load_strictly(network, own | taken, path)


def to_published(state: dict[str, Tensor], key: str) -> dict[str, Tensor]:
    """Tensors `KEY.name` under the published names, anchors added."""
    prefix = f"{key}."
    found = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    return found | {f"{ANCHORS}{level}": anchor for level, anchor in enumerate(cell_anchors())}


def load_swin(body: nn.Module, path: str) -> None:
    """Fill Swin from a classifier's file: its last norm and head are left out, norms of the maps start anew.

    Raises:
        UserError: as `load_published`.
    """
    option = "swin-weights"
    state = read_state(path, option)
    fresh = {name: value for name, value in body.state_dict().items() if name.startswith("norm")}
    taken = {
        name: value
        for name, value in state.items()
        if not name.startswith(("head.", "norm.")) and not name.endswith("attn_mask")
    }
    load_strictly(body, fresh | taken, path, option)


def load_bert(model: nn.Module, path: str) -> None:
    """Fill BERT from a file of bert-base-uncased; its pooler and the layers of pre-training are left out.

    Raises:
        UserError: as `load_published`.
    """
    option = "bert-weights"
    state = {_bert_name(name): value for name, value in read_state(path, option).items()}
    taken = {
        name: value
        for name, value in state.items()
        if not name.startswith(("cls.", "pooler.")) and not name.endswith(POSITIONS)
    }
    load_strictly(model, taken, path, option)


def _bert_name(name: str) -> str:
    name = name.removeprefix("bert.")
    for old, new in OLD_NORMS.items():
        name = name.replace(old, new)
    return name
