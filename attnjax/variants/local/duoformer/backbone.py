"""DuoFormer, the paper's model: a convolutional network's maps, then the encoder."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from attnjax.nn import running
from attnjax.nn.backbone import Classifier
from attnjax.variants.local.duoformer.encoder import Encoder
from attnjax.variants.local.duoformer.layer import SPREAD
from attnjax.variants.local.duoformer.resnet import WIDTHS, ResNet
from attnjax.variants.local.duoformer.tokens import scale_tokens

_INIT = nnx.initializers.truncated_normal(0.02)
_KAIMING = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")
# The networks of table 1 of He et al., see `resnet`. For images of 28 x 28 there is
# "mini", which is invented: 2 x 2 cells of 16 x 16 pixels, with 21 tokens of 3 maps.
SIZES: dict[str, dict[str, Any]] = {
  "resnet18": {"blocks": (2, 2, 2, 2), "expansion": 1},
  "resnet34": {"blocks": (3, 4, 6, 3), "expansion": 1},
  "resnet50": {"blocks": (3, 4, 6, 3), "expansion": 4},
  "resnet101": {"blocks": (3, 4, 23, 3), "expansion": 4},
  "mini": {
    "blocks": (1, 1, 1),
    "widths": (16, 32, 64),
    "scales": 3,
    "dim": 64,
    "heads": 4,
    "depth": 2,
    "grid": (2, 2),
  },
}
PARAMETERS: dict[str, float] = {}  # the paper's, if it has them, were not had
PADDED = True  # images are, to whole cells


def Model(
  channels: int,
  classes: int,
  *,
  blocks: tuple[int, ...] = (2, 2, 2, 2),
  widths: tuple[int, ...] = WIDTHS,
  expansion: int = 1,
  scales: int = 4,
  dim: int = 768,
  heads: int = 12,
  depth: int = 12,
  grid: tuple[int, int] = (7, 7),
  mlp_ratio: float = 4.0,
  patch_block: str = "prenorm",
  head_norm: bool = True,
  remat: str = "none",
  impl: str = "auto",
  rngs: nnx.Rngs,
) -> Classifier:
  """Builds the network: images (B, H, W, channels) to logits (B, classes).

  Images are padded with zeros at their right and bottom to whole cells: 32 x 32 pixels
  with four stages. The scale token is one learned vector ("random" in the official
  code). The last of the features is the map of the cells' scale tokens.

  Beside the hyper-parameters of all networks, `attnjax.contract.forms.backbone`:

    blocks, widths, expansion  of the convolutional network, as in `resnet.ResNet`
    scales  how many of its maps are seen, the coarsest first
    dim     width of the encoder
    heads   of its attentions
    depth   number of its blocks of each kind
    grid, patch_block, head_norm  as in `Encoder`
  """
  if not 1 <= scales <= len(blocks):
    raise ValueError(f"scales = {scales}: it must be from 1 to {len(blocks)}")
  given = {"blocks": blocks, "widths": widths, "expansion": expansion}
  network = ResNet(channels, **given, remat=remat, rngs=rngs)
  lists = _Lists(network.dims[::-1][:scales], dim, rngs=rngs)
  options: dict[str, Any] = {"grid": grid, "mlp_ratio": mlp_ratio, "remat": remat}
  options |= {"patch_block": patch_block, "head_norm": head_norm, "impl": impl}
  encoder = Encoder(
    dim, heads=heads, depth=depth, tokens=lists.tokens, rngs=rngs, **options
  )
  head = nnx.Linear(dim, classes, kernel_init=_INIT, rngs=rngs)
  stages = _Multiscale(network, lists, encoder.scales)
  return Classifier(None, stages, head, pool=encoder.patches)


class _Multiscale(nnx.Module):
  """images -> the maps of the network, and the map of the cells' scale tokens."""

  init_stats = running.init_stats

  def __init__(self, network: ResNet, lists: "_Lists", scales: Any):
    self.network, self.lists, self.scales = network, lists, scales

  def __call__(
    self,
    images: Float[Array, "B H W C"],
    *,
    key: Key[Array, ""] | None = None,
    stats: Any = None,
    train: bool = False,
  ) -> Any:
    """Returns the maps (B, h, w, D), and new statistics if some are given."""
    carry = running.Carry(self, stats, train)
    maps = carry(self.network, self._whole(images))
    last = self.scales(self.lists(maps), key=key)[-1][:, :, 0]
    return carry.result([*maps, last.reshape(*maps[-1].shape[:3], -1)])

  def weights(
    self, images: Float[Array, "B H W C"], *, stats: Any = None
  ) -> list[Array]:
    """Returns the weights of the scale attentions."""
    maps = running.Carry(self, stats, False)(self.network, self._whole(images))
    return self.scales.weights(self.lists(maps))

  def _whole(self, images):
    """Returns images of whole cells."""
    cell = 2 ** (1 + len(self.network.dims))
    missing = ((0, -side % cell) for side in images.shape[1:3])
    return jnp.pad(images, ((0, 0), *missing, (0, 0)))


class _Lists(nnx.Module):
  """Maps, the finest first, to lists (B, P, n, D) with the scale token in place 0."""

  def __init__(self, below: tuple[int, ...], dim: int, *, rngs: nnx.Rngs):
    self.projections = nnx.List(
      nnx.Linear(width, dim, kernel_init=_KAIMING, rngs=rngs) for width in below
    )
    draw = nnx.initializers.truncated_normal(SPREAD)
    self.token = nnx.Param(draw(rngs.params(), (dim,)))
    self.tokens = 1 + sum(4**number for number in range(len(below)))

  def __call__(self, maps):
    lists = scale_tokens([p(x) for p, x in zip(self.projections, maps[::-1])])
    token = self.token[...].astype(lists.dtype)
    first = jnp.broadcast_to(token, (*lists.shape[:2], 1, token.size))
    return jnp.concatenate([first, lists], axis=2)
