"""The model around the layer: segments that follow each other, with a memory."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from attnjax.contract import check_options
from attnjax.nn.segment_memory import SegmentMemory
from attnjax.nn.transformer import layer_norm
from attnjax.variants.softmax.rcmha.layer import Layer

# Squared ReLU is Primer's, arXiv:2109.08668, section 4.
ACTIVATIONS = {"relu": jax.nn.relu, "squared_relu": lambda x: jax.nn.relu(x) ** 2}
# U(-D^-0.5, D^-0.5), PyTorch's default.
_INIT = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class Block(nnx.Module):
  """x + attention(norm x), then x + feed(norm x); or norms of the sums.

  Args:
    dim: D.
    hidden: width between the projections of the feed-forward part.
    norm_first: whether norms are before attention and feed-forward part, which a memory
      then passes as well, or after the sums, as in Transformer-XL.
    activation: of ACTIVATIONS.
    dropout: share of the activations and of the attention's weights set to 0.
    rngs: for the parameters.
    **attention: options of `Layer`.
  """

  def __init__(
    self,
    dim: int,
    *,
    hidden: int,
    norm_first: bool,
    activation: str,
    dropout: float,
    rngs: nnx.Rngs,
    **attention: Any,
  ):
    self.attention = Layer(dim, rngs=rngs, **attention)
    self.norm, self.feed_norm = (layer_norm(dim, rngs=rngs) for _ in range(2))
    self.up = nnx.Linear(dim, hidden, kernel_init=_INIT, rngs=rngs)
    self.down = nnx.Linear(hidden, dim, kernel_init=_INIT, rngs=rngs)
    self.norm_first, self.activation, self.dropout = norm_first, activation, dropout

  def __call__(
    self,
    x: Float[Array, "B T D"],
    memory: SegmentMemory,
    *,
    biases: tuple[Any, Any] | None = None,
    key: Key[Array, ""] | None = None,
  ) -> Float[Array, "B T D"]:
    """Returns the block's output; `key` turns dropout on, `biases` go to the layer."""
    keys = [None] * 4 if key is None else jax.random.split(key, 4)
    if self.norm_first:
      memory = SegmentMemory(self.norm(memory.x), memory.segment_ids)
      x = x + self._drop(self._attend(self.norm(x), memory, biases, keys[0]), keys[1])
      return x + self._drop(self._feed(self.feed_norm(x), keys[2]), keys[3])
    y = self._drop(self._attend(x, memory, biases, keys[0]), keys[1])
    x = self.norm(x + y)
    return self.feed_norm(x + self._drop(self._feed(x, keys[2]), keys[3]))

  def _attend(self, x, memory, biases, key):
    heads = self.attention.project(x, memory=memory, biases=biases)
    out = self.attention.mix(heads, dropout_rate=self.dropout, key=key)
    return self.attention.merge(out, heads)

  def _feed(self, x, key):
    return self.down(self._drop(ACTIVATIONS[self.activation](self.up(x)), key))

  def _drop(self, x, key):
    if key is None or not self.dropout:
      return x
    keep = jax.random.bernoulli(key, 1 - self.dropout, x.shape)
    return jnp.where(keep, x / (1 - self.dropout), 0)


class TransformerXL(nnx.Module):
  """tokens (B, T) -> logits (B, T, vocab), and the memory for the next segment.

  Args:
    vocab: tokens that there are.
    dim: D.
    depth: blocks.
    hidden: of the feed-forward parts.
    memory: inputs of every block that are kept, M.
    norm_first: as in `Block`; then a last norm is before the logits.
    activation: as in `Block`.
    dropout: as in `Block`.
    tied_biases: whether all layers share u and w, as in Transformer-XL.
    heads: N.
    kind: as in `Layer`.
    rngs: for the parameters.
    **attention: further options of `Layer`.
  """

  def __init__(
    self,
    vocab: int,
    *,
    dim: int = 128,
    depth: int = 6,
    hidden: int = 256,
    memory: int = 32,
    norm_first: bool = True,
    activation: str = "relu",
    dropout: float = 0.0,
    tied_biases: bool = False,
    heads: int = 8,
    kind: str = "rcmha",
    rngs: nnx.Rngs,
    **attention: Any,
  ):
    check_options(activation=(activation, ACTIVATIONS))
    own: dict[str, Any] = {"hidden": hidden, "norm_first": norm_first}
    own["activation"] = activation
    own |= {"dropout": dropout, "heads": heads, "kind": kind}

    def block(index):
      holds = index == 0 or not tied_biases
      return Block(dim, **own, own_biases=holds, rngs=rngs, **attention)

    start = nnx.initializers.normal(1.0)
    self.embed = nnx.Embed(vocab, dim, embedding_init=start, rngs=rngs)
    self.blocks = nnx.List([block(index) for index in range(depth)])
    self.norm = layer_norm(dim, rngs=rngs) if norm_first else None
    self.head = nnx.Linear(dim, vocab, kernel_init=_INIT, rngs=rngs)
    self.dim, self.memory, self.tied = dim, memory, tied_biases

  def init_memory(self, batch: int) -> tuple[SegmentMemory, ...]:
    """Returns the empty memories of all blocks."""
    one = SegmentMemory.empty(batch, self.memory, self.dim)
    return (one,) * len(self.blocks)

  def __call__(
    self,
    tokens: Int[Array, "B T"],
    memory: tuple[SegmentMemory, ...] | None = None,
    *,
    key: Key[Array, ""] | None = None,
  ) -> tuple[Float[Array, "B T V"], tuple[SegmentMemory, ...]]:
    """Returns the logits of the next tokens, and the memories after this segment.

    Args:
      tokens: a segment.
      memory: of the segment before; None at the start.
      key: turns dropout on.
    """
    memory = self.init_memory(tokens.shape[0]) if memory is None else memory
    x, kept = self.embed(tokens), []
    first = self.blocks[0].attention.distances
    tied = (first.u, first.w) if self.tied else None
    for index, (block, old) in enumerate(zip(self.blocks, memory)):
      draw = None if key is None else jax.random.fold_in(key, index)
      kept.append(old.after(x))
      x = block(x, old, biases=tied, key=draw)
    x = x if self.norm is None else self.norm(x)
    return self.head(x), tuple(kept)
