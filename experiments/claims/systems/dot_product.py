"""The baseline: softmax attention in linear memory, and what grouped heads save.

Claimed:
- Markus N. Rabe, Charles Staats (arXiv:2112.05682): self-attention needs no memory that
  grows with the square of the length. XLA's memory analysis of forward and backward,
  compiled and not run, at T = 2048, 4096 and 8192;
- Joshua Ainslie et al., GQA (arXiv:2305.13245): with K key heads for N query heads the
  decoding cache is N / K times smaller; the outputs are those of N key heads that
  repeat.

  python -m experiments.claims dot_product

Measured in 19 s on 2 cores.
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from attnjax.variants.softmax import dot_product
from experiments.claims.bounds import Bound, at_least, at_most

LENGTHS = (2048, 4096, 8192)
HEADS, GROUPS, HEAD, WIDTH, TOKENS = 8, 2, 64, 64, 24


def claims() -> Iterator[Bound]:
  lean = [_memory("xla", length) for length in LENGTHS]
  whole = [_memory("reference", length) for length in LENGTHS]
  name = "memory beside arguments and results, 2k to 8k"
  yield at_most(f"{name}: growth of xla", lean[-1] / lean[0], 4.4)
  yield at_least(f"{name}: growth of the reference", whole[-1] / whole[0], 15)
  yield at_least("the same at 8k: reference / xla", whole[-1] / lean[-1], 20)
  yield from _grouped()


def _memory(impl: str, length: int) -> int:
  """Returns temporary bytes of forward and backward for q, k and v (1, T, N, H)."""
  shape = jax.ShapeDtypeStruct((1, length, HEADS, HEAD), jnp.float32)

  def total(q, k, v):
    out = dot_product.attend(q, k, v, causal=True, impl=impl)
    return jnp.sum(jnp.sin(out))

  run: Any = jax.jit(jax.grad(total, (0, 1, 2))).lower(shape, shape, shape).compile()
  return run.memory_analysis().temp_size_in_bytes


def _grouped() -> Iterator[Bound]:
  grouped, full = (
    dot_product.Layer(
      WIDTH, form="causal", heads=HEADS, kv_heads=count, rngs=nnx.Rngs(0)
    )
    for count in (GROUPS, HEADS)
  )
  full.qkv.query, full.out = grouped.qkv.query, grouped.out
  for name in ("key", "value"):
    kernel = getattr(grouped.qkv, name).kernel[...]
    repeated = jnp.repeat(kernel, HEADS // GROUPS, axis=1)
    getattr(full.qkv, name).kernel = nnx.Param(repeated)
  x = jax.random.normal(jax.random.key(0), (2, TOKENS, WIDTH))
  (got, cache), (want, large) = (_decode(layer, x) for layer in (grouped, full))
  saved = (large.k.nbytes + large.v.nbytes) / (cache.k.nbytes + cache.v.nbytes)
  name = f"{HEADS} query heads, {GROUPS} key heads"
  yield at_least(f"{name}: cache of {HEADS} key heads / this", saved, HEADS / GROUPS)
  error = float(jnp.abs(got - want).max() / jnp.abs(want).max())
  yield at_most(f"{name}: decoded outputs against repeated heads", error, 1e-5)


def _decode(layer, x):
  step, parts = jax.jit(lambda x, cache: layer.step(x, cache)), []
  cache = layer.init_cache(x.shape[0], x.shape[1])
  for t in range(x.shape[1]):
    y, cache = step(x[:, t : t + 1], cache)
    parts.append(y)
  return jnp.concatenate(parts, axis=1), cache
