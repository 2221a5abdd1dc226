"""The problems on which every implementation of the softmax engine must agree.

Features vary together such that every pair of their values occurs in one problem at
least. `python -m tests.conformance` writes docs/conformance.md: the largest error of
each value of each feature, as a part of what `tests.precision` allows, against the
definition in float64 (`tests.definition`). Every other two problems run in "xla" as
large ones do, in the program with more loops.
"""

import concurrent.futures
import functools
import itertools
import multiprocessing
import os
import random
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from attnjax import attention, masks
from attnjax.core.softmax import xla_dense
from tests import conformance_definition, definition, precision
from tests.suites import HEADING

B = 2
FEATURES = {
  "mask": (
    "none",
    "causal",
    "window",
    "segments",
    "lengths",
    "prefix",
    "array",
    "blocks",
    "per head",
  ),
  "T x S": ("64 x 64", "1 x 65", "7 x 63", "65 x 65", "63 x 7"),
  "heads": ("2 of 2", "4 of 2", "3 of 1", "1 of 1"),
  "H, V": ("16, 16", "24, 8", "8, 40"),
  "type": ("float32", "bfloat16"),
  "bias": ("none", "(1, 1, T, S)", "(B, N, T, S)", "(1, N, 1, S)", "(B, 1, T, 1)"),
  "score": ("none", "ALiBi", "relative table", "document decay"),
  "softcap": ("none", "3"),
  "sinks": ("no", "yes"),
  "dropout": ("none", "0.25"),
  "lse gradient": ("no", "yes"),
  "positions": ("default", "offset", "of each example"),
}


@functools.cache
def problems(seed: int = 0) -> tuple[dict[str, str], ...]:
  """Few problems in which every pair of values of two features occurs."""
  rng = random.Random(seed)
  names = list(FEATURES)
  missing = {
    frozenset([(a, x), (b, y)])
    for a, b in itertools.combinations(names, 2)
    for x, y in itertools.product(FEATURES[a], FEATURES[b])
  }
  found = []
  while missing:
    start = dict(sorted(rng.choice(sorted(map(sorted, missing)))))
    best, most = start, -1
    for _ in range(60):
      problem = {n: start.get(n) or rng.choice(FEATURES[n]) for n in names}
      pairs = itertools.combinations(problem.items(), 2)
      new = sum(frozenset(pair) in missing for pair in pairs)
      if new > most:
        best, most = problem, new
    missing -= {frozenset(p) for p in itertools.combinations(best.items(), 2)}
    found.append({n: best[n] for n in names})
  return tuple(found)


def _sizes(problem):
  T, S = map(int, problem["T x S"].split(" x "))
  N, K = map(int, problem["heads"].split(" of "))
  H, V = map(int, problem["H, V"].split(", "))
  return T, S, N, K, H, V


def arrays(problem) -> dict[str, jax.Array]:
  """The arguments with gradients, in the problem's type."""
  T, S, N, K, H, V = _sizes(problem)
  shapes = {"q": (B, T, N, H), "k": (B, S, K, H), "v": (B, S, K, V)}
  if problem["bias"] != "none":
    known = {"1": 1, "B": B, "N": N, "T": T, "S": S}
    letters = problem["bias"].strip("()").split(", ")
    shapes["bias"] = tuple(known[letter] for letter in letters)
  if problem["sinks"] == "yes":
    shapes["sinks"] = (N,)
  match problem["score"]:
    case "ALiBi":
      shapes["slopes"] = (N,)
    case "relative table":
      shapes["table"] = (N, 256)
    case "document decay":
      shapes["rate"] = ()
  keys = jax.random.split(jax.random.key(7), len(shapes))
  return {
    name: jax.random.normal(key, shape, "float32").astype(
      problem["type"] if name in ("q", "k", "v", "bias") else "float32"
    )
    for key, (name, shape) in zip(keys, shapes.items())
  }


def _mask(problem):
  T, S, N, *_ = _sizes(problem)
  rng = np.random.default_rng(1)
  match problem["mask"]:
    case "causal":
      return {"is_causal": True}
    case "window":
      return {"local_window_size": (9, 4)}
    case "segments":
      ids, kv_ids = (jnp.asarray(np.sort(rng.integers(-1, 3, (B, n)))) for n in (T, S))
      return {"segment_ids": ids, "kv_segment_ids": kv_ids}
    case "lengths":
      queries, keys = jnp.array([T, max(1, T // 2)]), jnp.array([S // 3, S])
      return {"query_seq_lengths": queries, "key_value_seq_lengths": keys}
    case "prefix":
      return {"mask": masks.prefix_lm(jnp.array([3, S // 2]))}
    case "array":  # some rows see nothing
      array = rng.random((B, 1, T, S)) < 0.6
      array[0, :, : T // 3] = False
      return {"mask": jnp.asarray(array)}
    case "blocks":
      lists = rng.integers(0, -(-S // 16), (B, N, -(-T // 16), 2)).astype(np.int32)
      count = rng.integers(0, 3, lists.shape[:3]).astype(np.int32)
      lists, count = jnp.asarray(lists), jnp.asarray(count)
      return {"mask": masks.Blocks(lists, count, 16, 16, T, S)}
    case "per head":
      kinds = [masks.Causal(), masks.Window(5, 5), masks.Dilated(2), masks.Full()]
      return {"mask": masks.per_head(kinds[:N])}
  return {}


def _score(problem, given):
  document = jnp.arange(512) // 3
  match problem["score"]:
    case "ALiBi":
      return lambda score, b, n, q, k: score - 0.05 * given["slopes"][n] * abs(q - k)
    case "relative table":
      table = given["table"]
      return lambda score, b, n, q, k: score + table[n, jnp.clip(q - k + 128, 0, 255)]
    case "document decay":
      rate = given["rate"]
      return lambda score, b, n, q, k: (
        score - 0.1 * rate * abs(document[q] - document[k])
      )
  return None


def call(problem, given, impl):
  """(out, lse) of a problem."""
  T, S, *_ = _sizes(problem)
  options = _mask(problem)
  if problem["softcap"] != "none":
    options["softcap"] = float(problem["softcap"])
  if problem["dropout"] != "none":
    options["dropout_rate"] = float(problem["dropout"])
    options["dropout_rng"] = jax.random.key(5)
  match problem["positions"]:
    case "offset":
      options["query_positions"] = 11
    case "of each example":
      options["query_positions"] = jnp.array([2, 20])
      options["key_positions"] = jnp.arange(S)[::-1][None]
  return attention.dot_product_attention(
    *(given[n] for n in "qkv"),
    given.get("bias"),
    score=_score(problem, given),
    sinks=given.get("sinks"),
    return_lse=True,
    impl=impl,
    **options,
  )


def cotangents(problem) -> tuple[np.ndarray, np.ndarray]:
  """Of out, in the problem's type, and of lse."""
  T, _, N, _, _, V = _sizes(problem)
  g = np.cos(np.arange(B * T * N * V, dtype=np.float32)).reshape(B, T, N, V)
  g_lse = np.zeros((B, T, N), np.float32)
  if problem["lse gradient"] == "yes":
    g_lse = np.cos(3 * np.arange(g_lse.size, dtype=np.float32)).reshape(g_lse.shape)
  return g.astype(definition.TYPES[problem["type"]]), g_lse


def results(problem, impl, given) -> dict[str, jax.Array]:
  """out, lse and every gradient."""
  g, g_lse = cotangents(problem)

  def loss(given):
    out, lse = call(problem, given, impl)
    total = jnp.sum(out.astype(lse.dtype) * g.astype(lse.dtype))
    total += jnp.sum(jnp.where(jnp.isfinite(lse), lse, 0.0) * g_lse)
    return total, (out, lse)

  (_, (out, lse)), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(given)
  return {"out": out, "lse": lse} | {f"d{n}": g for n, g in grads.items()}


@functools.cache
def _definitions(index: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
  """The results in float64, and by the plain formula in the problem's type."""
  words = problems()[index]
  T, S, N, *_ = _sizes(words)
  sizes, given = (B, T, S, N), arrays(words)
  exact = conformance_definition.problem(words, sizes, given, _mask(words))
  g, g_lse = cotangents(words)
  exact |= {"g": g.astype("float64"), "g_lse": g_lse.astype("float64")}
  want = definition.exact(exact, words["type"])
  plain = definition.plain(exact, words["type"])
  return tuple(conformance_definition.summed(words, sizes, x) for x in (want, plain))


def excess(index: int, impl: str) -> dict[str, float]:
  """The error of each result as a part of what it may be: at most 1 is right."""
  problem = problems()[index]
  # Half of the problems as if they were large, in tiles.
  largest = 0 if index & 2 else xla_dense.MATRIX
  with mock.patch.object(xla_dense, "MATRIX", largest):
    got = results(problem, impl, arrays(problem))
  return precision.excess(got, *_definitions(index), problem["type"])


def table(found: dict[tuple[int, str], float]) -> str:
  """Markdown: the largest excess of each value of each feature, by implementation.

  Args:
    found: (number of the problem, implementation) -> the largest excess there.
  """
  impls = sorted({impl for _, impl in found}, key=attention.IMPLEMENTATIONS.index)
  lines = [
    "| feature | value | " + " | ".join(impls) + " |",
    "|---|---|" + "---|" * len(impls),
  ]
  for feature, values in FEATURES.items():
    for value in values:
      cells = []
      for impl in impls:
        own = [
          (error, problems()[i]["type"])
          for (i, name), error in found.items()
          if name == impl and problems()[i][feature] == value
        ]
        cells.append(
          ", ".join(
            f"{max(e for e, kind in own if kind == dtype):.2f}"
            for dtype in FEATURES["type"]
            if any(kind == dtype for _, kind in own)
          )
        )
      lines.append(f"| {feature} | {value} | " + " | ".join(cells) + " |")
  return "\n".join(lines)


PAGE = Path(__file__).parent.parent / "docs" / "conformance.md"
HEAD = """# Conformance of the softmax engine

Made by `python -m tests.conformance`. Each of {count} problems varies all features
together, such that every pair of values occurs; each runs in every implementation,
forward and with all gradients (q, k, v, bias, sinks, what score functions capture).
`pallas` runs in the TPU simulator (NaN-filled memory), `triton` in its interpreter.

A cell is the largest error of the problems with that value as a part of what it may be,
of float32 inputs, then of bfloat16 inputs: 1.00 would be the limit, and nothing is held
to a fixed number. The error of a result, against the definition in float64, may be
twice that of the plain formula computed in the same type, of a gradient three times,
and {ulps32:g} units in the last place in float32, {ulps16:g} in bfloat16, more (where
the plain formula happens to be exact). An output's error is measured by its largest
element, a gradient's by what its terms add up to without their signs: over keys, and in
quadrature over rows, which are rounded apart from each other.

"""


def worst(index: int) -> dict[str, float]:
  """The largest excess of a problem in each implementation."""
  from tests import simulate

  with simulate.accelerators(detect_races=False):
    return {i: max(excess(index, i).values()) for i in attention.IMPLEMENTATIONS}


def main() -> None:
  """Writes the page."""
  spawn = multiprocessing.get_context("spawn")
  with concurrent.futures.ProcessPoolExecutor(os.cpu_count(), spawn) as pool:
    found = {}
    for index, each in enumerate(pool.map(worst, range(len(problems())))):
      found |= {(index, impl): part for impl, part in each.items()}
      print(index, {impl: f"{part:.2f}" for impl, part in each.items()}, flush=True)
  PAGE.parent.mkdir(exist_ok=True)
  places = precision.LAST_PLACES
  head = HEAD.format(
    count=len(problems()), ulps32=places["float32"], ulps16=places["bfloat16"]
  )
  _, heading, rest = PAGE.read_text(encoding="utf-8").partition(HEADING)
  text = f"{head}{table(found)}\n\n{heading}{rest}"
  PAGE.write_text(text.rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
  main()
