"""The kernels that are swept, by name, and what is left out."""

from tests import simulate  # first: it sets what Triton reads on import

# ruff: isort: split
import traceback
from collections.abc import Callable

import jax

from tests.sweep import decayed_linear, prefix_softmax, softmax

KERNELS: dict[str, tuple[Callable[..., dict[str, float]], Callable, str]] = {
  f"flash_{impl}": (softmax.excess, softmax.describe, impl)
  for impl in ("reference", "xla", "pallas", "triton")
}
for _name, _module, _impls in (
  ("decayed_linear", decayed_linear, ("xla", "pallas", "triton")),
  ("prefix_softmax", prefix_softmax, ("chunked", "pallas", "triton")),
):
  KERNELS |= {
    f"{_name}_{impl}": (
      _module.excess,
      lambda seed, module=_module: module.draw(seed)["words"],
      impl,
    )
    for impl in _impls
  }


def failure(kernel: str, seed: int) -> str:
  """What is wrong with a kernel on a problem; empty if nothing is."""
  excess, _, impl = KERNELS[kernel]
  try:
    parts = excess(seed, impl)
  except NotImplementedError:
    return ""  # refused, not wrong
  large = {name: f"{part:.3g}" for name, part in parts.items() if not part <= 1.0}
  return f"errors, as parts of what they may be: {large}" if large else ""


def failures(kernel: str, seeds: list[int], right: bool = False) -> dict[int, str]:
  """Returns problems and what is wrong with a kernel there; all of them, if `right`."""
  found = {}
  for seed in seeds:
    try:
      with simulate.accelerators(detect_races=False):
        words = failure(kernel, seed)
    except Exception:
      words = traceback.format_exc()
    if words or right:
      found[seed] = f"{KERNELS[kernel][1](seed)}\n{words or 'is right'}"
  jax.clear_caches()  # programs of problems that do not come again
  return found
