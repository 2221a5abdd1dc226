"""The refusal of kernels by functions that have none."""

from pallas_kernels.calling import BACKENDS


def refuse_kernels(impl: str, name: str) -> None:
  """Raises NotImplementedError if `impl` is a kernel."""
  if impl in BACKENDS:
    raise NotImplementedError(
      f"impl {impl!r} has no {name}; 'xla' has it, and no step of it needs a kernel"
    )
