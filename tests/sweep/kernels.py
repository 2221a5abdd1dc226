"""The kernels that are swept, by name, and what is left out."""

from collections.abc import Callable

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
