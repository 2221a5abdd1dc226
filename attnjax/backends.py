"""Which implementation computes softmax attention: the named one, or the fastest.

reference  the definition, with the (T, S) matrix
xla        tiles in plain JAX on any device: O(T) memory, any order of derivative
pallas     fused kernels for TPUs
triton     fused kernels for NVIDIA GPUs
"""

import functools
import logging
from typing import Any

import jax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from attnjax.contract import unknown
from attnjax.core import inputs, modes, softmax
from attnjax.core.platform import target_platform
from attnjax.core.scores import Scores
from pallas_kernels import flash

IMPLEMENTATIONS = ("reference", "xla", "pallas", "triton")
_FUSED = {"tpu": "pallas", "gpu": "triton"}


def attend(
  q: Float[Array, "B T N H"],
  k: Float[Array, "B S K H"],
  v: Float[Array, "B S K V"],
  scores: Scores | None = None,
  *,
  sinks: Float[Array, "N"] | None = None,
  scale: ArrayLike | None = None,
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
    scale: H^-0.5 if None; a number or an array (B|1, N|1, T|1, S|1), not (N,).
    impl: one of IMPLEMENTATIONS, or "auto".
    precision: of the products, in "reference" and "xla".
  """
  scores = Scores() if scores is None else scores
  softmax.check(q, k, v, scores, sinks)
  scores, scale = inputs.scaled(scores, scale, q, k)
  if impl not in ("auto", *IMPLEMENTATIONS):
    raise ValueError(unknown("impl", impl, ("auto", *IMPLEMENTATIONS)))
  name = inputs.precision(precision)
  if 0 in (*q.shape, *v.shape):
    options = {"sinks": sinks, "scale": scale}
    return inputs.nothing(q, k, v, scores, softmax.reference, **options)

  def run(q, k, v):
    return modes.broadcasting(_by)(
      impl, q, k, v, scores, name, sinks=sinks, scale=scale
    )

  return modes.whole(run)(q, k, v)


def _by(impl, q, k, v, scores, precision, **options):
  """(out, lse) by an implementation."""
  given = (q, k, v, scores)
  match impl:
    case "reference":
      with jax.default_matmul_precision(precision):
        return softmax.reference(*given, **options)
    case "xla":
      return softmax.chunked(*given, **options, precision=precision)
    case "auto":
      return _automatic(*given, **options, precision=precision)
  if precision not in (None, "default"):
    raise NotImplementedError(f"impl {impl!r} takes no precision; 'xla' does")
  return flash.attend(*given, **options, impl=impl)


def kernels() -> str | None:
  """The implementation that is made for the device it will run on; None for CPUs."""
  return _FUSED.get(target_platform())


def _automatic(q, k, v, scores, *, precision, **options):
  """By the platform's kernels, or, saying why once, by "xla"."""
  platform = target_platform()
  impl = kernels()
  if impl is not None and precision in (None, "default"):
    try:
      return flash.attend(q, k, v, scores, **options, impl=impl)
    except (NotImplementedError, ImportError) as reason:
      say_once(f"impl 'auto' takes 'xla' on {platform}, not {impl!r}: {reason}")
  return softmax.chunked(q, k, v, scores, **options, precision=precision)


@functools.cache
def say_once(message: str) -> None:
  """Logs a warning, the first time that it is given."""
  logging.getLogger(__name__).warning(message)
