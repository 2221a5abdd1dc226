"""The network of given feature maps and a sentence: gates, and the way from coarse."""

from collections.abc import Sequence

from flax import nnx

from attnjax.nn.top_down import TopDown
from attnjax.variants.cross.sentence_attention.layer import Layer

# Channels of the maps before every stride and after the last block, the finest first.
CHANNELS: dict[str, tuple[int, ...]] = {
  "efficientnet_b0": (24, 24, 40, 112, 320),
  "efficientnet_b1": (24, 24, 40, 112, 320),
  "efficientnet_b2": (24, 24, 48, 120, 352),
  "efficientnet_b3": (24, 32, 48, 136, 384),
  "efficientnet_b4": (24, 32, 56, 160, 448),
  "efficientnet_b5": (24, 40, 64, 176, 512),
  "efficientnet_b6": (32, 40, 72, 200, 576),
  "efficientnet_b7": (32, 48, 80, 224, 640),  # the paper's
}


def GroundingNet(
  channels: Sequence[int] = CHANNELS["efficientnet_b7"],
  sentence_width: int = 384,
  outputs: int = 2,
  *,
  expansion: int = 4,
  gate: str = "softmax",
  dropout: float = 0.5,
  impl: str = "auto",
  rngs: nnx.Rngs,
) -> TopDown:
  """Builds the decoder: maps of a backbone and sentences -> logits of every pixel.

  Args:
    channels: of each map, the finest first.
    sentence_width: E, 384 in MiniLM.
    outputs: classes of a pixel.
    expansion: as in `Layer`.
    gate: as in `Layer`.
    dropout: share of the units in front of the last map that training drops.
    impl: as in `Layer`.
    rngs: for the parameters.
  """
  options = {"expansion": expansion, "gate": gate, "impl": impl}
  layers = [
    Layer({"image": width, "text": sentence_width}, **options, rngs=rngs)
    for width in channels
  ]
  return TopDown(layers, channels, outputs, dropout=dropout, rngs=rngs)
