"""Costs of a row under a policy: FLOPs of its prompt, bytes of a decoded token.

  FLOPs   P F + 2 N (H + V) pairs + 2 N H (pairs to choose)            of the prompt
  bytes   b (K (H + V) keys + K H (keys to choose)) + b W / batch      a decoded token

for a prompt of P tokens: F the FLOPs of a token's matrix products apart from attention,
pairs of a query and a key in all layers, W parameters that `batch` rows read together,
b bytes of a number. As in Piotr Nawrot et al. The Sparse Frontier. arXiv:2504.17768,
with the products counted in the program, causal pairs, and no FLOPs of a softmax. What
a policy reads it counts itself, by `reads` or `decoded_reads`, and `prompt_reads`.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attnjax import contract
from experiments.training import cost, step


@dataclasses.dataclass(frozen=True)
class Sizes:
  """A model, as its costs see it.

  Attributes:
    layers: that keep keys.
    products: N (H + V), the multiplications of a query and a key, of a layer.
    scores: N H, those of a score.
    key: K H, numbers of a key in a layer.
    value: K V.
    flops: F, of a token, without the attention of any key.
    parameters: of the model.
    width: bytes of a number.
  """

  layers: int
  products: float
  scores: float
  key: float
  value: float
  flops: float
  parameters: int
  width: int


def sizes(model: Any, dtype: str) -> Sizes:
  """Returns the sizes of a language model all of whose layers keep keys."""
  cache = jax.eval_shape(lambda m: m.init_cache(1, 1, jnp.dtype(dtype)), model)
  token = jax.ShapeDtypeStruct((1, 1), jnp.int32)
  trace = jax.eval_shape(lambda m, t: m.trace(t), model, token)
  mixers = [mixer for mixer, _ in cache]
  counts = [mixer.length.shape[0] for mixer in mixers]

  def mean(number) -> float:
    return float(np.average([number(mixer) for mixer in mixers], weights=counts))

  heads = np.mean([one.q.shape[2] for one in trace.heads if one is not None])
  key, value = mean(lambda m: m.keys.shape[-1]), mean(lambda m: m.values.shape[-1])
  made = jax.make_jaxpr(lambda m, t, c: step.cast(m, dtype).step(t, c))
  flops = cost.flops(made(model, token, cache).jaxpr)
  layers = sum(counts)
  return Sizes(
    layers=layers,
    products=float(heads * (key + value)),
    scores=float(heads * key),
    key=mean(lambda m: np.prod(m.keys.shape[-2:])),
    value=mean(lambda m: np.prod(m.values.shape[-2:])),
    flops=flops - layers * 2.0 * float(heads * (key + value)),  # of its own key
    parameters=sum(leaf.size for leaf in jax.tree.leaves(model)),
    width=jnp.dtype(dtype).itemsize,
  )


def of(own: Sizes, policy: Any, prompt: int, length: int, batch: int) -> dict[str, Any]:
  """Returns the costs of a row of `length` tokens, `prompt` of them in one step.

  Args:
    own: the model's sizes.
    policy: None for full attention.
    prompt: its first tokens.
    length: its tokens.
    batch: rows that share a read of the parameters.

  Returns:
    sparsity, of the keys that the decoded tokens could read in all layers, and
    prompt_sparsity, of the pairs of the prompt; keys and keys_to_choose, a token and
    layer; bytes and bytes_of_keys, a token; prompt_flops; kinetics' eflops. What is of
    the prompt is None if the policy chooses in it and does not count.
  """
  policy = policy and policy.fitted(own.layers)
  keys, chosen = decoded(policy, own.layers, prompt, length)
  steps, every = length - prompt, own.layers * _sum(prompt + 1, length)
  of_keys = own.width * (keys * (own.key + own.value) + chosen * own.key) / steps
  found = {
    "sparsity": 1 - keys / every,
    "keys": keys / steps / own.layers,
    "keys_to_choose": chosen / steps / own.layers,
    "bytes_of_keys": of_keys,
    "bytes": of_keys + own.width * own.parameters / batch,
    "eflops": eflops(own, keys, chosen, steps),
  }
  pairs = prompted(policy, own.layers, prompt)
  if pairs is None:
    return found | {"prompt_flops": None, "prompt_sparsity": None}
  flops = prompt * own.flops + 2 * (own.products * pairs[0] + own.scores * pairs[1])
  share = pairs[0] / (own.layers * _sum(1, prompt))
  return found | {"prompt_flops": flops, "prompt_sparsity": 1 - share}


def decoded(policy: Any, layers: int, prompt: int, length: int) -> tuple[float, float]:
  """Returns the keys that all decoded tokens read: attended to, and to choose."""
  if policy is None:
    return float(layers * _sum(prompt + 1, length)), 0.0
  places = range(prompt + 1, length + 1)
  if hasattr(policy, "decoded_reads"):
    every = [policy.decoded_reads(prompt, n, layers) for n in places]
  else:
    every = [policy.reads(n, layers) for n in places]
  return sum(keys for keys, _ in every), sum(chosen for _, chosen in every)


def prompted(policy: Any, layers: int, prompt: int) -> tuple[float, float] | None:
  """Returns the pairs of a prompt, attended to and to choose; None if not counted."""
  if hasattr(policy, "prompt_reads"):
    return policy.prompt_reads(prompt, layers)
  return None if hasattr(policy, "prefill") else (float(layers * _sum(1, prompt)), 0.0)


def eflops(own: Sizes, keys: float, chosen: float, steps: int) -> float:
  """Returns kinetics' cost of decoding a row, in 10^12 eFLOPs.

  Its `eflops` of 2 P G + 4 N H keys + 2 N H (keys to choose) operations, and of 2-byte
  keys and values that are read; the parameters' reads are shared by all rows.
  """
  kinetics = contract.load("kinetics")
  compute = 2.0 * own.parameters * steps + 2 * own.products * keys
  compute += 2 * own.scores * chosen
  memory = 2 * ((own.key + own.value) * keys + own.key * chosen)
  return float(kinetics.eflops(kinetics.Cost(compute / 1e12, memory / 1e12)))


def closed(own: Sizes, policy: Any, prompt: int, length: int) -> float | None:
  """Returns the closed formula of `kinetics` for a row, where it has one, in eFLOPs.

  Of full attention, and of its own policy, whose dense layers it does not know.
  """
  kinetics = contract.load("kinetics")
  # N d and K d, of keys and values of one size.
  wide = own.layers * own.products / 2, own.layers * (own.key + own.value) / 2
  model = kinetics.Size(own.parameters, *wide, width=1.0)
  asked = prompt, length - prompt
  if policy is None:
    return float(kinetics.eflops(kinetics.dense(model, *asked)))
  if not isinstance(policy, kinetics.Policy):
    return None
  names = {n: getattr(policy, n) for n in ("local", "block", "blocks")}
  return float(kinetics.eflops(kinetics.block_topk(model, *asked, **names)))


def _sum(first: int, last: int) -> int:
  return (first + last) * (last - first + 1) // 2
