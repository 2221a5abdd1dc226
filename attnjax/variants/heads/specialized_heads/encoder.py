"""The encoder: embeddings, and blocks with norms after the sums, as in BERT."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from attnjax.contract.trace import Trace, traced
from attnjax.nn.transformer import Feed, layer_norm

_INIT = nnx.initializers.normal(0.02)


class Block(nnx.Module):
  """norm(x + mixer(x)), and norm(y + feed(y)) where there is a feed-forward part.

  Args:
    dim: D.
    build: what makes the mixer: build(dim, layers=, rngs=).
    layers: of the model.
    hidden: of the feed-forward part; 0 for none, as the expander takes its place.
    rngs: for the parameters.
  """

  def __init__(
    self, dim: int, build: Callable, *, layers: int, hidden: int, rngs: nnx.Rngs
  ):
    self.mixer = build(dim, layers=layers, rngs=rngs)
    self.norm = layer_norm(dim, epsilon=1e-12, rngs=rngs)
    self.feed = Feed(dim, hidden, rngs=rngs) if hidden else None
    self.feed_norm = layer_norm(dim, epsilon=1e-12, rngs=rngs) if hidden else None

  def __call__(self, x: Float[Array, "B T D"], **context: Any) -> Any:
    """Returns the block's output."""
    return self.after(x, self.mixer(x, **context))

  def after(self, x: Float[Array, "B T D"], y: Float[Array, "B T D"]) -> Any:
    """Returns the block's output from its mixer's."""
    x = self.norm(x + y)
    if self.feed is None or self.feed_norm is None:
      return x
    return self.feed_norm(x + self.feed(x))


class Encoder(nnx.Module):
  """tokens (B, T) -> logits (B, T, classes); every token sees all of its row.

  Args:
    builds: what makes the mixers in turn, of form "sequence".
    vocab: tokens that there are.
    classes: logits of a token.
    dim: D.
    depth: blocks.
    hidden: of the blocks' feed-forward parts; 0 for none.
    length: tokens of a row at most, which have learned positions.
    rngs: for the parameters.
  """

  def __init__(
    self,
    builds: list[Callable],
    *,
    vocab: int,
    classes: int,
    dim: int,
    depth: int,
    hidden: int = 0,
    length: int = 512,
    rngs: nnx.Rngs,
  ):
    self.embed = nnx.Embed(vocab, dim, embedding_init=_INIT, rngs=rngs)
    self.positions = nnx.Param(_INIT(rngs.params(), (length, dim), jnp.float32))
    self.norm = layer_norm(dim, epsilon=1e-12, rngs=rngs)
    self.blocks = nnx.List(
      [
        Block(dim, builds[i % len(builds)], layers=depth, hidden=hidden, rngs=rngs)
        for i in range(depth)
      ]
    )
    self.head = nnx.Linear(dim, classes, kernel_init=_INIT, rngs=rngs)

  def __call__(
    self, tokens: Int[Array, "B T"], *, valid: Bool[Array, "B T"] | None = None
  ) -> Float[Array, "B T V"]:
    """Returns the logits of every token; nobody sees those that are not `valid`."""
    x = self._embedded(tokens)
    for index, block in enumerate(self.blocks):
      x = block(x, valid=valid, index=index)
    return self.head(x)

  def trace(
    self, tokens: Int[Array, "B T"], *, valid: Bool[Array, "B T"] | None = None
  ) -> Trace:
    """Returns the intermediate values of the encoder, its logits as `output`."""
    x = self._embedded(tokens)
    hidden, heads, mixed, attended = [x], [], [], []
    for index, block in enumerate(self.blocks):
      y, *found = traced(block.mixer, x, index=index, valid=valid)
      x = block.after(x, y)
      hidden.append(x)
      heads.append(found[0])
      mixed.append(found[1])
      attended.append(y)
    lists = map(tuple, (hidden, heads, mixed, attended))
    hidden, heads, mixed, attended = lists
    feeds = (None,) * len(heads)
    return Trace(hidden, heads, mixed, self.head(x), attended, feeds, tokens)

  def _embedded(self, tokens):
    T = tokens.shape[1]
    if T > self.positions.shape[0]:
      raise ValueError(f"{T} tokens; there are {self.positions.shape[0]} positions")
    return self.norm(self.embed(tokens) + self.positions[...][None, :T])
