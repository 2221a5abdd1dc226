"""Decoding under every cache policy beside the full cache: bytes, seconds and memory.

A language model of 4 layers, one row, float32, on the default device. A policy's cache
is filled with random keys and values, T tokens a layer, as a prompt's step would fill
it; then single tokens are decoded, each step with a step of the full cache after it, in
one process. A policy that has `of_fraction` gets a share of T as its budget, others
keep their defaults. Of each policy and T there are

  bytes      of keys and values that a step reads, and of what it reads to choose, by
             the policy's own count `reads`; `share` of the full cache's
  choosing   that share in one further layer, where layers that see all do not count
  seconds    of a step, by the clock: the median, and the full cache's beside it
  memory     bytes of the caches, and of the step's temporary arrays
  prompt     seconds and temporary bytes of a prompt of T tokens in one step

With a twentieth of T a layer that chooses must read at most READS of the bytes, unless
its policy chooses in prompts alone.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from attnjax import contract, policies
from attnjax.models import language
from attnjax.ops import policy_prefill
from experiments import decoding
from experiments.bench import timing
from experiments.training import cost

LENGTHS = (1024, 4096, 16384, 65536)
FRACTION, READS = 0.05, 0.08
LAYERS, HEADS, GROUPS, SIZE = 4, 4, 2, 64
# Tokens that a timed step may add to the T of a cache.
ROOM = 32
# After a prompt that takes more seconds, longer ones are not run.
PATIENCE = 5.0


def rows(
  texts: Sequence[str] = (),
  lengths: Sequence[int] = LENGTHS,
  fraction: float = FRACTION,
  keep: Callable[[list[dict]], object] = len,
) -> tuple[list[dict], bool]:
  """Returns (a row for each policy and length, whether all bounds hold).

  Args:
    texts: policies as `experiments.decoding` names them; all if empty.
    lengths: tokens in the cache.
    fraction: share of T that is the budget of policies that take one.
    keep: gets a policy's rows when it is measured, so that a run may be cut short.

  Raises:
    ValueError: for an unknown policy, or a fraction out of its range.
  """
  texts = texts or every()
  known = {text: decoding.policy(text) for text in texts}
  print(_line({}), flush=True)
  full = {length: Steps(model(), None, length) for length in sorted(lengths)}
  found: list[dict] = []
  for text, policy in known.items():
    own: list[dict] = []
    for beside in full.values():
      prompts = all(
        row["prompt"]["seconds"] <= PATIENCE for row in own if row["prompt"]
      )
      own.append(_row(text, policy, beside, fraction, prompts))
      print(_line(own[-1]), flush=True)
    keep(own)
    found += own
  return found, all(row["holds"] for row in found)


def every() -> list[str]:
  """Returns the names of all policies, one each, the full cache first."""
  kinds = {text: type(decoding.policy(text)) for text in decoding.names()}
  return list({kind: text for text, kind in reversed(kinds.items())}.values())[::-1]


def model() -> language.Model:
  """Returns the model whose steps are measured."""
  options = {"heads": HEADS, "kv_heads": GROUPS, "head_dim": SIZE}
  build = contract.constructor("dot_product", options, language.FORMS)
  sizes = {"vocab": 256, "dim": HEADS * SIZE, "depth": LAYERS}
  return language.Model([build], **sizes, rngs=nnx.Rngs(0))


def counted(policy: Any, places: int, layers: int = LAYERS) -> float:
  """Returns the bytes that a step reads in all layers, float32.

  Args:
    policy: fitted to the layers; None for the full cache.
    places: tokens that the row has, the new one included.
    layers: of the model.
  """
  keys, chosen = (
    (layers * places, 0) if policy is None else policy.reads(places, layers)
  )
  return 4.0 * GROUPS * SIZE * (2 * keys + chosen)


def filled(model: Any, ids: Array, *, policy: Any, room: int) -> Any:
  """Returns the caches of random tokens of documents `ids` (1, T), with more room."""
  length = ids.shape[1]
  cache = policies.under(policy, model.init_cache(1, length + room))
  (mixer, conv), *others = cache
  if others:
    raise ValueError(f"{1 + len(others)} mechanisms; the caches of one are filled")
  draws = jax.random.split(jax.random.key(0), (LAYERS, 3))

  def one(mixer, draw):
    sizes = HEADS, GROUPS, GROUPS
    shapes = [(1, length, heads, SIZE) for heads in sizes]
    q, k, v = (jax.random.normal(key, shape) for key, shape in zip(draw, shapes))
    if policy is None:
      return mixer.append(k, v, ids)
    after = mixer.appended(q, k, v, ids)[0]
    return dataclasses.replace(after, prompt=jnp.int32(length))

  return ((jax.vmap(one)(mixer, draws), conv),)


class Steps:
  """Decodes one token after the other, in a cache that is updated in place."""

  def __init__(self, model: Any, policy: Any, length: int):
    self.length = length
    fill = jax.jit(functools.partial(filled, policy=policy, room=ROOM))
    self.cache: Any = fill(model, jnp.zeros((1, length), jnp.int32))
    self.bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(self.cache))
    self.model, self.token = model, jnp.zeros((1, 1), jnp.int32)
    step = jax.jit(lambda m, t, c: m.step(t, c), donate_argnums=2)
    self.step: Any = step.lower(model, self.token, self.cache).compile()

  def again(self) -> "Steps":
    """Returns the steps of a full cache, whose later tokens are forgotten."""
    ((mixer, conv),) = self.cache
    length = jnp.full_like(mixer.length, self.length)
    self.cache = ((dataclasses.replace(mixer, length=length), conv),)
    return self

  def __call__(self) -> None:
    """Decodes a token."""
    logits, self.cache = self.step(self.model, self.token, self.cache)
    jax.block_until_ready((logits, self.cache))


def _row(text: str, policy: Any, full: Steps, fraction: float, prompts: bool) -> dict:
  """Measures a policy beside the full cache of as many tokens."""
  length, budget = full.length, hasattr(policy, "of_fraction")
  policy = policy.of_fraction(fraction, length) if budget else policy
  own = full if policy is None else Steps(full.model, policy, length)
  runs = {"full": full.again()} | ({} if own is full else {"own": own})
  clock = timing.race(runs, seconds=2.0, most=ROOM // 2 - 1)
  fits = None if policy is None else policy.fitted(LAYERS)
  reads, more = (
    [counted(x, length, n) for x in (fits, None)] for n in (LAYERS, LAYERS + 1)
  )
  row: dict[str, Any] = {"policy": text, "options": repr(policy), "T": length}
  row |= {"bytes": reads[0], "full_bytes": reads[1], "share": reads[0] / reads[1]}
  row["choosing"] = (more[0] - reads[0]) / (more[1] - reads[1])
  row["seconds"] = clock["full" if own is full else "own"].median
  row |= {"full_seconds": clock["full"].median, "cache": own.bytes}
  row |= {"full_cache": full.bytes}
  row["temporary"] = cost.memory(own.step)["bytes_temporary"]
  row["prompt"] = _prompt(full.model, policy, length) if prompts else None
  bound = budget and fraction <= FRACTION and not policy_prefill.chooses(policy)
  return row | {"holds": not bound or row["choosing"] <= READS}


def _prompt(model: Any, policy: Any, length: int) -> dict[str, float]:
  """Returns the seconds and the temporary bytes of a prompt in one step."""
  make = jax.jit(lambda m: policies.under(policy, m.init_cache(1, length)))
  tokens = jax.random.randint(jax.random.key(1), (1, length), 0, 256)
  step = jax.jit(lambda m, t, c: m.step(t, c), donate_argnums=2)
  run: Any = step.lower(model, tokens, jax.eval_shape(make, model)).compile()
  seconds = []
  while len(seconds) < 3 and sum(seconds) < 2.0:
    cache = jax.block_until_ready(make(model))
    start = time.perf_counter()
    jax.block_until_ready(run(model, tokens, cache))
    seconds.append(time.perf_counter() - start)
  return {
    "seconds": min(seconds),
    "temporary": float(cost.memory(run)["bytes_temporary"]),
  }


def _line(row: dict) -> str:
  """Formats a row, or the heads of the columns of {}."""
  return "".join(f"{text:>{width}s}" for text, width in _cells(row))


def _cells(row: dict) -> Iterator[tuple[str, int]]:
  columns = {"policy": 34, "T": 7, "MB read": 10, "share": 8, "choosing": 10}
  columns |= {"ms": 9, "full": 9, "cache MB": 10, "prompt s": 10, "": 16}
  if not row:
    yield from columns.items()
    return
  prompt = "-" if row["prompt"] is None else f"{row['prompt']['seconds']:.3g}"
  texts = [row["policy"], str(row["T"]), f"{row['bytes'] / 1e6:.3g}"]
  texts += [f"{row['share']:.3f}", f"{row['choosing']:.3f}"]
  texts += [f"{1e3 * row[n]:.3g}" for n in ("seconds", "full_seconds")]
  texts += [
    f"{row['cache'] / 1e6:.3g}",
    prompt,
    "" if row["holds"] else "DOES NOT HOLD",
  ]
  yield from zip(texts, columns.values())
