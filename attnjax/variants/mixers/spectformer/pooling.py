"""The head of the hierarchical network: class attention, and logits of all tokens."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnjax import attention
from attnjax.contract import context as contexts
from attnjax.contract.context import Heads, Tokens
from attnjax.nn import projections
from attnjax.nn.backbone import Classifier
from attnjax.nn.transformer import Feed, layer_norm
from attnjax.variants.mixers.spectformer.blocks import EPSILON

_INIT = nnx.initializers.truncated_normal(0.02)
SHARE = 0.5  # of the tokens' logits


class ClassAttention(nnx.Module):
  """A pool of a map: a block in which the mean of the tokens, a class token, attends.

    c = mean x;  c = c + attention(norm c, norm [c, x]);  c = c + MLP(norm c)

  The tokens stay as they are.

  Args:
    dim: D.
    heads: N.
    hidden: width of the MLP.
    tokens: whether the tokens are behind the class token in the result.
    impl: as in `attnjax.dot_product_attention`.
    rngs: for the parameters.
  """

  def __init__(
    self,
    dim: int,
    *,
    heads: int,
    hidden: int,
    tokens: bool,
    impl: str = "auto",
    rngs: nnx.Rngs,
  ):
    size = projections.head_size(dim, heads)
    self.norm = layer_norm(dim, EPSILON, rngs=rngs)
    self.qkv = projections.QueryKeyValue(
      dim, heads, heads, size, bias=True, init=_INIT, rngs=rngs
    )
    self.out = projections.output(heads, size, dim, bias=True, init=_INIT, rngs=rngs)
    self.feed_norm = layer_norm(dim, EPSILON, rngs=rngs)
    self.feed = Feed(dim, hidden, rngs=rngs)
    self.tokens, self.impl = tokens, impl

  def project(self, x: Float[Array, "B h w D"]) -> Heads:
    """Returns the query of the mean alone, and keys and values of it and of all."""
    rows = x.reshape(x.shape[0], -1, x.shape[-1])
    rows = jnp.concatenate([rows.mean(axis=1, keepdims=True), rows], axis=1)
    seen = self.norm(rows)
    q, k, v = self.qkv.query(seen[:, :1]), self.qkv.key(seen), self.qkv.value(seen)
    return Heads(q, k, v, Tokens(rows))

  def mix(self, heads: Heads) -> Float[Array, "B 1 N H"]:
    """Returns the attention's result for the class token."""
    return attention.dot_product_attention(heads.q, heads.k, heads.v, impl=self.impl)

  def merge(self, out: Array, heads: Heads) -> Float[Array, "B T D"]:
    """Returns the class token after the block, and the tokens if they are asked for."""
    rows = heads.tokens.x
    first = rows[:, :1] + self.out(out.astype(rows.dtype))
    first = first + self.feed(self.feed_norm(first))
    return jnp.concatenate([first, rows[:, 1:]], axis=1) if self.tokens else first

  def __call__(self, x: Float[Array, "B h w D"], *, key: Array | None = None) -> Array:
    """Returns the class token (B, D), or the rows (B, 1 + h w, D)."""
    del key  # nothing is dropped
    heads = self.project(x)
    rows = self.merge(self.mix(heads), heads)
    return rows if self.tokens else rows[:, 0]

  def weights(self, x: Float[Array, "B h w D"]) -> list[Array]:
    """Returns the class token's weights (B, N, 1, 1 + h w), its own first."""
    return [contexts.shares(self, self.project(x))]


class TokenHead(nnx.Module):
  """Logits of the class token, and by another map of each token: token labelling.

  Zihang Jiang et al. All Tokens Matter. arXiv:2104.10858. The logits of an image are
  those of its class token and half the largest of any of its tokens, class by class.
  """

  def __init__(self, dim: int, classes: int, *, rngs: nnx.Rngs):
    self.head, self.tokens = (
      nnx.Linear(dim, classes, kernel_init=_INIT, rngs=rngs) for _ in range(2)
    )

  def each(self, rows: Float[Array, "B T D"]) -> Float[Array, "B T K"]:
    """Returns the class token's logits, and behind them those of all tokens."""
    both = self.head(rows[:, :1]), self.tokens(rows[:, 1:])
    return jnp.concatenate(both, axis=1)

  def __call__(self, rows: Float[Array, "B T D"]) -> Float[Array, "B K"]:
    """Returns the logits of an image from its rows, the class token first."""
    found = self.each(rows)
    return found[:, 0] + SHARE * found[:, 1:].max(axis=1)


def token_logits(model: Any, images: Float[Array, "B H W C"], **options: Any) -> Any:
  """Returns logits (B, 1 + T, classes) of the class token and of each token.

  Training with token labels takes them in place of the logits of an image.

  Args:
    model: a `Model` with token labels.
    images: of any size.
    **options: of the model's call; with `stats` the result is (logits, new ones).

  Raises:
    ValueError: for a model without token labels.
  """
  if not isinstance(model.head, TokenHead):
    raise ValueError("token_labels = False: the model has no logits of tokens")
  parts = {"pool": model.pool, "norm": model.norm}
  return Classifier(model.stem, model.stages, model.head.each, **parts)(
    images, **options
  )
