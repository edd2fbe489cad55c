"""Feature maps of VGG-16 and VGG-19, named and stored as in torchvision; never from random weights."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from lumizoo.blocks.published import load_strictly, read_state

WIDTHS = (64, 128, 256, 512, 512)  # channels of the blocks, between which pictures are halved
COUNTS = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}  # convolutions of each block


class Vgg(nn.Module):
    """The frozen convolutions up to the last layer that is wanted, `features.N`.

    Args:
        depth: 16 or 19.
        layers: names such as `conv3_4`, the fourth convolution of the third block, or `relu3_4`, the same after ReLU.
    """

    def __init__(self, depth: int, layers: Sequence[str]) -> None:
        super().__init__()
        named: dict[str, int] = {}
        parts: list[nn.Module] = []
        channels = 3
        for block, (count, width) in enumerate(zip(COUNTS[depth], WIDTHS, strict=True), start=1):
            for number in range(1, count + 1):
                named |= {f"conv{block}_{number}": len(parts), f"relu{block}_{number}": len(parts) + 1}
                parts += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
            parts.append(nn.MaxPool2d(2, 2))
        self.wanted = frozenset(named[name] for name in layers)
        self.features = nn.Sequential(*parts[: max(self.wanted) + 1])
        self.requires_grad_(False)

    def forward(self, pictures: Tensor) -> list[Tensor]:
        """Normalised pictures `(B, 3, H, W)` to one `(B, C, h, w)` for each layer, shallow ones first."""
        hidden, found = pictures, []
        for number, layer in enumerate(self.features):
            hidden = layer(hidden)
            if number in self.wanted:
                found.append(hidden)
        return found


def load_vgg(network: Vgg, path: str, option: str) -> None:
    """Fill a network from torchvision's file; layers behind the last wanted one are left out.

    Args:
        option: that named the file, for messages.

    Raises:
        UserError: the file is missing, holds more than tensors, or is another network's.
    """
    state, own = read_state(path, option), network.state_dict()
    load_strictly(network, {name: value for name, value in state.items() if name in own}, path, option)
