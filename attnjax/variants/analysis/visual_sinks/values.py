"""Sink values of tokens, and the dimensions in which they stand out."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from attnjax.core import definition

# Of the language models of LLaVA, by the authors' code.
DIMENSIONS = {"llama-2-7b": (2533, 1415), "llama-2-13b": (2100, 4743)}
_EPSILON = 1e-6


def sink_values(
  x: Float[Array, "... D"], dims: Sequence[int] | np.ndarray
) -> Float[Array, "..."]:
  """Computes the largest of |x[d]| / rms(x) over the sink dimensions d.

  Args:
    x: hidden states that enter a layer, before its norm.
    dims: the sink dimensions, at least one.

  Raises:
    ValueError: if there is none, or one that x lacks.
  """
  chosen = np.asarray(dims, int)
  if not chosen.size or chosen.min() < 0 or chosen.max() >= x.shape[-1]:
    raise ValueError(f"dims = {tuple(chosen.tolist())} of a width of {x.shape[-1]}")
  x = definition.wide(x)
  size = jnp.sqrt(jnp.mean(x**2, axis=-1, keepdims=True) + _EPSILON)
  return jnp.max(jnp.abs(x[..., chosen] / size), axis=-1)


def sinks(
  x: Float[Array, "B T D"],
  dims: Sequence[int] | np.ndarray,
  *,
  tau: float = 20.0,
  valid: Bool[Array, "B T"] | None = None,
) -> Bool[Array, "B T"]:
  """Returns which tokens are sinks: those whose sink value is above tau.

  No value is above sqrt(D): for narrow models tau must be less.

  Args:
    x: hidden states that enter a layer.
    dims: the sink dimensions.
    tau: the threshold.
    valid: True at the real tokens.
  """
  found = sink_values(x, dims) > tau
  return found if valid is None else found & valid


def find_sink_dims(
  hidden: Sequence[Float[Array | np.ndarray, "B T D"]],
  k: int = 2,
  *,
  tau: float = 20.0,
  token: int = 0,
) -> tuple[int, ...]:
  """Returns the dimensions in which a token's hidden states are massive.

  They are those of the k largest means, over examples and the middle layers, of
  |x[d]| / rms(x) that are above tau; the largest comes first. Mingjie Sun et al.
  Massive Activations in Large Language Models. arXiv:2402.17762.

  Args:
    hidden: the inputs of all layers and the last output, as `Trace.hidden`; the middle
      is all but the inputs of the first two layers and the last output.
    k: how many at most.
    tau: the threshold.
    token: the token that is a sink everywhere, the first word.
  """
  middle = list(hidden)[2:-1] or list(hidden)[-1:]
  x = np.stack([np.asarray(x, np.float32)[:, token] for x in middle])
  size = np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + _EPSILON)
  mean = np.mean(np.abs(x) / size, axis=(0, 1))
  order = np.argsort(-mean, kind="stable")[:k]
  return tuple(int(d) for d in order if mean[d] > tau)
