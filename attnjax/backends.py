"""The choice of an implementation: the named one, or the fastest on the device.

reference  the definition
xla        plain JAX on any device, any order of derivative (`attnjax.core`)
pallas     fused kernels for TPUs (`pallas_kernels`)
triton     fused kernels for NVIDIA GPUs

An algorithm that has kernels is dispatched by

  run = choose(impl, {"reference": reference, "xla": plain}, prepare)

where `prepare(impl)` returns the function by a backend's kernels, or raises.
"""

import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from attnjax import arguments
from attnjax.contract import check_known
from attnjax.core import modes, softmax
from attnjax.core.platform import target_platform
from attnjax.core.recurrence import linear, prefix
from attnjax.core.scores import Scores
from attnjax.core.softmax import paged as pages
from attnjax.core.softmax import statistics as sums
from attnjax.core.softmax.paged import Paged
from pallas_kernels import decayed_linear, flash, paged_decode, softmax_statistics
from pallas_kernels import prefix_softmax as scans
from pallas_kernels.calling import BACKENDS

IMPLEMENTATIONS = ("reference", "xla", *BACKENDS)
_FUSED = {"tpu": "pallas", "gpu": "triton"}


def kernels() -> str | None:
  """Returns the implementation for the device a program will run on; None for CPUs."""
  return _FUSED.get(target_platform())


def choose[T](impl: str, plain: Mapping[str, T], prepare: Callable[[str], T]) -> T:
  """Returns the function of an implementation.

  "auto" is the backend that `kernels` names if it can do the problem, else "xla", and
  the reason is logged once.

  Args:
    impl: "auto", a name of `plain`, or a backend's.
    plain: maps names to functions in plain JAX.
    prepare: returns the function of a backend by its name; raises NotImplementedError
      for a problem that it cannot do, ImportError if something is not installed.

  Raises:
    ValueError: if the name is unknown.
    NotImplementedError: if the named backend cannot do the problem.
    ImportError: if what the named backend needs is not installed.
  """
  check_known("impl", impl, ("auto", *plain, *BACKENDS))
  if impl == "auto":
    impl = "xla"
    if (fused := kernels()) is not None:
      try:
        return prepare(fused)
      except (NotImplementedError, ImportError) as reason:
        say_once(
          f"impl 'auto' takes 'xla' on {target_platform()}, not {fused!r}: {reason}"
        )
  return plain[impl] if impl in plain else prepare(impl)


@functools.cache
def say_once(message: str) -> None:
  """Logs a warning the first time that this message is given."""
  logging.getLogger(__name__).warning(message)


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
  """Computes (out, lse), softmax attention, for all systems that are built on it.

  Args:
    q: queries.
    k: keys; K divides N.
    v: values.
    scores: the modifications of the scores; None is none.
    sinks: logits in the denominator only.
    scale: H^-0.5 if None; a number or an array (B|1, N|1, T|1, S|1), not (N,).
    impl: one of IMPLEMENTATIONS, or "auto".
    precision: of the products, in "reference" and "xla".
  """
  scores = Scores() if scores is None else scores
  softmax.check(q, k, v, scores, sinks)
  scores, scale = arguments.scaled(scores, scale, q, k)
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  name, given = arguments.precision(precision), {"sinks": sinks, "scale": scale}
  if 0 in (*q.shape, *v.shape):
    return arguments.nothing(q, k, v, scores, softmax.reference, **given)
  plain = {
    "reference": functools.partial(_reference, name, scores),
    "xla": functools.partial(softmax.chunked, scores=scores, precision=name),
  }
  if name not in (None, "default"):
    if impl in BACKENDS:
      raise NotImplementedError(f"impl {impl!r} takes no precision; 'xla' does")
    impl = "xla" if impl == "auto" else impl

  def find(q, k, v):
    return choose(impl, plain, lambda impl: flash.prepared(q, k, v, scores, impl=impl))

  with jax.numpy_rank_promotion("allow"):
    if jax.config.jax_debug_infs:
      return modes.whole(lambda *x: find(*x)(*x, **given))(q, k, v)
    return find(q, k, v)(q, k, v, **given)


def _reference(precision, scores, q, k, v, **options):
  with jax.default_matmul_precision(precision):
    return softmax.reference(q, k, v, scores, **options)


def statistics(
  which: str, q, k, lse, scores: Scores, *, scale: float, impl: str = "auto"
) -> tuple[Array, ...]:
  """Computes "columns" or "rows" of `attnjax.core.softmax.statistics`.

  Args:
    which: of the two.
    q: (B, T, N, H).
    k: (B, S, K, H).
    lse: (B, T, N).
    scores: the modifications of the scores; the mask sees what is counted.
    scale: of q . k.
    impl: one of IMPLEMENTATIONS, or "auto".
  """
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  how = {"scores": scores, "scale": scale}
  plain = {
    "reference": functools.partial(getattr(sums, f"reference_{which}"), **how),
    "xla": functools.partial(getattr(sums, which), **how),
  }

  def prepare(impl: str):
    run = softmax_statistics.prepared(which, q, k, scores, impl=impl)
    return functools.partial(run, scale=scale)

  if which == "columns" and 0 in (*q.shape, *k.shape):
    return (jnp.zeros((*q.shape[::2], k.shape[1]), lse.dtype),)
  if 0 in (*q.shape, *k.shape):
    return jnp.full(lse.shape, -1, jnp.int32), jnp.zeros_like(lse)
  found = choose(impl, plain, prepare)(q, k, lse)
  return found if isinstance(found, tuple) else (found,)


def paged(
  q, k, v, starts, counts, *, page: int, scale: float, scores: bool, impl: str = "auto"
) -> Paged:
  """Computes `attnjax.core.softmax.paged.reference`.

  Args:
    q: (B, N, H).
    k: (Z, K, H).
    v: (Z, K, V).
    starts: int32, (B, G, M), first tokens of pages.
    counts: int32, (B, G, M), tokens of pages.
    page: tokens of a page at most.
    scale: of q . k.
    scores: whether pages are scored.
    impl: one of IMPLEMENTATIONS, or "auto".
  """
  pages.check(q, k, v, starts, counts)
  sizes = {"page": page}
  plain = {
    "reference": functools.partial(pages.reference, **sizes),
    "xla": functools.partial(pages.gathered, **sizes),
  }

  def prepare(impl: str):
    return paged_decode.prepared(q, k, v, starts, page=page, impl=impl)

  if 0 in (*q.shape, *v.shape, *starts.shape):
    impl = "reference"
  run = choose(impl, plain, prepare)
  return run(q, k, v, starts, counts, scale=scale, scores=scores)


def paged_cache(impl: str, q, keys, slots, *, page: int) -> Callable | None:
  """Returns `paged_decode.of_cache` by the device's kernels; None for plain JAX.

  Args:
    impl: one of IMPLEMENTATIONS, or "auto".
    q: (B, N, H).
    keys: (R, B, L, K, H), of R stacked layers.
    slots: (B, G, M), first slots of pages in their row.
    page: tokens of a page.
  """

  def prepare(impl: str) -> Callable | None:
    return paged_decode.of_cache(q, keys, slots, page=page, impl=impl)

  none: dict[str, Callable | None] = {"reference": None, "xla": None}
  return choose(impl, none, prepare)


def linear_attention(impl: str, q, k, v) -> Callable:
  """Returns the function that computes `linear.recurrent`, for these q, k, v.

  Args:
    impl: one of IMPLEMENTATIONS, or "auto".
    q: (B, T, N, H).
    k: (B, T, K, H).
    v: (B, T, K, E).
  """
  plain = {"reference": linear.recurrent, "xla": linear.chunked}
  return choose(impl, plain, lambda impl: decayed_linear.prepared(q, k, v, impl=impl))


def prefix_softmax(impl: str, scores, values) -> Callable:
  """Returns the function that computes `prefix.reference`, for these arrays.

  Args:
    impl: one of IMPLEMENTATIONS, or "auto".
    scores: (B, T, N).
    values: (B, T, N, E).
  """
  fastest = functools.partial(prefix.prefix, form=prefix.FORMS[prefix.fastest()])
  plain = {"reference": prefix.reference, "xla": fastest}
  return choose(impl, plain, lambda impl: scans.prepared(scores, values, impl=impl))
