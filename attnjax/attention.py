"""Softmax attention with every feature: one function, four implementations.

  raw[t, s]   = scale q[t, n] . k[s, n K // N]
  score[t, s] = score(softcap(raw) + bias, b, n, q, k)     where seen, else -inf
  lse[t]      = log( sum_s exp(score[t, s]) + exp(sinks[n]) )
  out[t]      = sum_s exp(score[t, s] - lse[t]) dropout[t, s] v[s, n K // N]

A query that sees nothing has out = 0, lse = -inf (the sink, if there is one) and no
gradient. Scores, weights and lse are float32 (float64 for float64).

  reference  the definition, with the (T, S) matrix
  xla        tiles in plain JAX on any device: O(T) memory, any order of derivative
  pallas     fused kernels for TPUs
  triton     fused kernels for NVIDIA GPUs

Cost: O(T S H N), less where whole blocks are not seen.
"""

import dataclasses
import functools
import logging
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from attnjax.contract import unknown
from attnjax.core import inputs, masks, softmax
from attnjax.core.masks import Mask
from attnjax.core.platform import target_platform
from attnjax.core.scores import Scores
from pallas_kernels import flash

combine = softmax.combine
IMPLEMENTATIONS = ("reference", "xla", "pallas", "triton")
_FUSED = {"tpu": "pallas", "gpu": "triton"}


def dot_product_attention(
  query: Float[Array, "..."],
  key: Float[Array, "..."],
  value: Float[Array, "..."],
  bias: Array | None = None,
  mask: Array | Mask | None = None,
  *,
  scale: float | None = None,
  is_causal: bool = False,
  query_seq_lengths: Int[Array, "..."] | None = None,
  key_value_seq_lengths: Int[Array, "..."] | None = None,
  local_window_size: int | tuple[int, int] | None = None,
  segment_ids: Int[Array, "..."] | None = None,
  kv_segment_ids: Int[Array, "..."] | None = None,
  query_positions: Int[Array, "..."] | int | None = None,
  key_positions: Int[Array, "..."] | int | None = None,
  score: Callable[..., Array] | None = None,
  softcap: float = 0.0,
  sinks: Float[Array, "..."] | None = None,
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
  """Softmax attention; (*B, T, N, V), with lse (*B, T, N) if `return_lse`.

  A superset of `jax.nn.dot_product_attention` and of what
  `nnx.MultiHeadAttention(attention_fn=...)` calls. Two things differ on purpose: causal
  attention with T != S is aligned bottom-right (the last query sees the last key), and
  a query that may attend to nothing gives 0.

  Args:
    query: (T, N, H) or (*B, T, N, H) with any number of batch axes.
    key: (*B, S, K, H); K divides N; query head n reads key head n K // N.
    value: (*B, S, K, V); V need not be H.
    bias: added to the scaled, capped scores; broadcasts to (B, N, T, S).
    mask: True = may attend, broadcasts to (B, N, T, S); or a `Mask`, whose positions
      are `query_positions` and `key_positions`.
    scale: H^-0.5 if None.
    is_causal: a query sees the keys at its position and before.
    query_seq_lengths: (B,); queries from there on see nothing.
    key_value_seq_lengths: (B,); keys from there on are not seen. Causal attention
      stays aligned by T and S, not by these lengths.
    local_window_size: w or (left, right), both ends included, around the position.
    segment_ids: (B, T); tokens see their own segment; negative ids see nothing.
    kv_segment_ids: (B, S); `segment_ids` if None.
    query_positions: the first query's position, or (B,), or (B|1, T) positions. None:
      S - T with `is_causal`, else 0.
    key_positions: the same of the keys; 0 if None.
    score: your own function (score, b, n, q, k) of scalars, in jax.numpy; q and k are
      positions. It may read arrays that it captures; they get gradients.
    softcap: scores become softcap * tanh(score / softcap); 0 is none.
    sinks: (N,), logits in the softmax's denominator only.
    dropout_rng: a random key; needed if dropout_rate > 0 and not deterministic.
    dropout_rate: of the weights, by a hash of (key, batch, head, positions): the same
      in every implementation.
    broadcast_dropout: the same dropout for all batches and heads.
    deterministic: no dropout.
    dtype: what query, key and value are cast to before.
    precision: of the products: None or "highest" in "reference" and "xla".
    module: an NNX module where the weights are sown, as "attention_weights"; this
      costs O(T S) memory.
    return_residual: as `return_lse`; the name of `jax.nn`.
    return_lse: also the log of the softmax's denominator, differentiable.
    impl: one of IMPLEMENTATIONS, or "auto": the fastest that can do the problem on
      this platform.
    implementation: as `impl`; the name of `jax.nn`.

  Raises:
    ValueError: if shapes do not fit, or a name or number is not allowed.
    NotImplementedError: if the implementation that is named lacks a feature.
  """
  impl = _named(impl, implementation)
  if dtype is not None:
    query, key, value = (x.astype(dtype) for x in (query, key, value))
  lead, query, key, value = inputs.four_axes(query, key, value)
  softmax.check(query, key, value, sinks=sinks)
  shape = (*query.shape[:1], query.shape[2], query.shape[1], key.shape[1])
  what = inputs.positioned(
    shape,
    query_positions,
    key_positions,
    shape[3] - shape[2] if is_causal else 0,
    bias=inputs.bias(bias, shape),
    softcap=softcap,
  )
  seen = (
    inputs.mask(mask, shape, is_causal, local_window_size)
    & inputs.lengths(what, shape, query_seq_lengths, key_value_seq_lengths)
    & masks.conjunction(shape, segment_ids=segment_ids, kv_segment_ids=kv_segment_ids)
  )
  what = dataclasses.replace(what, mask=seen)
  if score is not None:
    what = inputs.with_function(what, score, softmax.wide(query))
  if dropout_rate and not deterministic:
    what = inputs.with_dropout(
      what, shape, dropout_rng, dropout_rate, broadcast_dropout
    )
  options = {"sinks": sinks, "scale": scale, "impl": impl, "precision": precision}
  out, lse = attend(query, key, value, what, **options)
  if module is not None:
    # The weights are what attention gives for the values of an identity matrix.
    eye = jnp.eye(shape[3], dtype=query.dtype)[None, :, None]
    eye = jnp.broadcast_to(eye, (*key.shape[:3], shape[3]))
    weights, _ = attend(query, key, eye, what, **options)
    weights = weights.swapaxes(1, 2)
    weights = weights.reshape(*lead, *weights.shape[1:])
    module.sow(nnx.Intermediate, "attention_weights", weights)
  out = out.reshape(*lead, *out.shape[1:])
  lse = lse.reshape(*lead, *lse.shape[1:])
  return (out, lse) if return_residual or return_lse else out


def attend(
  q: Float[Array, "B T N H"],
  k: Float[Array, "B S K H"],
  v: Float[Array, "B S K V"],
  scores: Scores | None = None,
  *,
  sinks: Float[Array, "N"] | None = None,
  scale: float | None = None,
  impl: str = "auto",
  precision: Any = None,
) -> tuple[Float[Array, "B T N V"], Float[Array, "B T N"]]:
  """(out, lse): what all that is softmax in attnjax calls.

  Args:
    q: queries.
    k: keys; K divides N.
    v: values.
    scores: what is done to scores; None is nothing.
    sinks: logits in the denominator only.
    scale: H^-0.5 if None.
    impl: one of IMPLEMENTATIONS, or "auto".
    precision: of the products, in "reference" and "xla".
  """
  scores = Scores() if scores is None else scores
  softmax.check(q, k, v, scores, sinks)
  given = (q, k, v, scores)
  options = {"sinks": sinks, "scale": q.shape[-1] ** -0.5 if scale is None else scale}
  match impl:
    case "reference":
      with jax.default_matmul_precision(precision):
        return softmax.reference(*given, **options)
    case "xla":
      return softmax.chunked(*given, **options, precision=precision)
    case "pallas" | "triton":
      if precision is not None:
        raise NotImplementedError(f"impl {impl!r} takes no precision; 'xla' does")
      return flash.attend(*given, **options, impl=impl)
    case "auto":
      return _automatic(*given, **options, precision=precision)
  raise ValueError(unknown("impl", impl, ("auto", *IMPLEMENTATIONS)))


def kernels() -> str | None:
  """The implementation that is made for the device it will run on; None for CPUs."""
  return _FUSED.get(target_platform())


def _automatic(q, k, v, scores, *, precision, **options):
  """By the platform's kernels, or, saying why once, by "xla"."""
  platform = target_platform()
  impl = kernels()
  if impl is not None and precision is None:
    try:
      return flash.attend(q, k, v, scores, **options, impl=impl)
    except (NotImplementedError, ImportError) as reason:
      say_once(f"impl 'auto' takes 'xla' on {platform}, not {impl!r}: {reason}")
  return softmax.chunked(q, k, v, scores, **options, precision=precision)


@functools.cache
def say_once(message: str) -> None:
  """Logs a warning, the first time that it is given."""
  logging.getLogger(__name__).warning(message)


def _named(impl: str, implementation: str | None) -> str:
  if implementation is None:
    return impl
  if impl != "auto":
    raise ValueError(f"impl {impl!r} and implementation {implementation!r}: give one")
  return implementation
