"""The pre-norm residual block of the hosts."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from attnjax.contract.context import Heads
from attnjax.contract.trace import traced
from attnjax.core import masks, policies
from attnjax.nn import dropout as dropouts
from attnjax.nn import mlp, running, streams
from attnjax.nn.convolution import ShortConvolution
from attnjax.nn.segment_memory import SegmentMemory

NORMS = {
  "rms": nnx.RMSNorm,
  "simple_rms": functools.partial(nnx.RMSNorm, use_scale=False),  # x / rms(x)
  "layer": nnx.LayerNorm,
}


class Block(nnx.Module):
  """x + mixer(norm x), then x + mlp(norm x).

  The mixer is an attention layer of any form; `conv` > 0 puts a short causal
  convolution of that width before it, `hidden` = 0 leaves the MLP out. `feed_forward`
  is one of `mlp.KINDS`, or what makes an MLP alike. With `learned_residuals` each
  addend x is multiplied by a vector (D,) of parameters, 1 at first.
  """

  def __init__(
    self,
    dim: int,
    build: Callable,
    *,
    layers: int,
    norm: str,
    feed_forward: str | Callable,
    hidden: int,
    conv: int,
    dropout: float,
    learned_residuals: bool = False,
    rngs: nnx.Rngs,
  ):
    self.norm = NORMS[norm](dim, rngs=rngs)
    self.conv = ShortConvolution(dim, conv, rngs=rngs) if conv else None
    self.mixer = build(dim, layers=layers, rngs=rngs)
    if hidden:
      self.mlp_norm = NORMS[norm](dim, rngs=rngs)
      make = mlp.KINDS[feed_forward] if isinstance(feed_forward, str) else feed_forward
      self.mlp = make(dim, hidden, rngs=rngs)
    ones = jnp.ones((2 if hidden else 1, dim))
    self.residuals = nnx.Param(ones) if learned_residuals else None
    self.hidden, self.dropout = hidden, dropout

  def __call__(
    self,
    x: Float[Array, "B *T D"],
    *,
    key: Key[Array, ""] | None = None,
    stats: Any = None,
    train: bool = False,
    memory: SegmentMemory | None = None,
    stream: Array | None = None,
    **context,
  ) -> Any:
    """Returns the block's output (B, *T, D), and new statistics if some are given.

    `context` goes to the mixer, `key` turns dropout on, `memory` holds the block's
    inputs from earlier segments, `stream` is that of `nn.streams`.
    """
    carry = running.Carry(self, stats, train)
    mix, feed = (None, None) if key is None else jax.random.split(key)
    heard = self.heard(stream)
    if memory is None:
      y = carry(self.mixer, self.mixed(x, context), **heard, **context)
    else:
      y = self._recalled(carry, x, memory, context | heard)
    return carry.result(self._feed(self._sum(0, x, self._drop(y, mix)), feed))

  def trace(
    self,
    x: Float[Array, "B *T D"],
    *,
    index: Any,
    edit: Any,
    stats: Any = None,
    stream: Array | None = None,
    **context,
  ) -> tuple[Array, Heads | None, Array | None, Array, dict[str, Array] | None]:
    """Returns the block's output, and its parts as `contract.trace.Trace` has them.

    They are the mixer's heads, its mix of them, what it adds to the residual stream,
    and the values in the MLP. `edit` is of this block, `Edits.at` its number.

    Raises:
      NotImplementedError: for an edit of an MLP or of heads that the block lacks.
    """
    own = running.Carry(self, stats, False).of(self.mixer)
    seen, context = self.mixed(x, context), context | self.heard(stream)
    y, heads, mixed = traced(
      self.mixer, seen, index=index, edit=edit, stats=own, **context
    )
    x, feed = self._sum(0, x, y), None
    if self.hidden:
      feed = mlp.parts(self.mlp, self.mlp_norm(x))
      if edit.feed is not None:
        feed["output"] = edit.feed(feed["output"])
      x = self._sum(1, x, feed["output"])
    elif edit.feed is not None:
      raise NotImplementedError(f"edit: block {index} has no MLP (hidden = 0)")
    x = x if edit.hidden is None else edit.hidden(x)
    return x, heads, mixed, y, feed

  def mixed(self, x, context):
    """Returns the input of the mixer: x, normalised and convolved."""
    y = self.norm(x)
    if self.conv is None:
      return y
    ids, valid = context.get("segment_ids"), context.get("valid")
    return self.conv(y, masks.segments(ids, valid, y.shape[:2]))

  def heard(self, stream: Array | None) -> dict[str, Array]:
    """Returns the mixer's argument `stream`, normalised; {} if there is none.

    A fixed sequence passes the block as a row does; embeddings pass no convolution.
    """
    if stream is None:
      return {}
    fixed = streams.reads(self) == "fixed"
    return {"stream": self.mixed(stream, {}) if fixed else self.norm(stream)}

  def _recalled(self, carry, x, memory, context):
    """Returns the mixer's output for x, whose tokens also see those of a memory.

    A mixer whose call has an argument `memory` gets the normalised memory; for any
    other one the memory is the beginning of the row.
    """
    own = masks.segments(context.get("segment_ids"), context.get("valid"), x.shape[:2])
    rest = {n: v for n, v in context.items() if n not in ("segment_ids", "valid")}
    row, ids = memory.before(x, own)
    M, row = memory.length, self.mixed(row, {"segment_ids": ids})
    if "memory" in _arguments(type(self.mixer).__call__):
      before = SegmentMemory(row[:, :M], ids[:, :M])
      given = {"segment_ids": ids[:, M:], "memory": before}
      return carry(self.mixer, row[:, M:], **given, **rest)
    return carry(self.mixer, row, segment_ids=ids, **rest)[:, M:]

  def init_cache(
    self, batch: int, length: int, dtype, stream: Array | None = None
  ) -> Any:
    """Returns the empty caches of the mixer and of the convolution."""
    conv = () if self.conv is None else self.conv.init_cache(batch, dtype)
    heard = self.heard(stream)
    return self.mixer.init_cache(batch, length, dtype, **heard), conv

  def step(
    self,
    x: Float[Array, "B T D"],
    cache: Any,
    *,
    shared: Any = None,
    stream: Array | None = None,
    **context,
  ) -> tuple[Array, Any, Any]:
    """Returns the results of the next T tokens, the cache and `shared` after them.

    `shared` goes to a mixer whose `step` has an argument of that name, and which then
    returns (y, cache, shared), and to the policy of a cache; others leave it as it is.
    """
    mixer, conv = cache
    y = self.norm(x)
    if self.conv is not None:
      ids, valid = context.get("segment_ids"), context.get("valid")
      y, conv = self.conv.step(y, conv, masks.segments(ids, valid, y.shape[:2]))
    context |= self.heard(stream)
    if shared is not None and "shared" in _arguments(type(self.mixer).step):
      y, mixer, shared = self.mixer.step(y, mixer, shared=shared, **context)
    elif shared is not None and isinstance(mixer, policies.PolicyCache):
      y, mixer, shared = policies.handed(self.mixer.step, y, mixer, shared, context)
    else:
      y, mixer = self.mixer.step(y, mixer, **context)
    return self._feed(self._sum(0, x, y), None), (mixer, conv), shared

  def _feed(self, x, key):
    if not self.hidden:
      return x
    return self._sum(1, x, self._drop(self.mlp(self.mlp_norm(x)), key))

  def _sum(self, number, x, y):
    """Returns the residual sum `number` of the block."""
    if self.residuals is None:
      return x + y
    return self.residuals[...][number].astype(x.dtype) * x + y

  def _drop(self, x, key):
    return dropouts.drop(x, self.dropout, key)


@functools.cache
def _arguments(function: Callable) -> frozenset[str]:
  return frozenset(inspect.signature(function).parameters)
