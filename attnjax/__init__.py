"""attnjax: published attention mechanisms as pure functions, layers and kernels.

Every system of the catalogue is a module that is found by its slug:

  import attnjax
  attnjax.gated_attention.attend(q, k, v, gate, causal=True)
  attnjax.systems()   # slug -> dotted name
"""

from types import ModuleType

from attnjax.contract import load, systems

__all__ = ["load", "systems"]


def __getattr__(name: str) -> ModuleType:
  if not name.startswith("_") and name in systems():
    return load(name)
  raise AttributeError(f"module 'attnjax' has no attribute {name!r}")


def __dir__() -> list[str]:
  return sorted([*globals(), *systems()])
