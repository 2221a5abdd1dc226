"""The encoder of ITCFN's clinical table: a spline layer and a small transformer."""

import jax
from flax import nnx
from jaxtyping import Array, Float, Key

from attnjax import attention
from attnjax.nn import linear
from attnjax.nn.dropout import drop
from attnjax.nn.transformer import layer_norm
from attnjax.variants.cross.triple_modal.coattention import head_size
from attnjax.variants.cross.triple_modal.kan import KANLinear


class Block(nnx.Module):
  """LN(x + attention of x), then LN(x + MLP of x), as torch's encoder layer has it."""

  def __init__(
    self, dim: int, heads: int, hidden: int, drop_rate: float, rngs: nnx.Rngs
  ):
    head_size(dim, heads)
    self.query, self.key, self.value, self.out = (
      linear.linear(dim, dim, rngs=rngs) for _ in range(4)
    )
    self.up = linear.linear(dim, hidden, rngs=rngs)
    self.down = linear.linear(hidden, dim, rngs=rngs)
    self.norm, self.last_norm = (layer_norm(dim, rngs=rngs) for _ in range(2))
    self.heads, self.drop_rate = heads, drop_rate

  def __call__(
    self, x: Float[Array, "B T D"], key: Key[Array, ""] | None = None
  ) -> Float[Array, "B T D"]:
    """Returns the block's output; a key turns dropout on."""
    keys = [None] * 4 if key is None else list(jax.random.split(key, 4))
    heads = (
      y.reshape(*x.shape[:2], self.heads, -1)
      for y in (self.query(x), self.key(x), self.value(x))
    )
    y = attention.dot_product_attention(
      *heads,
      dropout_rng=keys[0],
      dropout_rate=self.drop_rate,
      deterministic=key is None,
    )
    y = drop(self.out(y.reshape(x.shape)), self.drop_rate, keys[1])
    x = self.norm(x + y)
    y = drop(jax.nn.relu(self.up(x)), self.drop_rate, keys[2])
    return self.last_norm(x + drop(self.down(y), self.drop_rate, keys[3]))


class ClinicalEncoder(nnx.Module):
  """Encodes a table (B, below) as one token: splines, transformer, (B, outputs).

  Args:
    below: numbers of a table.
    outputs: of the last map.
    dim: width of the transformer.
    heads: N.
    hidden: width of its MLPs.
    depth: number of its blocks.
    drop_rate: share of units that are dropped with a key.
    rngs: for the parameters.
  """

  def __init__(
    self,
    below: int = 9,
    outputs: int = 256,
    *,
    dim: int = 128,
    heads: int = 4,
    hidden: int = 512,
    depth: int = 3,
    drop_rate: float = 0.1,
    rngs: nnx.Rngs,
  ):
    self.splines = KANLinear(below, dim, rngs=rngs)
    self.blocks = nnx.List(
      Block(dim, heads, hidden, drop_rate, rngs) for _ in range(depth)
    )
    self.out = linear.linear(dim, outputs, rngs=rngs)

  def __call__(
    self, x: Float[Array, "B I"], *, key: Key[Array, ""] | None = None
  ) -> Float[Array, "B O"]:
    """Returns the features; a key turns dropout on."""
    y = self.splines(x)[:, None]
    for index, block in enumerate(self.blocks):
      y = block(y, None if key is None else jax.random.fold_in(key, index))
    return self.out(y[:, 0])
