"""The self-attention block of each stream, with its residual and layer norm."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from attnjax import attention
from attnjax.core.dtypes import accumulator_dtype
from attnjax.nn import linear
from attnjax.nn.dropout import drop
from attnjax.variants.cross.triple_modal.coattention import head_size, product
from attnjax.variants.cross.triple_modal.weights import BlockWeights

EPSILON = 1e-12  # of the layer norm


def self_attend(
  x: Float[Array, "B T D"],
  weights: BlockWeights,
  *,
  heads: int = 16,
  drop_rate: float = 0.2,
  weight_drop_rate: float = 0.5,
  key: Key[Array, ""] | None = None,
  impl: str = "auto",
) -> Float[Array, "B T D"]:
  """Computes LN(dense(attention of x) + x).

  Args:
    x: the tokens.
    weights: the parameters.
    heads: N, which divides D.
    drop_rate: share of the branch that is dropped with a key.
    weight_drop_rate: share of the attention weights that is dropped with a key.
    key: turns dropout on.
    impl: of `attnjax.dot_product_attention`.

  Raises:
    ValueError: if the heads do not divide D or `impl` is unknown.
  """
  size = head_size(x.shape[-1], heads)
  q, k, v = (
    _linear(x, weights, name).reshape(*x.shape[:2], heads, size)
    for name in ("query", "key", "value")
  )
  lost: dict[str, Any] = {}
  if key is not None:
    key, own = jax.random.split(key)
    lost = {"dropout_rng": own, "dropout_rate": weight_drop_rate}
  y = attention.dot_product_attention(q, k, v, impl=impl, **lost)
  y = drop(_linear(y.reshape(x.shape), weights, "dense"), drop_rate, key)
  y = (y + x).astype(accumulator_dtype(x))
  y = y - y.mean(axis=-1, keepdims=True)
  y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + EPSILON)
  return (y * weights.norm_scale + weights.norm_bias).astype(x.dtype)


def _linear(x, weights, name):
  matrix, bias = getattr(weights, name), getattr(weights, f"{name}_bias")
  return (product("bti,ij->btj", x, matrix) + bias).astype(x.dtype)


class SelfAttention(nnx.Module):
  """Holds the parameters of `self_attend` of tokens (B, T, D)."""

  def __init__(
    self,
    dim: int,
    *,
    heads: int = 16,  # N
    drop_rate: float = 0.2,  # of the branch, with a key
    weight_drop_rate: float = 0.5,  # of the attention weights, with a key
    impl: str = "auto",  # as in `self_attend`
    rngs: nnx.Rngs,
  ):
    head_size(dim, heads)
    self.heads, self.impl = heads, impl
    self.drop_rate, self.weight_drop_rate = drop_rate, weight_drop_rate
    self.query, self.key, self.value, self.dense = (
      linear.linear(dim, dim, rngs=rngs) for _ in range(4)
    )
    self.norm_scale = nnx.Param(jnp.ones(dim))
    self.norm_bias = nnx.Param(jnp.zeros(dim))

  def __call__(
    self, x: Float[Array, "B T D"], *, key: Key[Array, ""] | None = None
  ) -> Float[Array, "B T D"]:
    """Returns the block's output; a key turns dropout on."""
    rates = {"drop_rate": self.drop_rate, "weight_drop_rate": self.weight_drop_rate}
    return self_attend(
      x, self.weights, heads=self.heads, key=key, impl=self.impl, **rates
    )

  @property
  def weights(self) -> BlockWeights:
    """Returns the parameters of the function."""
    found = {}
    for name in ("query", "key", "value", "dense"):
      own = getattr(self, name)
      found |= {name: own.kernel[...], f"{name}_bias": own.bias[...]}
    return BlockWeights(
      **found, norm_scale=self.norm_scale[...], norm_bias=self.norm_bias[...]
    )
