"""The paper's network: a vision transformer, whose blocks may also prune tokens."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Key

from attnjax.contract import context as contexts
from attnjax.nn import class_token, drop_path, transformer
from attnjax.nn.backbone import Classifier
from attnjax.nn.class_token import Mark, Marked, Rows
from attnjax.nn.patches import Patches
from attnjax.nn.stages import Stage, Stages
from attnjax.variants.sparse.sparsifiner import connectivity
from attnjax.variants.sparse.sparsifiner.attention import most_attended
from attnjax.variants.sparse.sparsifiner.connectivity import dense_weights
from attnjax.variants.sparse.sparsifiner.layer import Layer, Left

EPSILON = 1e-6
_INIT = nnx.initializers.truncated_normal(0.02)
# The published size is DeiT's. For images of 28 x 28 there is "mini", which is
# invented: 7 x 7 tokens, of which the first block prunes three in ten.
SIZES: dict[str, dict[str, Any]] = {
  "small": {"dim": 384, "depth": 12, "heads": 6},
  "mini": {
    "dim": 48,
    "depth": 2,
    "heads": 3,
    "patch": 4,
    "grid": (7, 7),
    "shares": (0.7, 0.7),
  },
}
PARAMETERS: dict[str, float] = {}  # neither the paper nor the code has them


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
  shares: tuple[float, ...] = (),
  kind: str = "sparse",
  keep_ratio: float = 0.25,
  reduce_n: int = 6,
  reduce_c: int = 2,
  tie: bool = False,
  top: int = 8,
  threshold: float = 0.02,
  distill: float = 0.002,
  qkv_bias: bool = True,
  drop: float = 0.0,
  remat: str = "none",
  impl: str = "auto",
  rngs: nnx.Rngs,
) -> Classifier:
  """Builds the network: images (B, H, W, channels) to logits (B, classes).

  Patches and a class token with learned positions, then blocks of equal width. Beside
  the hyper-parameters of all networks, `attnjax.contract.forms.backbone`:

    dim, depth, heads  of the only stage
    patch   side of the patches
    grid    sides of the grid for which positions and the predictors' tables are, which
            are interpolated on others
    shares  of the tokens that are left after each block; none is pruned if ()
    kind, keep_ratio, reduce_n, reduce_c, tie, top, threshold, distill, qkv_bias  as in
            `Layer`, for each block; "reconstruct" prunes nothing
  """
  layer: dict[str, Any] = {"heads": heads, "grid": grid, "layers": depth, "kind": kind}
  layer |= {"keep_ratio": keep_ratio, "reduce_n": reduce_n, "reduce_c": reduce_c}
  layer |= {"top": top, "threshold": threshold, "distill": distill, "tie": tie}
  layer |= {"hidden": int(mlp_ratio * dim), "qkv_bias": qkv_bias, "impl": impl}
  whole = (1.0, *checked(shares, depth))
  rates = transformer.rates(drop, (depth,))[0]
  blocks = [
    Block(dim, share=(whole[i], whole[i + 1]), drop=rate, **layer, rngs=rngs)
    for i, rate in enumerate(rates)
  ]
  stage = Stage([Mark(dim, grid, rngs=rngs), *blocks], remat=remat)
  return _classifier(Patches(channels, dim, patch, rngs=rngs), stage, classes, rngs)


def _classifier(stem, stage, classes, rngs) -> Classifier:
  dim = stem.project.out_features
  body = Stages([stage], norm=Rows(transformer.layer_norm(dim, EPSILON, rngs=rngs)))
  head = nnx.Linear(dim, classes, kernel_init=_INIT, rngs=rngs)
  return Classifier(stem, body, head, pool=class_token.token)


def checked(shares: Sequence[float], depth: int) -> tuple[float, ...]:
  """Returns the share of tokens after each block; 1 for all if there are none.

  Raises:
    ValueError: unless they are one for each block, in (0, 1], and never rise.
  """
  shares = tuple(shares) or (1.0,) * depth
  falling = all(a >= b > 0 for a, b in zip((1.0, *shares), shares))
  if len(shares) != depth or not falling:
    raise ValueError(
      f"shares = {shares}: one for each of {depth} blocks, in (0, 1], that never rise"
    )
  return shares


class Block(nnx.Module):
  """x + attention(norm x), then x + MLP(norm x), then pruning; x is `Marked`.

  Pruned tokens become 0, and nobody but the class token sees them. The ones that are
  left have the greatest attention of the class token, averaged over the heads.

  Args:
    dim: D.
    share: of tokens before the block, and after it.
    hidden: width of the MLP.
    drop: the share of examples whose residual is left out in training.
    rngs: for the parameters.
    **layer: as in `Layer`.
  """

  def __init__(
    self,
    dim: int,
    *,
    share: tuple[float, float],
    hidden: int,
    drop: float,
    rngs: nnx.Rngs,
    **layer,
  ):
    self.norm, self.feed_norm = (
      transformer.layer_norm(dim, EPSILON, rngs=rngs) for _ in "12"
    )
    self.mixer = Layer(dim, form="sequence", class_token=True, **layer, rngs=rngs)
    self.feed = transformer.Feed(dim, hidden, rngs=rngs)
    self.share, self.drop = share, drop

  def __call__(
    self, x: Marked, *, index: int = 0, key: Key[Array, ""] | None = None
  ) -> Marked:
    """Returns the tokens, and which are left; `key` turns dropping on."""
    first, second = (None, None) if key is None else jax.random.split(key)
    heads = self.heads(x, index=index)
    y = self.mixer.merge(self.mixer.mix(heads), heads)
    rows = x.rows + drop_path.drop(y, self.drop, first)
    y = self.feed(self.feed_norm(rows))
    rows = rows + drop_path.drop(y, self.drop, second)
    left = self._left(heads, x.left)
    rows = rows if left is None else jnp.where(left[..., None], rows, 0)
    return dataclasses.replace(x, rows=rows, left=left)

  def heads(self, x: Marked, *, index: int = 0) -> contexts.Heads:
    """Returns the heads of the tokens that are left."""
    heads, most = self.mixer.project(self.norm(x.rows), index=index), 1.0
    if x.left is not None:
      tokens = x.rows.shape[1]
      most = connectivity.count(self.share[0], tokens - 1) / tokens
    return self.mixer.pruned(heads, Left(x.left, x.grid, most))

  def weights(self, x: Marked, *, index: int = 0, stats: Any = ()) -> list[Array]:
    """Returns the weights (B, N, T, T) of the attention."""
    del stats
    return [contexts.shares(self.mixer, self.heads(x, index=index))]

  def _left(self, heads, before):
    """Returns which tokens are left after the block, `before` if none is pruned."""
    earlier, share = self.share
    if share == earlier or self.mixer.kind == "reconstruct":
      return before
    weights = dense_weights(heads.q[:, :1], heads.k)[:, :, 0].mean(axis=1)
    return most_attended(weights, share, before)
