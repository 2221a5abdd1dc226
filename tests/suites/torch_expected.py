"""What PyTorch gives on the CPU in float64; its numbers are kept beside this file.

They are those of FlexAttention and of its own samples of scaled_dot_product_attention.

  python -m tests.suites.torch_expected          compares the files with PyTorch
  python -m tests.suites.torch_expected --write  makes them

Needs PyTorch alone, not attnjax.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch.nn.attention import flex_attention as flex
from torch.testing._internal import common_methods_invocations

from tests.suites import vocabulary

FLEX = Path(__file__).with_name("flex_attention.npz")
SDPA = Path(__file__).with_name("dot_product_attention.npz")


def flex_results(name: str) -> dict[str, np.ndarray]:
  """out, lse and the gradients of one entry of the vocabulary."""
  given = {n: torch.tensor(x) for n, x in vocabulary.problem(name).items()}
  arrays = {n: torch.tensor(x) for n, x in vocabulary.captured().items()}
  read: set[str] = set()

  class Reading(dict):
    def __getitem__(self, key):
      read.add(key)
      return dict.__getitem__(self, key)

  mask_mod, score_mod = vocabulary.MODS[name](torch, Reading(arrays))
  at = [torch.tensor(0)] * 4
  if score_mod is not None:
    score_mod(torch.tensor(0.0), *at)
  learned = sorted(read & set(vocabulary.LEARNED))
  mask_mod, score_mod = vocabulary.MODS[name](torch, arrays)
  inputs = [given[n] for n in "qkv"] + [arrays[n] for n in learned]
  for x in inputs:
    x.requires_grad_()
  T = vocabulary.T
  mask = None
  if mask_mod is not None:
    mask = flex.create_block_mask(
      mask_mod, vocabulary.B, vocabulary.H, T, T, device="cpu"
    )
  options = {"enable_gqa": name in vocabulary.GROUPED}
  out, lse = flex.flex_attention(
    *inputs[:3], score_mod, mask, return_lse=True, **options
  )
  finite = torch.where(torch.isfinite(lse), lse, 0.0)
  loss = (out * given["g"]).sum() + (finite * given["g_lse"]).sum()
  grads = torch.autograd.grad(loss, inputs)
  names = ["out", "lse", *(f"d{n}" for n in (*"qkv", *learned))]
  return {n: x.detach().numpy() for n, x in zip(names, (out, lse, *grads))}


def sdpa_results() -> dict[str, np.ndarray]:
  """Inputs and results of PyTorch's own samples of scaled_dot_product_attention.

  Each shape once, with other numbers; those with dropout have none to compare.
  """
  name = "nn.functional.scaled_dot_product_attention"
  (operator,) = (x for x in common_methods_invocations.op_db if x.name == name)
  found: dict[str, np.ndarray] = {}
  for sample in operator.sample_inputs("cpu", torch.float64, requires_grad=True):
    causal, mask = sample.kwargs["is_causal"], sample.kwargs.get("attn_mask")
    shapes = [tuple(x.shape) for x in (sample.input, *sample.args)]
    words = f"{shapes} causal {causal} mask {mask is not None}"
    if sample.kwargs["dropout_p"] or any(key.startswith(words) for key in found):
      continue
    rng = np.random.default_rng(len(found))
    given = {n: rng.normal(size=shape) for n, shape in zip("qkv", shapes)}
    if mask is not None:
      given["bias"] = rng.normal(size=tuple(mask.shape))
    inputs = {n: torch.tensor(x, requires_grad=True) for n, x in given.items()}
    out = torch.nn.functional.scaled_dot_product_attention(
      *(inputs[n] for n in "qkv"), attn_mask=inputs.get("bias"), is_causal=causal
    )
    given["g"] = rng.normal(size=tuple(out.shape))
    loss = (out * torch.tensor(given["g"])).sum()
    grads = torch.autograd.grad(loss, list(inputs.values()))
    given["out"] = out.detach().numpy()
    given |= {f"d{n}": x.numpy() for n, x in zip(inputs, grads)}
    found |= {f"{words}.{n}": x for n, x in given.items()}
  return found


def _unguarded(*_):
  """FlexAttention refuses gradients on CPUs, though its eager form has them."""


flex._validate_device = _unguarded


def compare(path: Path, fresh: dict[str, np.ndarray], write: bool) -> bool:
  """Whether the file holds these numbers; made anew if `write`."""
  if write:
    np.savez_compressed(path, **fresh)
  kept = np.load(path)
  gap = max(
    np.abs(np.where(kept[n] == x, 0, kept[n] - x)).max() for n, x in fresh.items()
  )
  same = set(kept) == set(fresh) and gap < 1e-12
  print(f"{path.name}: {len(fresh)} arrays, torch {torch.__version__}, gap {gap:.1e}")
  return same


def main() -> int:
  write = "--write" in sys.argv
  same = compare(SDPA, sdpa_results(), write)
  found = {
    f"{name}.{key}": x
    for name in vocabulary.MODS
    for key, x in flex_results(name).items()
  }
  return 0 if compare(FLEX, found, write) and same else 1


if __name__ == "__main__":
  sys.exit(main())
