"""A decoder language model around any causal mechanism.

Pre-norm blocks with RMSNorm and SwiGLU (Hugo Touvron et al. LLaMA. arXiv:2302.13971,
section 2.2); positions are the mechanism's own affair. The logits come from the
transposed embedding (tied) or from a matrix of their own.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Int, Key, Num

from attnjax.contract import reducers
from attnjax.contract.trace import Edit, Edits, Trace
from attnjax.core import masks
from attnjax.nn import running, streams
from attnjax.nn.blocks import NORMS
from attnjax.nn.stack import Stack, hidden_size

FORMS = ("causal",)
TAKES = "tokens"  # what its data sets hold
SIZES = ("vocab",)  # what Model is told of them


def inputs(batch: Mapping[str, Any]) -> tuple[tuple, dict[str, Any]]:
  """Returns the arguments and options of Model's call for a batch."""
  packing = {n: batch[n] for n in ("segment_ids", "positions") if n in batch}
  return (batch["tokens"],), packing


class Model(nnx.Module):
  """tokens (B, T) -> logits (B, T, vocab) float32; token t sees tokens <= t.

  `stats` and `train` are of layers with batch norm, see `attnjax.nn.running`.
  """

  init_stats = running.init_stats

  def __init__(
    self,
    builds: Sequence[Callable],
    *,
    vocab: int,
    dim: int = 128,
    depth: int = 2,
    mlp_ratio: float = 8 / 3,  # 0: no MLP
    conv: int = 0,  # width of a causal convolution before each mixer; 0: none
    tied: bool = True,
    dropout: float = 0.0,
    remat: str = "none",
    hidden: int = 0,  # width of the MLPs; 0: by mlp_ratio
    feed_forward: str | Callable = "swiglu",  # as in `Stack`
    norm: str = "rms",  # as in `Stack`, also before the logits
    learned_residuals: bool = False,
    embed_scale: float = 1.0,  # multiplies the embeddings, not the logits
    between: str | Mapping[int, Callable] = "",  # causal reducers of tokens
    rngs: nnx.Rngs,
  ):
    init = nnx.initializers.normal(0.02)
    self.embed = nnx.Embed(vocab, dim, embedding_init=init, rngs=rngs)
    self.embed_scale = embed_scale
    self.stack = Stack(
      builds,
      dim=dim,
      depth=depth,
      norm=norm,
      feed_forward=feed_forward,
      hidden=hidden or hidden_size(dim, mlp_ratio),
      conv=conv,
      dropout=dropout,
      learned_residuals=learned_residuals,
      remat=remat,
      between=reducers(between),
      rngs=rngs,
    )
    self._check_reducers()
    self.norm = NORMS[norm](dim, rngs=rngs)
    self.head = (
      None
      if tied
      else nnx.Linear(dim, vocab, use_bias=False, kernel_init=init, rngs=rngs)
    )

  def __call__(
    self,
    tokens: Int[Array, "B T"],
    *,
    segment_ids: Int[Array, "B T"] | None = None,
    valid: Bool[Array, "B T"] | None = None,
    positions: Num[Array, "#B T"] | None = None,
    key: Key[Array, ""] | None = None,
    memory: Any = None,
    stats: Any = None,
    train: bool = False,
  ) -> Any:
    """Returns logits of the next token, and new statistics if some are given.

    See contract for the packing arguments. With a `memory`, of `init_memory` or of the
    segment before, tokens also see those that it holds, and (logits, memory after these
    tokens) takes the place of the logits.
    """
    carry = running.Carry(self, stats, train)
    context = _given(segment_ids=segment_ids, valid=valid, positions=positions)
    past = 0 if memory is None else memory[0].x.shape[2]
    context |= self._fixed(past + tokens.shape[1])
    context |= {"whole": True} if self.stack.cuts else {}
    x = carry(self.stack, self._embed(tokens), key=key, memory=memory, **context)
    x = x.all if self.stack.cuts else x  # dropped tokens are as they were then
    if memory is None:
      return carry.result(self._logits(x))
    x, memory = x
    return carry.result((self._logits(x), memory))

  def init_memory(self, batch: int, length: int, dtype=jnp.float32) -> Any:
    """Returns empty memories of the last `length` inputs of every layer.

    Zihang Dai et al. Transformer-XL. arXiv:1901.02860, section 3.2. A memory is data:
    no gradient goes into it. Layers whose call takes a `memory` read it by themselves;
    for all other causal layers it is the beginning of the row.
    """
    return self.stack.init_memory(batch, length, dtype)

  def init_cache(self, batch: int, length: int, dtype=jnp.float32) -> Any:
    """Returns empty caches with room for `length` tokens."""
    return self.stack.init_cache(batch, length, dtype, **self._fixed(length))

  def step(
    self,
    tokens: Int[Array, "B T"],
    cache: Any,
    *,
    segment_ids: Int[Array, "B T"] | None = None,
    valid: Bool[Array, "B T"] | None = None,
    shared: Any = None,
  ) -> Any:
    """Returns logits (B, T, vocab) after each of the next T tokens, and the caches.

    `shared` goes from layer to layer, see `Stack.step`, and then is the third result.
    """
    context = _given(segment_ids=segment_ids, valid=valid, shared=shared)
    x, *after = self.stack.step(self._embed(tokens), cache, **context)
    return self._logits(x), *after

  def weights(
    self, tokens: Int[Array, "B T"], *, stats: Any = None, **context
  ) -> list[Array]:
    """Returns the attention weights of every block, (B, N, T, T) each."""
    own = running.Carry(self, stats, False).of(self.stack)
    context |= self._fixed(tokens.shape[1])
    return self.stack.weights(self._embed(tokens), stats=own, **context)

  def trace(
    self,
    tokens: Int[Array, "B T"],
    *,
    edit: Edit | Edits | None = None,
    stats: Any = None,
    **context,
  ) -> Trace:
    """Returns the intermediate values of the model, its logits as `output`.

    Raises:
      NotImplementedError: for reducers of tokens between the blocks.
    """
    if self.stack.cuts:
      raise NotImplementedError(f"trace: reducers at {self.stack.cuts} drop tokens")
    own = running.Carry(self, stats, False).of(self.stack)
    seen = context.get("segment_ids"), context.get("valid")
    kept = {"tokens": tokens, "ids": masks.segments(*seen, tokens.shape)}
    context |= self._fixed(tokens.shape[1])
    found = self.stack.trace(self._embed(tokens), edit=edit, stats=own, **context)
    return dataclasses.replace(found, output=self._logits(found.output), **kept)

  def _check_reducers(self):
    for reducer in self.stack.reducers:
      if not reducer.causal:
        raise ValueError(
          f"between: {type(reducer).__module__} chooses tokens by later ones, which a"
          " language model must not see"
        )

  def _embed(self, tokens):
    return self._scaled(self.embed.embedding[...][tokens])

  def _scaled(self, x):
    return x if self.embed_scale == 1 else self.embed_scale * x

  def _fixed(self, length):
    """Returns the option `stream` of the stack, if a mixer reads a fixed sequence."""

    def table():
      return self._scaled(self.embed.embedding[...])

    return _given(stream=streams.start(self.stack.blocks, length, table))

  def _logits(self, x):
    x = self.norm(x)
    kernel = self.embed.embedding[...].T if self.head is None else self.head.kernel[...]
    return jnp.matmul(x, kernel, preferred_element_type=jnp.float32)


def _given(**arguments):
  return {name: value for name, value in arguments.items() if value is not None}
