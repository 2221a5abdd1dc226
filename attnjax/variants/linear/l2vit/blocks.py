"""The paper's blocks, which take turns."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from attnjax import contract
from attnjax.core.grids.partition import Partition
from attnjax.nn import drop_path, projections, running
from attnjax.nn.depthwise import Depthwise
from attnjax.nn.transformer import Feed, keys, layer_norm
from attnjax.ops import window_attention
from attnjax.variants.linear.l2vit.layer import EPSILON, Layer

_INIT = nnx.initializers.truncated_normal(0.02)


class GlobalBlock(nnx.Module):
  """The paper's enhanced LGA block: `Layer`, then an MLP; x (B, H, W, D).

  Args:
    dim: D.
    hidden: width of the MLP.
    norm: as in `Layer`.
    drop: the share of examples whose residual is left out in training.
    rngs: for the parameters.
    options: more of `Layer`.
  """

  init_stats = running.init_stats

  def __init__(
    self,
    dim: int,
    *,
    hidden: int,
    norm: str = "batch",
    drop: float = 0.0,
    rngs: nnx.Rngs,
    **options,
  ):
    self.mix = Layer(dim, form="image", norm=norm, rngs=rngs, **options)
    self.norm = layer_norm(dim, EPSILON, rngs=rngs)
    self.feed = Feed(dim, hidden, rngs=rngs)
    self.drop = drop

  def __call__(
    self,
    x: Float[Array, "B H W D"],
    *,
    index: int = 0,
    key: Key[Array, ""] | None = None,
    stats: Any = None,
    train: bool = False,
  ) -> Any:
    """Returns the block's output (B, H, W, D), and new statistics if some are given.

    `key` turns the dropping of residuals on.
    """
    carry = running.Carry(self, stats, train)
    first, second = keys(key, 2)
    heads, own = self.mix.project(x, index=index), carry.of(self.mix)
    given = {"drop": self.drop, "key": first, "stats": own, "train": train}
    y, own = running.apply(self.mix.merge, self.mix.mix(heads), heads, **given)
    carry.keep(self.mix, own)
    x = x + y
    return carry.result(x + drop_path.drop(self.feed(self.norm(x)), self.drop, second))

  def weights(
    self, x: Float[Array, "B H W D"], *, index: int = 0, stats: Any = ()
  ) -> list[Array]:
    """Returns the weights (B, N, T, T) of the attention; rows do not sum to 1."""
    del stats  # the batch is measured after the attention
    return [contract.weights(self.mix, x, index=index)]


class WindowBlock(nnx.Module):
  """The paper's LWA block: softmax attention in windows, then an MLP.

  Windows do not overlap. A grid that they do not tile is padded at its right and bottom
  after the norm, and padded tokens are seen like others, as in the authors' code.

  Args:
    dim: D.
    heads: N, which divides D.
    hidden: width of the MLP.
    window: side of the windows.
    drop: the share of examples whose residual is left out in training.
    rngs: for the parameters.
  """

  def __init__(
    self,
    dim: int,
    *,
    heads: int,
    hidden: int,
    window: int = 7,
    drop: float = 0.0,
    rngs: nnx.Rngs,
  ):
    size = projections.head_size(dim, heads)
    self.positions = nnx.List(Depthwise(dim, 3, rngs=rngs) for _ in range(2))
    self.norms = nnx.List(layer_norm(dim, EPSILON, rngs=rngs) for _ in range(2))
    self.qkv = projections.QueryKeyValue(
      dim, heads, heads, size, bias=True, init=_INIT, rngs=rngs
    )
    self.out = projections.output(heads, size, dim, bias=True, init=_INIT, rngs=rngs)
    self.feed = Feed(dim, hidden, rngs=rngs)
    self.window, self.drop = window, drop

  def __call__(
    self,
    x: Float[Array, "B H W D"],
    *,
    index: int = 0,
    key: Key[Array, ""] | None = None,
  ) -> Float[Array, "B H W D"]:
    """Returns the block's output; `key` turns the dropping of residuals on."""
    del index  # equal at every depth
    first, second = keys(key, 2)
    x = x + self.positions[0](x)
    y = self.out(self._attend(*self._heads(x)).astype(x.dtype))
    x = x + drop_path.drop(y[:, : x.shape[1], : x.shape[2]], self.drop, first)
    x = x + self.positions[1](x)
    return x + drop_path.drop(self.feed(self.norms[1](x)), self.drop, second)

  def weights(
    self, x: Float[Array, "B H W D"], *, index: int = 0, stats: Any = ()
  ) -> list[Array]:
    """Returns the weights (B, N, T, T); the share of the padding is no token's."""
    del index, stats
    grid = x.shape[1:3]
    q, k, v = self._heads(x + self.positions[0](x))
    own = window_attention.identity(grid, x.shape[0], v.shape[-2])
    around = ((0, a - b) for a, b in zip(v.shape[1:3], grid))
    own = jnp.pad(own, ((0, 0), *around, (0, 0), (0, 0)))
    out = self._attend(q, k, own)[:, : grid[0], : grid[1]]
    return [out.reshape(out.shape[0], -1, *out.shape[-2:]).swapaxes(1, 2)]

  def _heads(self, x) -> tuple[jax.Array, ...]:
    """Returns queries, keys and values of the grid and of its padding."""
    around = ((0, -side % self.window) for side in x.shape[1:3])
    return self.qkv.heads(jnp.pad(self.norms[0](x), ((0, 0), *around, (0, 0))))

  def _attend(self, q, k, v):
    return window_attention.attend(q, k, v, Partition(q.shape[1:3], self.window))
