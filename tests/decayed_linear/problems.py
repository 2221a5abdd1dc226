"""Problems for both backends, and how far they are from the definition."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from attnjax.core.recurrence import linear
from pallas_kernels import decayed_linear
from tests import definition, precision, simulate
from tests.sweep import decayed_linear as sweep

# A loop over tokens with states in each step takes a minute if LLVM does nothing.
_OPTIMIZED = {"xla_backend_optimization_level": 1}


@dataclasses.dataclass(frozen=True)
class Problem:
  """Sizes, and what there is.

  Attributes:
    decay: (B|1, T|1, N|1), or () for none.
    runs: lengths of the documents, or () for one.
    state: whether there is one before the first token.
  """

  B: int = 1
  T: int = 1
  N: int = 1
  K: int = 1
  H: int = 8
  E: int = 8
  decay: tuple[int, ...] = ()
  runs: tuple[int, ...] = ()
  state: bool = True
  scale: float = 0.3
  dtype: str = "float32"

  def arrays(self):
    """(q, k, v, log_decay, state)."""
    B, T, N, K, H, E = (getattr(self, name) for name in "BTNKHE")
    shapes = (B, T, N, H), (B, T, K, H), (B, T, K, E), self.decay or (1,), (B, N, H, E)
    keys = jax.random.split(jax.random.key(0), len(shapes))
    drawn = [jax.random.normal(key, shape) for key, shape in zip(keys, shapes)]
    q, k, v = (x.astype(self.dtype) for x in drawn[:3])
    decay = -jax.nn.softplus(drawn[3] - 2) if self.decay else None
    return q, k, v, decay, drawn[4] if self.state else None

  def segment_ids(self):
    """(B, T), or None; an id comes back after another one."""
    if not self.runs:
      return None
    ids = np.repeat(np.arange(len(self.runs)) % 2, self.runs)
    return jnp.tile(jnp.asarray(ids, jnp.int32), (self.B, 1))

  def run(self, function, arrays, compiler=None, **options):
    """(results, gradients by the arrays that are there) of a weighted sum."""

    def total(arrays):
      q, k, v, decay, state = arrays
      out, last = function(
        q,
        k,
        v,
        decay,
        initial_state=state,
        segment_ids=self.segment_ids(),
        scale=self.scale,
        **options,
      )
      sums = (jnp.sum(_weights(x.shape) * x.astype("float32")) for x in (out, last))
      return sum(sums), (out, last)

    both = jax.jit(jax.value_and_grad(total, has_aux=True), compiler_options=compiler)
    (_, results), gradients = both(arrays)
    return jax.tree.map(np.asarray, (results, gradients))


def _weights(shape):
  size = int(np.prod(shape))
  return jnp.cos(jnp.arange(size, dtype="float32")).reshape(shape)


def errors(problem: Problem, impl: str, tiles=None, races: bool = False, function=None):
  """Largest errors relative to the largest element: out, state, gradients.

  They are those of `impl`, or of another function of the same arguments.
  """
  arrays = problem.arrays()
  exact = jax.tree.map(lambda x: x.astype("float32"), arrays)
  wanted = problem.run(linear.recurrent, exact, _OPTIMIZED)
  with simulate.accelerators(detect_races=races):
    if function is None:
      function = functools.partial(decayed_linear.attend, impl=impl, tiles=tiles)
    found = problem.run(function, arrays)
  for array, gradient in zip(jax.tree.leaves(arrays), jax.tree.leaves(found[1])):
    assert array.dtype == gradient.dtype, (array.dtype, gradient.dtype)
  return [_error(x, y) for x, y in zip(*map(jax.tree.leaves, (found, wanted)))]


def excess(problem: Problem, impl: str, tiles=None) -> dict[str, float]:
  """The errors of a 16-bit problem, as parts of what they may be."""
  arrays = dict(zip(("q", "k", "v", "log_decay", "initial_state"), problem.arrays()))
  with simulate.accelerators(detect_races=False):
    found = problem.run(
      decayed_linear.attend, tuple(arrays.values()), impl=impl, tiles=tiles
    )
  given = {n: np.asarray(x) for n, x in arrays.items() if x is not None}
  B, T, N, K, H, E = (getattr(problem, name) for name in "BTNKHE")
  g, g_state = (np.asarray(_weights(s)) for s in ((B, T, N, E), (B, N, H, E)))
  ids = problem.segment_ids()
  words = {"arrays": given, "scale": problem.scale, "g_state": g_state}
  words["g"] = g.astype(definition.TYPES[problem.dtype])
  words |= {"ids": None if ids is None else np.asarray(ids)}
  words["words"] = {"shape": (B, T, N, K, H, E), "dtype": problem.dtype}
  want, plain = sweep.definitions(words)
  got = dict(zip(("out", "state"), found[0]))
  got |= {f"d{n}": x for n, x in zip(arrays, found[1]) if x is not None}
  return precision.excess(got, want, plain, problem.dtype)


def _error(found, wanted):
  found, wanted = (np.asarray(x, "float32") for x in (found, wanted))
  return float(np.abs(found - wanted).max() / np.abs(wanted).max())
