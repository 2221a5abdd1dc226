"""The contrastive loss on the CPU, by tiles, beside its plain form with one matrix.

Value and all gradients, both directions, float32. Time is by the clock; the bytes
beside arguments and results are those of the compiled programs, also of batches that do
not run here: at 32k pairs the plain form needs 30 GB.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import attnjax
from experiments.bench.timing import forward, race

# Pairs and elements of a row.
TIMED = ((1024, 256), (2048, 256), (4096, 256), (8192, 256), (4096, 64), (4096, 512))
COMPILED = ((2048, 512), (8192, 512), (32768, 512))
# The plain form's time over that of the tiles, and its bytes over theirs, at least.
FASTER, SMALLER = 0.8, {32768: 50}
# Names of the implementations in the table.
_NAMES = {"attnjax": "xla", "plain": "reference"}


def contrastive() -> Iterator[dict]:
  """Measures seconds of batches, and bytes of others."""
  for count, size in TIMED:
    draw = np.random.default_rng(0).standard_normal
    q, items = (jnp.asarray(draw((count, size)), "float32") for _ in range(2))
    arrays = q, items, jnp.float32(-0.5 * np.log(size))
    times = race({n: forward(_both(i), arrays) for n, i in _NAMES.items()})
    values = {f"{n} [s]": t.median for n, t in times.items()}
    ratio = times["plain"].median / times["attnjax"].median
    name = f"contrastive, {count} pairs, D = {size}"
    yield _row(name, values, ratio, FASTER) | {"calls": times["attnjax"].calls}
  for count, size in COMPILED:
    needed = {n: _bytes(impl, count, size) for n, impl in _NAMES.items()}
    values = {f"{n} [MB]": b / 1e6 for n, b in needed.items()}
    ratio, name = needed["plain"] / needed["attnjax"], f"contrastive, {count} pairs"
    yield _row(f"{name}, D = {size}, memory", values, ratio, SMALLER.get(count, 1))


def _row(name: str, values: dict, ratio: float, least: float) -> dict:
  values = values | {"plain / attnjax": ratio}
  bound = f"plain / attnjax >= {least:g}"
  return {"name": name, "values": values, "bound": bound, "holds": ratio >= least}


def _both(impl: str) -> Callable:
  """Returns the function to the loss and its gradients."""

  def loss(q, items, log_scale):
    return attnjax.contrastive_loss(q, items, log_scale=log_scale, impl=impl)

  return jax.value_and_grad(loss, (0, 1, 2))


def _bytes(impl: str, count: int, size: int) -> int:
  """Returns the bytes beside arguments and results of a compiled program."""
  x = jax.ShapeDtypeStruct((count, size), jnp.float32)
  scale = jax.ShapeDtypeStruct((), jnp.float32)
  compiled: Any = jax.jit(_both(impl)).lower(x, x, scale).compile()
  return compiled.memory_analysis().temp_size_in_bytes
