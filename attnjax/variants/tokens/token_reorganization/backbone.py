"""EViT: a DeiT some of whose blocks reorganise tokens between attention and MLP."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from attnjax.contract import context as contexts
from attnjax.contract.context import Heads
from attnjax.nn import class_token, drop_path, reduced, transformer
from attnjax.nn.backbone import Classifier
from attnjax.nn.class_token import Mark, Marked
from attnjax.nn.patches import Patches
from attnjax.nn.reduced import EachRow, Reduced
from attnjax.nn.stages import Stage, Stages
from attnjax.variants.softmax import dot_product
from attnjax.variants.tokens.token_reorganization.reorganize import (
  chosen,
  class_attention,
  count_kept,
  reorganize,
)

EPSILON = 1e-6  # of the norms
_INIT = nnx.initializers.truncated_normal(0.02)
# Sizes of DeiT. "mini" is invented, for images of 28 x 28: 7 x 7 tokens.
SIZES: dict[str, dict[str, Any]] = {
  "small": {},
  "tiny": {"dim": 192, "heads": 3},
  "base": {"dim": 768, "heads": 12},
  "mini": {
    "dim": 48,
    "depth": 3,
    "heads": 3,
    "patch": 4,
    "grid": (7, 7),
    "places": (1, 2),
    "keep_ratio": (0.7, 0.7),
  },
}
# Of DeiT: reorganisation has none.
PARAMETERS = {"tiny": 5.717e6, "small": 22.05e6, "base": 86.57e6}


def Model(
  channels: int,
  classes: int,
  *,
  dim: int = 384,
  depth: int = 12,
  heads: int = 6,
  patch: int = 16,
  grid: tuple[int, int] = (14, 14),
  mlp_ratio: float = 4.0,
  places: tuple[int, ...] = (3, 6, 9),
  keep_ratio: tuple[float, ...] = (0.7, 0.7, 0.7),
  fuse: bool = True,
  drop: float = 0.0,
  remat: str = "none",
  impl: str = "auto",
  rngs: nnx.Rngs,
) -> Classifier:
  """Builds the network: images (B, H, W, channels) to logits (B, classes).

  Parameters do not depend on `places`, `keep_ratio` and `fuse`: a model that was
  trained with one keep rate runs, and is trained further, with another. Maps for dense
  tasks have dropped patches as they were when they were dropped, and a fused token at
  the place of the heaviest patch in it. Beside the hyper-parameters of all networks,
  `attnjax.contract.forms.backbone`:

    dim, depth, heads  of the only stage
    patch   side of the patches
    grid    sides of the grid of positions, interpolated on others
    places  numbers of the blocks, from 0, that reorganise tokens
    keep_ratio  share of the patches that each of these keeps, 1: all of them
    fuse    whether the others become one token
  """
  check(places, keep_ratio, depth)
  shares = dict(zip(places, keep_ratio))
  layer = {"heads": heads, "hidden": int(mlp_ratio * dim), "impl": impl, "fuse": fuse}
  blocks = [
    Block(dim, keep_ratio=shares.get(i), drop=rate, **layer, rngs=rngs)
    for i, rate in enumerate(transformer.rates(drop, (depth,))[0])
  ]
  stage = Stage([Mark(dim, grid, rngs=rngs), *blocks], remat=remat)
  norm = EachRow(transformer.layer_norm(dim, EPSILON, rngs=rngs))
  head = nnx.Linear(dim, classes, kernel_init=_INIT, rngs=rngs)
  stem = Patches(channels, dim, patch, rngs=rngs)
  return Classifier(stem, Stages([stage], norm=norm), head, pool=class_token.token)


def check(places: tuple[int, ...], keep_ratio: tuple[float, ...], depth: int) -> None:
  """Raises ValueError unless there is one keep rate for each place, in its range."""
  if len(places) != len(keep_ratio):
    raise ValueError(
      f"places = {places}, keep_ratio = {keep_ratio}: one keep rate for each place"
    )
  rising = list(places) == sorted(set(places))
  if not rising or any(not 0 <= place < depth for place in places):
    raise ValueError(f"places = {places}: rising numbers of the {depth} blocks, from 0")
  for share in keep_ratio:
    count_kept(share, 1)


class Block(nnx.Module):
  """x + attention(norm x), reorganisation, then x + MLP(norm x).

  Args:
    dim: D.
    heads: N.
    hidden: width of the MLP.
    keep_ratio: share of the patches that stay; None for a block where all do.
    fuse: as in `reorganize`.
    drop: the share of examples whose residual is left out in training.
    impl: of the attention.
    rngs: for the parameters.
  """

  def __init__(
    self,
    dim: int,
    *,
    heads: int,
    hidden: int,
    keep_ratio: float | None,
    fuse: bool,
    drop: float,
    impl: str,
    rngs: nnx.Rngs,
  ):
    if not 0 <= drop < 1:
      raise ValueError(f"drop = {drop}: it must be from 0 to below 1")
    self.norm = transformer.layer_norm(dim, EPSILON, rngs=rngs)
    layer = {"heads": heads, "qkv_bias": True, "out_bias": True, "impl": impl}
    self.mixer = dot_product.Layer(
      dim, form="sequence", rope_theta=0.0, **layer, rngs=rngs
    )
    self.feed_norm = transformer.layer_norm(dim, EPSILON, rngs=rngs)
    self.feed = transformer.Feed(dim, hidden, rngs=rngs)
    self.keep_ratio, self.fuse, self.drop = keep_ratio, fuse, drop

  def __call__(
    self, x: Marked, *, index: int = 0, key: Key[Array, ""] | None = None
  ) -> Reduced:
    """Returns the tokens that are left; `key` turns dropping of residuals on."""
    first, second = (None, None) if key is None else jax.random.split(key)
    x, heads = reduced.begun(x), self.mixer.project(self.norm(x.rows), index=index)
    x = dataclasses.replace(x, rows=self.attended(x.rows, heads, first))
    if self.keep_ratio is not None:
      x = self.reorganized(x, self.scores(heads))
    return dataclasses.replace(x, rows=self.fed(x.rows, second))

  def attended(self, rows: Float[Array, "B T D"], heads: Heads, key: Any) -> Array:
    """Returns the tokens with the attention's output added."""
    y = self.mixer.merge(self.mixer.mix(heads), heads)
    return rows + drop_path.drop(y, self.drop, key)

  def fed(self, rows: Float[Array, "B T D"], key: Any) -> Array:
    """Returns the tokens with the MLP's output added."""
    return rows + drop_path.drop(self.feed(self.feed_norm(rows)), self.drop, key)

  def scores(self, heads: Heads, valid: Any = None) -> Float[Array, "B T"]:
    """Returns the class token's attention, averaged over the heads."""
    return class_attention(heads.q[:, 0], heads.k, scale=None, valid=valid)

  def reorganized(self, x: Reduced, scores: Float[Array, "B T"]) -> Reduced:
    """Returns the tokens that are left by their scores."""
    tokens, scores = x.rows.shape[1], scores[:, 1:]
    share = 1.0 if self.keep_ratio is None else self.keep_ratio
    rows, index = reorganize(x.rows, scores, keep_ratio=share, fuse=self.fuse)
    if index.shape[1] == tokens - 1:
      return x
    left = jnp.where(chosen(index, tokens - 1), -jnp.inf, scores)
    heaviest = left.argmax(axis=1)[:, None].astype(jnp.int32)
    parts = [jnp.zeros_like(index[:, :1]), 1 + index, 1 + heaviest]
    return x.after(rows, jnp.concatenate(parts, axis=1)[:, : rows.shape[1]])

  def weights(self, x: Marked, *, index: int = 0, stats: Any = ()) -> list[Array]:
    """Returns the weights (B, N, T, T) of the attention."""
    del stats  # there is no batch norm
    return [contexts.weights(self.mixer, self.norm(x.rows), index=index)]
