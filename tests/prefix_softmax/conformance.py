"""What both backends' kernels must compute: results and gradients of the definition."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from attnjax.core.recurrence import prefix
from pallas_kernels import prefix_softmax
from tests import precision, simulate
from tests.sweep import prefix_softmax as sweep


def check(case, impl: str, tolerance: float, tiles=None) -> None:
  """Compares with the definition in float32, relative to the largest element."""
  arrays, options = case.arrays(), case.arguments()
  found = _found(arrays, options, impl, tiles)
  wanted = _results(prefix.reference, options)(arrays)
  for got, want in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
    got, want = (np.asarray(x, "float32") for x in (got, want))
    np.testing.assert_array_equal(np.isneginf(got), np.isneginf(want))
    largest = np.abs(want[np.isfinite(want)]).max(initial=1e-3)
    got, want = (np.where(np.isfinite(x), x, 0) for x in (got, want))
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * largest)


def excess(case, impl: str, dtype: str, tiles=None) -> dict[str, float]:
  """The errors of a case with a state before it, as parts of what they may be.

  In the words of `tests.sweep`: the state is one token more, before the first.
  """
  arrays, options = case.arrays(dtype), case.arguments()
  (out, lse, last), (grads,) = _found(arrays, options, impl, tiles, last=0.0)
  initial = grads["initial"]
  got = {"out": out, "lse": lse, "state": last.out, "dstate": initial.out}
  got |= {"dscores": grads["scores"], "dvalues": grads["values"]}
  ids = np.asarray(options["segment_ids"])
  words = {
    "arrays": _with_state(arrays),
    "ids": np.concatenate([ids[:, :1], ids], axis=1),
    "g": _after_nothing(_cotangent(out)),
    "g_lse": _after_nothing(_cotangent(lse)),
    "words": {"dtype": dtype},
  }
  return precision.excess(got, *map(_from_token, sweep.definitions(words)), dtype)


def _with_state(arrays):
  initial = jax.tree.map(lambda x: np.asarray(x, np.float64), arrays["initial"])
  first = {"scores": initial.top + np.log(initial.total), "values": initial.out}
  return {n: np.concatenate([x[:, None], arrays[n]], axis=1) for n, x in first.items()}


def _after_nothing(x):
  x = np.asarray(x, np.float64)
  return np.concatenate([0 * x[:, :1], x], axis=1)


def _from_token(found):
  """The results of the tokens, and those of the states."""
  parts = {n: x[:, 1:] for n, x in found.items()}
  return parts | {"state": found["out"][:, -1], "dstate": found["dvalues"][:, 0]}


def _found(arrays, options, impl, tiles=None, last=1.0):
  """What the kernel gives, twice the same."""
  function = functools.partial(prefix_softmax.prefix, impl=impl, tiles=tiles)
  run = _results(function, options, last)
  with simulate.accelerators():
    found, again = (jax.tree.map(np.asarray, run(arrays)) for _ in range(2))
  jax.tree.map(np.testing.assert_array_equal, found, again)
  return found


def _results(function, options, last=1.0):
  """Arrays to results and gradients, compiled; `last` times those by the last state."""

  @jax.jit
  def run(arrays):
    found, pull = jax.vjp(lambda x: function(**x, **options), arrays)
    out, lse, state = jax.tree.map(_cotangent, found)
    return found, pull((out, lse, jax.tree.map(lambda x: last * x, state)))

  return run


def _cotangent(x):
  wave = jnp.cos(jnp.arange(x.size, dtype="float32")).reshape(x.shape)
  return jnp.where(x == -jnp.inf, 0, wave).astype(x.dtype)
