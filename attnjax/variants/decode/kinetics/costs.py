"""Costs of generation in eFLOPs, coverage of trials, and the best for a budget."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from attnjax.contract import check_known

INTENSITY = 562.5  # floating-point operations a byte, a device of B200's class
TERA = 1e12
RULES = ("integral", "sum", "released_topk", "released_block")


class Size(NamedTuple):
  """A model, as costs see it.

  Attributes:
    parameters: P.
    heads: N, query heads.
    kv_heads: K, key/value heads.
    width: d, head size times layers.
  """

  parameters: float
  heads: float
  kv_heads: float
  width: float


class Cost(NamedTuple):
  """Costs of `trials` generations.

  Attributes:
    compute: 10^12 floating-point operations.
    memory: 10^12 bytes that are read from the cache.
  """

  compute: Any
  memory: Any


def qwen3() -> dict[str, Size]:
  """Returns the models of the paper's sweep, Qwen3 of 0.6B to 32B, by their names."""
  rows = {
    "0.6B": (0.752, 16, 28),
    "1.7B": (2.03, 16, 28),
    "4B": (4.02, 32, 36),
    "8B": (8.19, 32, 36),
    "14B": (14.77, 40, 40),
    "32B": (32.76, 64, 64),
  }
  return {n: Size(P * 1e9, heads, 8, 128 * L) for n, (P, heads, L) in rows.items()}


def dense(size: Size, context, generated, trials=1, *, batch: int = 0) -> Cost:
  """Computes the cost of full attention; trials share the context's keys.

  compute = n (2 P G + 2 (2 C + G) G N d), memory = 2 (2 C + n G) G K d of 2-byte keys
  and values; arXiv:2506.05333.

  Args:
    size: of the model.
    context: C, tokens of the prompt.
    generated: G, tokens of each trial.
    trials: n.
    batch: rows that share a read of the parameters, 2 P / batch bytes a token; 0 for
      so many that it costs nothing.
  """
  P, N, K, d = size
  C, G, n = (np.asarray(x, np.float64) for x in (context, generated, trials))
  compute = n * (2 * P * G + 2 * (2 * C + G) * G * N * d)
  memory = 2 * (2 * C + n * G) * G * K * d
  return Cost(compute / TERA, (memory + _parameters(P, G, n, batch)) / TERA)


def topk(
  size: Size,
  context,
  generated,
  trials=1,
  *,
  budget: int,
  rule: str = "integral",
  batch: int = 0,
) -> Cost:
  """Computes the cost of attention to the best `budget` tokens, found for nothing.

  compute = n (2 P G + 4 R N d), memory = 4 n R K d, R of `reads`; trials choose tokens
  of their own, so that they share no read.

  Args:
    size: of the model.
    context: C.
    generated: G.
    trials: n.
    budget: b, tokens that a query reads.
    rule: as in `reads`.
    batch: as in `dense`.
  """
  P, N, K, d = size
  G, n = (np.asarray(x, np.float64) for x in (generated, trials))
  R = reads(context, generated, budget, rule=rule)
  memory = 4 * n * R * K * d + _parameters(P, G, n, batch)
  return Cost(n * (2 * P * G + 4 * R * N * d) / TERA, memory / TERA)


def block_topk(
  size: Size,
  context,
  generated,
  trials=1,
  *,
  local: int = 256,
  block: int = 16,
  blocks: int = 64,
  rule: str = "integral",
  batch: int = 0,
) -> Cost:
  """Computes the cost of attention to the best blocks, and of finding them.

  As `topk` with b = local + block blocks; a query also reads one pooled key of 2 bytes
  a block: floor((2 C + G) / s) G N d operations a trial, and floor((2 C + n G) / s) G K
  d bytes in all.

  Args:
    size: of the model.
    context: C.
    generated: G.
    trials: n.
    local: w, the last tokens, which are read in any case.
    block: s, tokens of a block.
    blocks: k, blocks that a query reads.
    rule: as in `reads`.
    batch: as in `dense`.
  """
  _, N, K, d = size
  C, G, n = (np.asarray(x, np.float64) for x in (context, generated, trials))
  budget = local + block * blocks
  found = topk(size, context, generated, trials, budget=budget, rule=rule, batch=batch)
  compute = n * np.floor((2 * C + G) / block) * G * N * d
  memory = np.floor((2 * C + n * G) / block) * G * K * d
  return Cost(found.compute + compute / TERA, found.memory + memory / TERA)


def reads(context, generated, budget, *, rule: str = "integral") -> Any:
  """Returns R, the tokens that the queries of a trial read: each min(C + t, b).

  Args:
    context: C.
    generated: G; t runs from 1 to G.
    budget: b.
    rule: "sum" over the queries; "integral" over t from 0, as the cost of full
      attention has it: less by half of the queries that read all. The authors' code
      has the wrong sign in "released_topk", and in both the wrong case where b is more
      than C + G.

  Raises:
    ValueError: for an unknown rule.
  """
  check_known("rule", rule, RULES)
  C, G, b = (np.asarray(x, np.float64) for x in (context, generated, budget))
  less = np.maximum(b - C, 0.0)
  if rule.startswith("released"):
    return b * G + (0.5 if rule == "released_topk" else -0.5) * less**2
  grows = np.minimum(less, G)  # queries that read all, or nearly
  before = C * grows + (grows**2 + (grows if rule == "sum" else 0.0)) / 2
  return before + b * (G - grows)


def eflops(cost: Cost, intensity: float | int = INTENSITY) -> Any:
  """Returns compute + intensity x memory, in 10^12 eFLOPs.

  Args:
    cost: of generations.
    intensity: I, operations that a device does while it reads a byte; 0 counts
      operations alone.
  """
  return cost.compute + intensity * cost.memory


def coverage(right, drawn: int, trials) -> Any:
  """Returns the probability that one of `trials` samples is right.

  1 - binom(m - r, n) / binom(m, n), without bias.

  Args:
    right: r, right samples among the drawn ones.
    drawn: m.
    trials: n.

  Raises:
    ValueError: where r or n is not within 0 to m.
  """

  def one(r, n):
    if not (0 <= r <= drawn and 0 <= n <= drawn):
      raise ValueError(f"r = {r}, n = {n}: within 0 to m = {drawn}")
    return 1.0 - math.comb(drawn - int(r), int(n)) / math.comb(drawn, int(n))

  return np.vectorize(one, otypes=[np.float64])(right, trials)


def frontier(points: Any, budgets: Any) -> np.ndarray:
  """Returns the best result that each budget pays for, nan where it pays for none.

  Args:
    points: pairs (cost, result), (M, 2).
    budgets: (R,), in the unit of the costs.
  """
  cost, result = np.asarray(points, np.float64).reshape(-1, 2).T
  found = [result[cost <= budget] for budget in budgets]
  return np.array([some.max() if some.size else np.nan for some in found])


def truncated(
  traces: Sequence[Sequence[bool]],
  length: int,
  cost: Callable[[int], float],
) -> tuple[float, float]:
  """Returns the (mean cost, share right) of long traces that are cut at a length.

  Args:
    traces: of each, whether the answer is right if it is cut after 1, 2, ... tokens.
    length: tokens of a trace at most, 1 or more.
    cost: of a trace of so many tokens.

  Raises:
    ValueError: for a length below 1 or an empty trace.
  """
  if length < 1 or not all(len(trace) for trace in traces):
    raise ValueError(f"length = {length}: traces and cuts have 1 token or more")
  kept = [min(length, len(trace)) for trace in traces]
  right = [trace[n - 1] for trace, n in zip(traces, kept)]
  return float(np.mean([cost(n) for n in kept])), float(np.mean(right))


def _parameters(P, G, n, batch) -> Any:
  """Returns the bytes of 2-byte parameters that are read for n trials of G tokens."""
  return 2 * P * G * n / batch if batch else 0.0
