"""A Vision Transformer on tiles at several scales: S2 in training and in use."""

import functools
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from attnjax.nn import running, transformer
from attnjax.nn.backbone import Classifier
from attnjax.nn.class_token import Mark, Marked, Rows, token
from attnjax.nn.patches import Patches
from attnjax.nn.stages import Stage, Stages
from attnjax.variants.softmax import dot_product
from attnjax.variants.tokens.scaling_on_scales.forward import (
  multiscale_forward,
  scaled_grids,
  split_tiles,
  tiles_a_side,
)
from attnjax.variants.tokens.scaling_on_scales.resize import bicubic

EPSILON = 1e-6  # of the norms
_INIT = nnx.initializers.truncated_normal(0.02)
# "base" is ViT-B/16 at the paper's two scales, "single" that at one. For images of 28 x
# 28 there is "mini", which is invented: 7 x 7 tokens a tile.
SIZES: dict[str, dict[str, Any]] = {
  "base": {},
  "single": {"scales": (1.0,)},
  "mini": {"dim": 48, "depth": 2, "heads": 3, "patch": 4, "grid": (7, 7)},
}
PARAMETERS = {"single": 86.57e6}  # of ViT-B/16; other scales widen the head


class ScaledStages(nnx.Module):
  """A network of one map, run on the tiles of images at several scales.

  Args:
    stem: tiles to the first map.
    stages: `Stages`, of whose maps the last one counts; without batch norm.
    **options: of `multiscale_forward`.
  """

  init_stats = running.init_stats

  def __init__(self, stem: Any, stages: Any, **options: Any):
    self.stem, self.inner, self.options = stem, stages, options

  def __call__(
    self, images: Float[Array, "B H W C"], *, key: Key[Array, ""] | None = None
  ) -> list[Any]:
    """Returns a map (B, h, w, D) of the channels of all scales, alone in a list.

    It is `Marked` where the network's map is; `key` turns dropping of paths on.
    """

    def run(tiles):
      y = self.inner(self.stem(tiles), key=key)[-1]
      return (y.rows[:, :1], y.map) if isinstance(y, Marked) else y

    y = multiscale_forward(images, f=run, **self.options)
    if not isinstance(y, tuple):
      return [y]
    first, found = y
    grid, rows = found.shape[1:3], found.reshape(len(found), -1, found.shape[-1])
    return [Marked(jnp.concatenate([first, rows], axis=1), (grid[0], grid[1]))]

  def weights(
    self, images: Float[Array, "B H W C"], *, stats: Any = ()
  ) -> list[Float[Array, "B N T T"]]:
    """Returns the weights of all attentions, those of a scale's tiles as heads."""
    del stats  # the network has no batch norm
    found = []
    own = images.shape[1], images.shape[2]
    scales = self.options.get("scales", (1, 2)), self.options.get("sizes", ())
    for grid in scaled_grids(images.shape, *scales):
      numbers = tiles_a_side(grid, own, self.options.get("max_split", 0))
      tiles = split_tiles(bicubic(images, grid), numbers)
      y = self.stem(tiles.reshape(-1, *tiles.shape[2:]))
      for each in self.inner.weights(y):
        found.append(each.reshape(len(images), -1, *each.shape[2:]))
    return found

  def trace(self, images: Array, **options: Any) -> Any:
    """Raises an error: maps of tiles are no tokens of one row.

    Raises:
      NotImplementedError: always.
    """
    del images, options
    raise NotImplementedError(
      "trace: blocks run on tiles, once a scale; trace the network without scales"
    )


def Model(
  channels: int,
  classes: int,
  *,
  dim: int = 768,
  depth: int = 12,
  heads: int = 12,
  patch: int = 16,
  grid: tuple[int, int] = (14, 14),
  mlp_ratio: float = 4.0,
  scales: tuple[float, ...] = (1.0, 2.0),
  max_split: int = 0,
  resize_to: int = 0,
  split_forward: bool = False,
  drop: float = 0.0,
  remat: str = "none",
  impl: str = "auto",
  rngs: nnx.Rngs,
) -> Classifier:
  """Builds the network: images (B, H, W, channels) to logits (B, classes).

  A Vision Transformer with a class token and learned positions, whose class tokens of
  all scales are classified. Beside the hyper-parameters of all networks,
  `attnjax.contract.forms.backbone`:

    dim, depth, heads  of the only stage
    patch   side of the patches
    grid    sides of the grid of positions, interpolated on other tiles
    scales, max_split, resize_to, split_forward  as in `multiscale_forward`
  """
  layer = {"heads": heads, "hidden": int(mlp_ratio * dim), "impl": impl}
  rates = transformer.rates(drop, (depth,))[0]
  blocks = [_block(dim, drop=rate, **layer, rngs=rngs) for rate in rates]
  stage = Stage([Mark(dim, grid, rngs=rngs), *blocks], remat=remat)
  norm = Rows(transformer.layer_norm(dim, EPSILON, rngs=rngs))
  options = {"scales": scales, "max_split": max_split, "resize_to": resize_to}
  body = ScaledStages(
    Patches(channels, dim, patch, rngs=rngs),
    Stages([stage], norm=norm),
    split_forward=split_forward,
    **options,
  )
  head = nnx.Linear(dim * len(scales), classes, kernel_init=_INIT, rngs=rngs)
  return Classifier(None, body, head, pool=token)


def _block(dim, *, heads, hidden, drop, impl, rngs) -> Rows:
  layer = {"form": "sequence", "heads": heads, "rope_theta": 0.0, "impl": impl}
  biases = {"qkv_bias": True, "out_bias": True}
  mixer = functools.partial(dot_product.Layer, dim, **layer, **biases)
  options = {"hidden": hidden, "epsilon": EPSILON, "drop": drop}
  return Rows(transformer.Block(dim, mixer, **options, rngs=rngs))
