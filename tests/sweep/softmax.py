"""Softmax attention on a random problem, in any implementation."""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from attnjax.attention import dot_product_attention
from attnjax.core.softmax import xla_dense
from tests import captured, definition, precision
from tests.sweep.softmax_problems import Problem, draw


def excess(seed: int, impl: str) -> dict[str, float]:
  """The errors of problem `seed` as parts of what they may be."""
  p = draw(seed)
  # Half of the problems as if they were large, in tiles.
  with mock.patch.object(xla_dense, "MATRIX", 0 if seed % 2 else xla_dense.MATRIX):
    got = results(p, impl)
  want, plain = (_summed(p, x) for x in _definitions(p))
  return precision.excess(got, want, plain, p.dtype)


def describe(seed: int) -> dict:
  """What the problem has."""
  return draw(seed).words


def _definitions(p: Problem):
  problem = {n: np.asarray(x, np.float64) for n, x in p.arrays.items()} | p.exact
  return definition.exact(problem, p.dtype), definition.plain(problem, p.dtype)


def _summed(p, found):
  """Gradients by what a score function captures, in the shapes of that."""
  if not p.score:
    return found
  place = p.exact["place"] if p.score == "table" else None
  return captured.summed(found, p.score, p.arrays[p.score].shape, place)


def results(p: Problem, impl: str) -> dict[str, jax.Array]:
  """out, lse and all gradients."""
  options = {n: x for n, x in p.options.items() if n not in ("hidden", "filler")}
  given = {n: jnp.asarray(x) for n, x in p.arrays.items()}
  for name, where in p.options.get("hidden", {}).items():
    where = where[:, :, None, None] if name in "kv" else where
    given[name] = jnp.where(where, p.options["filler"], given[name])
  g, g_lse = (p.exact[n].astype("float32") for n in ("g", "g_lse"))

  def loss(given):
    out, lse = dot_product_attention(
      given["q"],
      given["k"],
      given["v"],
      given.get("bias"),
      sinks=given.get("sinks"),
      score=_score(p, given),
      return_lse=True,
      impl=impl,
      **options,
    )
    total = jnp.sum(out.astype("float32") * g)
    total += jnp.sum(jnp.where(jnp.isfinite(lse), lse, 0) * g_lse)
    return total, {"out": out, "lse": lse}

  grads, found = jax.jit(jax.grad(loss, has_aux=True))(given)
  return found | {f"d{n}": x for n, x in grads.items()}


def _score(p, given):
  match p.score:
    case "slopes":
      return lambda x, b, n, q, k: (
        x - given["slopes"][n] * jnp.abs(q - k).astype(jnp.float32)
      )
    case "table":
      return lambda x, b, n, q, k: x + given["table"][n, jnp.clip(q - k + 15, 0, 30)]
    case "gain":
      return lambda x, b, n, q, k: x * given["gain"][n]
  return None
