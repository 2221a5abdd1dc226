"""Statistics of a layer's or a model's attention, without a (T, T) array.

  found = inspect.of_model(model, tokens)        # one Statistics a layer
  found[3].columns                          # attention that each key gets, (B, N, S)
  found[3].entropy, found[3].argmax         # of each query's weights, (B, T, N)
  found[3].sink_scores()                    # mean over the queries behind, (B, N, T)

They are of every mechanism that is linear in its values: a part of the keys' weights is
its result for values that are one-hot, so that one part after the other is computed, in
O(T chunk) memory and T / chunk times the mechanism's time. Column sums alone are one
backward pass (`column_sums`). Where the mechanism is softmax attention of known scores,
`attnjax.attention_column_sums` and `attnjax.attention_rows` take no more than one pass.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from attnjax.contract.context import Heads, with_values
from attnjax.contract.trace import Trace


class Statistics(NamedTuple):
  """Statistics of a layer's weights; T queries see S = T keys, images row by row.

  Attributes:
    columns: the sum of each key's weights over all queries.
    argmax: each query's first key of the greatest weight, -1 where none is positive.
    entropy: -sum_s p log p over each query's positive weights, in nats.
    own: each token's weight of itself.
  """

  columns: Float[Array, "B N S"]
  argmax: Int[Array, "B T N"]
  entropy: Float[Array, "B T N"]
  own: Float[Array, "B T N"]

  def sink_scores(self, least: int = 1, ids: Any = None) -> Float[Array, "B N S"]:
    """Returns the mean weight of a token over the queries behind it.

    It is of causal layers, and 0 where fewer than `least` queries are behind a token.
    `ids` (B, T) are documents, negative ones padding, each in one piece.
    """
    T = self.columns.shape[2]
    behind = jnp.arange(T - 1, -1, -1)[None]
    if ids is not None:
      same = (ids[:, None] == ids[:, :, None]) & (ids >= 0)[:, None]
      behind = jnp.where(ids >= 0, jnp.triu(same, 1).sum(axis=2), 0)
    number = behind[:, None]
    sums = self.columns - self.own.swapaxes(1, 2)
    return jnp.where(number >= least, sums / jnp.maximum(number, 1), 0)


def statistics(layer: Any, heads: Heads, *, chunk: int = 128) -> Statistics:
  """Computes the statistics of a layer's weights, `chunk` keys at a time.

  Args:
    layer: with `mix`, linear in the values.
    heads: of `layer.project`, or of a trace.
    chunk: keys of a part.

  Raises:
    ValueError: for a chunk below 1.
  """
  if chunk < 1:
    raise ValueError(f"chunk = {chunk}; it must be 1 or more")
  S = _tokens(heads.v)
  chunk = min(chunk, S)
  number = -(-S // chunk)

  def part(carry, first):
    top, argmax, entropy, own = carry
    weight = _mixed(layer, heads, jax.nn.one_hot(jnp.arange(S) - first, chunk))
    share = jnp.where(weight > 0, weight, 0)
    lost = share * jnp.log(jnp.where(share > 0, share, 1))
    most = share.max(axis=-1)
    places = first + jnp.argmax(share, axis=-1).astype(jnp.int32)
    argmax = jnp.where(most > top, places, argmax)
    top = jnp.maximum(most, top)
    t = jnp.arange(weight.shape[1])[:, None, None]
    itself = jnp.where(t == first + jnp.arange(chunk), weight, 0).sum(axis=-1)
    return (top, argmax, entropy - lost.sum(axis=-1), own + itself), weight.sum(axis=1)

  like = jax.eval_shape(lambda h: _mixed(layer, h, jnp.zeros((S, chunk))), heads)
  zero = jnp.zeros(like.shape[:3], jnp.float32)
  start = zero, jnp.full(zero.shape, -1, jnp.int32), zero, zero
  firsts = chunk * jnp.arange(number, dtype=jnp.int32)
  (_, argmax, entropy, own), sums = jax.lax.scan(part, start, firsts)
  columns = jnp.moveaxis(sums, 0, 2).reshape(*sums.shape[1:3], -1)[..., :S]
  return Statistics(columns, argmax, entropy, own)


def column_sums(layer: Any, heads: Heads) -> Float[Array, "B N S"]:
  """Computes the sums of each key's weights over all queries, by one backward pass.

  The cotangent of the values, for results whose cotangents are one, is that sum; heads
  that share values are told apart by the elements of the values.
  """
  S, K = _tokens(heads.v), heads.v.shape[-2]
  N = jax.eval_shape(lambda h: _mixed(layer, h, jnp.zeros((S, 1))), heads).shape[2]
  group = N // K
  member = jax.nn.one_hot(jnp.arange(N) % group, group)
  v = jnp.zeros((*heads.v.shape[:-1], group), jnp.float32)
  out, pull = jax.vjp(lambda v: layer.mix(with_values(heads, v)), v)
  (sums,) = pull(jnp.broadcast_to(member, out.shape).astype(out.dtype))
  sums = sums.reshape(sums.shape[0], S, N)
  return sums.swapaxes(1, 2).astype(jnp.float32)


def _tokens(v) -> int:
  """Returns the number of tokens of values (B, *S, K, E)."""
  size = 1
  for side in v.shape[1:-2]:
    size *= side
  return size


def _mixed(layer, heads, columns) -> Float[Array, "B T N C"]:
  """Returns the layer's mix of values that are `columns` (S, C), in all heads."""
  *places, K, _ = heads.v.shape
  v = jnp.broadcast_to(
    columns[None, :, None], (places[0], len(columns), K, columns.shape[1])
  )
  v = v.reshape(*places, K, -1).astype(heads.v.dtype)
  out = layer.mix(with_values(heads, v))
  return out.reshape(out.shape[0], -1, *out.shape[-2:]).astype(jnp.float32)


def layers_of(model: Any) -> Iterator[Any]:
  """Yields the layers of a host in the order of its trace; None for what shows none.

  Raises:
    ValueError: for a model that is none of the hosts.
  """
  stages = getattr(getattr(model, "stages", None), "stages", None)
  if stages is None:
    if not hasattr(model, "stack"):
      raise ValueError(f"{type(model).__name__} is no host with a stack or stages")
    stages = [model.stack]
  for stage in stages:
    if hasattr(stage, "each"):
      for _, _, block, _ in stage.each():
        yield block.mixer
    else:
      yield from [None] * len(stage.sequence)


def of_trace(model: Any, trace: Trace, *, chunk: int = 128) -> list[Statistics | None]:
  """Returns the statistics of every layer of a trace; None for what mixes no heads."""
  pairs = zip(layers_of(model), trace.heads, strict=True)
  return [
    None if heads is None else statistics(layer, heads, chunk=chunk)
    for layer, heads in pairs
  ]


def of_model(
  model: Any, *inputs: Any, chunk: int = 128, **context: Any
) -> list[Statistics | None]:
  """Returns the statistics of every layer of a host for a batch.

  Args:
    model: a host.
    *inputs: of its call.
    chunk: as in `statistics`.
    **context: of its call.
  """
  run = jax.jit(
    lambda model, inputs, context: of_trace(
      model, model.trace(*inputs, **context), chunk=chunk
    )
  )
  return run(model, inputs, context)
