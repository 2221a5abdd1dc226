"""Cost of whole published networks against the side of their images.

A network of each system of the form "backbone" (1,000 classes) or "dense" (3 outputs),
of the first size in its SIZES, takes one square image in float32, on the default
device: FLOPs are those of matrix products and convolutions, bytes the temporary memory
of XLA's executable, both of the compiled program, and seconds by the clock, the fastest
of several calls, for sides up to TIMED. `both` is the forward and the backward pass to
all parameters in a step of training, `forward` an evaluation. An exponent p says that a
number grows as the p-th power of the number of pixels.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from attnjax import contract
from attnjax.contract import networks
from attnjax.contract.subject import Subject
from attnjax.nn import running
from experiments.bench import length
from experiments.training import cost

SIDES = (224, 448, 672, 896)
TIMED = 448
_OUTPUTS = {"backbone": 1000, "dense": 3}


def rows(
  slugs: Sequence[str] = (),
  sides: Sequence[int] = SIDES,
  timed: int = TIMED,
  size: str = "",
) -> list[dict]:
  """Returns a row for each system and pass; prints numbers as they come.

  Args:
    slugs: the systems; all that have a network for images if empty.
    sides: of the images, in pixels.
    timed: the largest side for which seconds are measured.
    size: of the networks; the first of SIZES if "".

  Raises:
    ValueError: for an unknown slug, a system without such a network, an unknown size.
  """
  known = systems()
  for slug in slugs:
    contract.load(slug)
    if slug not in known:
      raise ValueError(f"{slug!r} has no network for images, {', '.join(known)} have")
  found = []
  for slug in slugs or known:
    for kind in length.PASSES:
      found.append(_row(slug, kind, sorted(sides), timed, size))
  return found


def systems() -> list[str]:
  """Returns the systems that have a whole network for images."""
  return [slug for slug in contract.systems() if _form(slug)]


def _form(slug: str) -> str:
  forms = contract.load(slug).FORMS
  return next((form for form in _OUTPUTS if form in forms), "")


def _row(slug, kind, sides: Sequence[int], timed: int, size: str) -> dict[str, Any]:
  module = contract.load(slug)
  size = size or next(iter(module.SIZES))
  networks.sized(module, size)  # which knows the names of sizes
  row: dict[str, Any] = {"slug": slug, "form": _form(slug), "size": size, "pass": kind}
  row |= {"sides": [], "flops": [], "bytes": [], "seconds": []}
  for side in sides:
    numbers = _numbers(Subject(module, _form(slug)), kind, side, timed, size)
    shown = "  ".join(f"{name} {value:.3g}" for name, value in numbers.items())
    print(f"{slug} {size} {kind:8s} {side:5d} pixels  {shown}", flush=True)
    row["sides"].append(side)
    for name, value in numbers.items():
      row[name].append(value)
  pixels = [side * side for side in row["sides"]]
  grows = {n: length.exponent(pixels, row[n]) for n in ("flops", "bytes")}
  return row | {"exponents": grows}


def _numbers(subject, kind, side: int, timed: int, size: str) -> dict[str, float]:
  """Returns FLOPs and bytes, and the seconds of sides up to `timed`."""
  model = networks.abstract(subject, size, classes=_OUTPUTS[subject.form])
  images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
  traced = jax.jit(_PASSES[kind]).trace(model, images)
  compiled = traced.lower().compile()
  numbers: dict[str, float] = {
    "flops": cost.flops(traced.jaxpr.jaxpr),
    "bytes": cost.memory(compiled)["bytes_temporary"],
  }
  if side > timed:
    return numbers
  given = (
    networks.drawn(model),
    jnp.cos(jnp.arange(3.0 * side * side)).reshape(images.shape),
  )
  call: Callable = functools.partial(compiled, *given)
  return numbers | {"seconds": length.fastest(lambda: jax.block_until_ready(call()))}


def _forward(model, images, train: bool = False):
  stats = running.init_stats(model)
  return running.apply(model, images, stats=stats, train=train)[0]


def _both(model, images):
  return jax.grad(lambda model: jnp.sum(jnp.sin(_forward(model, images, True))))(model)


_PASSES = {"forward": _forward, "both": _both}
