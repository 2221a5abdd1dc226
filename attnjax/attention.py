"""Softmax attention with every feature: one function, four implementations.

  raw[t, s]   = scale q[t, n] . k[s, n K // N]
  score[t, s] = score(softcap(raw) + bias, b, n, q, k)     where seen, else -inf
  lse[t]      = log( sum_s exp(score[t, s]) + exp(sinks[n]) )
  out[t]      = sum_s exp(score[t, s] - lse[t]) dropout[t, s] v[s, n K // N]

A query that sees nothing has out = 0, lse = -inf (the sink, if there is one) and no
gradient. Scores, weights and lse are float32 (float64 for float64). A masked key, value
or bias may be NaN or infinite: it reaches neither the output nor a gradient, in any
implementation. A query that sees a NaN has NaN as its output, as it should.

  reference  the definition, with the (T, S) matrix
  xla        tiles in plain JAX on any device: O(T) memory, any order of derivative
  pallas     fused kernels for TPUs
  triton     fused kernels for NVIDIA GPUs

Cost: O(T S H N), less where whole blocks are not seen.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from attnjax import arguments, backends
from attnjax.core import masks, modes, places, softmax
from attnjax.core.dtypes import accumulator_dtype
from attnjax.core.masks import Mask

Integers = Int[Array | np.ndarray, "..."] | Sequence | int | np.integer

combine = softmax.combine
IMPLEMENTATIONS = backends.IMPLEMENTATIONS
attend = backends.attend


def dot_product_attention(
  query: Float[Array | np.ndarray, "..."],
  key: Float[Array | np.ndarray, "..."],
  value: Float[Array | np.ndarray, "..."],
  bias: ArrayLike | None = None,
  mask: ArrayLike | Sequence | Mask | None = None,
  *,
  scale: ArrayLike | None = None,
  is_causal: bool = False,
  query_seq_lengths: Integers | None = None,
  key_value_seq_lengths: Integers | None = None,
  local_window_size: Integers | tuple[Any, Any] | None = None,
  segment_ids: Integers | None = None,
  kv_segment_ids: Integers | None = None,
  query_positions: Integers | None = None,
  key_positions: Integers | None = None,
  score: Callable[..., ArrayLike] | None = None,
  softcap: ArrayLike = 0.0,
  sinks: ArrayLike | Sequence | None = None,
  dropout_rng: Array | None = None,
  dropout_rate: float = 0.0,
  broadcast_dropout: bool = False,
  deterministic: bool = False,
  dtype: Any = None,
  precision: Any = None,
  module: Any = None,
  return_residual: bool = False,
  return_lse: bool = False,
  impl: str = "auto",
  implementation: str | None = None,
) -> Any:
  """Computes softmax attention: (*B, T, N, V), with lse (*B, T, N) if `return_lse`.

  A superset of `jax.nn.dot_product_attention` and of the calls of `attention_fn` in
  `nnx.MultiHeadAttention` and its Linen counterpart. Two things differ on purpose:
  causal attention with T != S is aligned bottom-right (the last query sees the last
  key), and a query that may attend to nothing gives 0. An empty axis gives an empty
  output.

  Where B stands below, *B may stand as well; numbers may be lists or NumPy arrays.
  Positions are int32: known ones that do not fit are refused, traced ones make the
  output NaN.

  Args:
    query: (T, N, H) or (*B, T, N, H) with any number of batch axes.
    key: (*B, S, K, H); K divides N; query head n reads key head n K // N.
    value: (*B, S, K, V); V need not be H.
    bias: added to the scaled, capped scores; broadcasts to (B, N, T, S).
    mask: True = may attend, broadcasts to (B, N, T, S); or a `Mask`, whose positions
      are `query_positions` and `key_positions`. In an array of numbers 0 is False and
      all else True, as in flax; terms that are added to scores belong in `bias`.
    scale: H^-0.5 if None; a number, or an array (N|1, T|1, S|1), which gets a gradient.
    is_causal: a query sees the keys at its position and before.
    query_seq_lengths: (B,); queries from there on see nothing.
    key_value_seq_lengths: (B,); keys from there on are not seen. Causal attention
      stays aligned by T and S, not by these lengths.
    local_window_size: w or (left, right), both ends included, around the position;
      None and 2^31 - 1 or more are no limit. It may be traced.
    segment_ids: (T,) or (B, T); tokens see their own segment; negative ids see nothing.
    kv_segment_ids: (S,) or (B, S); `segment_ids` if None.
    query_positions: the first query's position, or (B,) of them; or the positions (T,),
      unless T is B, or (B|1, T). None: S - T with `is_causal`, else 0.
    key_positions: as `query_positions`, for the keys; 0 if None.
    score: a custom function (score, b, n, q, k) of scalars, in jax.numpy; q and k are
      positions. It may read arrays that it captures; they get gradients.
    softcap: scores become softcap * tanh(score / softcap); 0 is none; a number or an
      array, as `scale`.
    sinks: (N,), logits in the softmax's denominator only.
    dropout_rng: a random key; needed if dropout_rate > 0 and not deterministic.
    dropout_rate: of the weights, by a hash of (key, batch, head, positions), equal in
      every implementation.
    broadcast_dropout: whether all batches and heads share one dropout mask.
    deterministic: whether dropout is left out.
    dtype: the type to which query, key and value are cast first.
    precision: of the products in "reference" and "xla", as `jax.lax.dot` takes it; of
      a pair, the more precise one.
    module: a module of NNX or Linen where the weights, before any dropout, are sown as
      "attention_weights"; this costs O(T S) memory.
    return_residual: also returns the lse as `jax.nn` does, in the type of `key` and
      without a gradient.
    return_lse: also returns the log of the softmax's denominator, float32,
      differentiable.
    impl: one of IMPLEMENTATIONS, or "auto": the fastest that can do the problem on
      this platform.
    implementation: as `impl`, by the name that `jax.nn` uses.

  Raises:
    ValueError: if shapes do not fit, or a name or number is not allowed.
    NotImplementedError: if the named implementation lacks a feature.
  """
  impl = _named(impl, implementation)
  if return_residual and return_lse:
    raise ValueError("return_residual and return_lse: give one")
  with jax.numpy_rank_promotion("allow"):
    lead, query, key, value = arguments.four_axes(query, key, value, dtype)
    sinks = None if sinks is None else jnp.asarray(sinks)
    softmax.check(query, key, value, sinks=sinks)
    shape = (query.shape[0], query.shape[2], query.shape[1], key.shape[1])
    what, lost = places.positioned(
      shape,
      lead,
      query_positions,
      key_positions,
      shape[3] - shape[2] if is_causal else 0,
      bias=arguments.bias(bias, shape, lead),
      softcap=arguments.softcap(softcap, shape, lead),
    )
    seen = (
      arguments.mask(mask, shape, lead, is_causal, local_window_size)
      & places.lengths(what, shape, lead, query_seq_lengths, key_value_seq_lengths)
      & masks.conjunction(
        shape,
        segment_ids=places.rows(segment_ids, lead, shape[2]),
        kv_segment_ids=places.rows(kv_segment_ids, lead, shape[3]),
      )
    )
    what = dataclasses.replace(what, mask=seen)
    if score is not None:
      what = arguments.with_function(what, score, accumulator_dtype(query))
    if scale is not None:
      scale = arguments.number("scale", scale, shape, lead)
    options = {"sinks": sinks, "scale": scale, "impl": impl, "precision": precision}
    if module is not None:
      _sow(module, _weights(query, key, what, lead, options))
    if dropout_rate and not deterministic:
      what = arguments.with_dropout(
        what, shape, dropout_rng, dropout_rate, broadcast_dropout
      )

    def run(query, key, value):
      found = attend(query, key, value, what, **options)
      found = found if return_residual or return_lse else found[:1]
      if lost is not False:  # positions that no int32 holds: no answer, never another
        found = (jnp.where(lost, jnp.nan, x) for x in found)
      return [x.reshape(*lead, *x.shape[1:]) for x in found]

    out, *lse = modes.whole(run)(query, key, value)
    if return_residual:
      lse = [jax.lax.stop_gradient(x.astype(key.dtype)) for x in lse]
    return (out, *lse) if lse else out


def _weights(query, key, what, lead, options):
  """Returns the weights (*B, N, T, S): attention to the rows of an identity matrix."""
  eye = jnp.eye(key.shape[1], dtype=query.dtype)[None, :, None]
  eye = jnp.broadcast_to(eye, (*key.shape[:3], key.shape[1]))
  weights = attend(query, key, eye, what, **options)[0].swapaxes(1, 2)
  return weights.reshape(*lead, *weights.shape[1:])


def _sow(module, weights):
  """Sows the weights as "attention_weights", in the way of the module's library."""
  if isinstance(module, linen.Module):
    module.sow("intermediates", "attention_weights", weights)
  elif isinstance(module, nnx.Module):
    module.sow(nnx.Intermediate, "attention_weights", weights)
  else:
    raise ValueError(f"module is a {type(module).__name__}, not one of flax")


def _named(impl: str, implementation: str | None) -> str:
  if implementation is None:
    return impl
  if impl != "auto":
    raise ValueError(f"impl {impl!r} and implementation {implementation!r}: give one")
  return implementation
