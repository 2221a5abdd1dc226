"""attnjax: published attention mechanisms as pure functions, layers and kernels.

One softmax attention with every feature, `attnjax.dot_product_attention`, and every
system of the catalogue as a module that is found by its slug:

  import attnjax
  attnjax.dot_product_attention(q, k, v, mask=attnjax.masks.Window(256, 0))
  attnjax.gated_attention.attend(q, k, v, gate, causal=True)
  attnjax.systems()                # all of them, as a table
  attnjax.systems(form="causal", impl="triton")
"""

from types import ModuleType

from attnjax import inspect, sharding
from attnjax.attention import combine, dot_product_attention
from attnjax.contract import load
from attnjax.contract import systems as _systems
from attnjax.contract import unknown as _unknown
from attnjax.contrastive import contrastive_loss
from attnjax.core import masks, policies
from attnjax.exporting import export
from attnjax.flex import and_masks, create_block_mask, flex_attention, or_masks
from attnjax.paged import paged_decode
from attnjax.statistics import attention_column_sums, attention_rows
from attnjax.table import systems

__all__ = [
  "and_masks",
  "attention_column_sums",
  "attention_rows",
  "combine",
  "contrastive_loss",
  "create_block_mask",
  "dot_product_attention",
  "export",
  "flex_attention",
  "inspect",
  "load",
  "masks",
  "or_masks",
  "paged_decode",
  "policies",
  "sharding",
  "systems",
]


def __getattr__(name: str) -> ModuleType:
  if name.startswith("_"):
    raise AttributeError(f"module 'attnjax' has no attribute {name!r}")
  if name in _systems():
    return load(name)
  raise AttributeError(_unknown("attribute of attnjax", name, __dir__()))


def __dir__() -> list[str]:
  return sorted([*__all__, *_systems()])
