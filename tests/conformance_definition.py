"""The problems of `tests.conformance` in the words of `tests.definition`.

Positions, masks, dropout and scores are computed here once more, in NumPy.
"""

from typing import Any

import jax
import numpy as np

from tests import captured
from tests.sweep import softmax_problems


def problem(
  words: dict[str, str],
  sizes: tuple[int, ...],
  arrays: dict[str, Any],
  options: dict[str, Any],
) -> dict[str, Any]:
  """What `definition.attend` takes, without the cotangents.

  Args:
    words: the value of each feature.
    sizes: B, T, S, N.
    arrays: the arguments with gradients.
    options: the arrays of the mask, as the call is given them.
  """
  B, T, S, N = sizes
  found: dict[str, Any] = {
    n: np.asarray(x, np.float64) for n, x in arrays.items() if n in _ATTENDED
  }
  q, k = _positions(words, B, T, S)
  places = q[:, None, :, None], k[:, None, None, :]
  found["scale"] = arrays["q"].shape[-1] ** -0.5
  found["seen"] = np.broadcast_to(_seen(words, sizes, *places, options), (B, N, T, S))
  if words["softcap"] != "none":
    found["softcap"] = float(words["softcap"])
  if words["dropout"] != "none":
    bits = np.asarray(jax.random.bits(jax.random.key(5), (B, N), "uint32"))
    rate = float(words["dropout"])
    found["keep"] = softmax_problems.kept(bits[:, :, None, None], *places, rate)
  if words["score"] != "none":
    found["function"] = _function(words["score"], arrays, *places)
  return found


_ATTENDED = ("q", "k", "v", "bias", "sinks")


def _positions(words, B, T, S):
  first = (S - T) * (words["mask"] == "causal")
  q, k = np.tile(first + np.arange(T), (B, 1)), np.tile(np.arange(S), (B, 1))
  match words["positions"]:
    case "offset":
      q = np.tile(11 + np.arange(T), (B, 1))
    case "of each example":
      q, k = np.array([[2], [20]]) + np.arange(T), k[:, ::-1]
  return q, k


def _seen(words, sizes, q, k, options):
  B, T, S, N = sizes
  # Of each example, in (B, 1, T, 1) and (B, 1, 1, S).
  queries, keys = np.arange(T)[:, None], np.arange(S)
  given = {n: np.asarray(x) for n, x in options.items() if n in _OF_EXAMPLES}
  match words["mask"]:
    case "causal":
      return k <= q
    case "window":
      return (k >= q - 9) & (k <= q + 4)
    case "segments":
      own = given["segment_ids"][:, None, :, None]
      return (own == given["kv_segment_ids"][:, None, None, :]) & (own >= 0)
    case "lengths":
      last, end = (given[n][:, None, None, None] for n in _OF_EXAMPLES[2:])
      return (queries < last) & (keys < end)
    case "prefix":
      return (k < np.array([3, S // 2])[:, None, None, None]) | (k <= q)
    case "array":
      return np.asarray(options["mask"])
    case "blocks":
      return _blocks(options["mask"], sizes)
    case "per head":
      kinds = [k <= q, abs(q - k) <= 5, (q - k) % 2 == 0, k == k]
      return np.concatenate(
        [np.broadcast_to(x, (B, 1, T, S)) for x in kinds[:N]], axis=1
      )
  return np.ones((1, 1, 1, 1), bool)


_OF_EXAMPLES = (
  "segment_ids",
  "kv_segment_ids",
  "query_seq_lengths",
  "key_value_seq_lengths",
)


def _blocks(mask, sizes):
  """Element by element: whether the key's block is among those that count."""
  index, count = np.asarray(mask.index), np.asarray(mask.count)
  B, T, S, N = sizes
  seen = np.zeros((B, N, T, S), bool)
  for b, n, t in np.ndindex(B, N, T):
    listed = index[b, n, t // 16, : count[b, n, t // 16]]
    seen[b, n, t] = np.isin(np.arange(S) // 16, listed)
  return seen


def _function(kind, arrays, q, k):
  """Of scores: (value, slope, the value's slopes by what the function captures)."""

  def function(x):
    one = np.ones_like(x)
    distance = one * abs(q - k).astype(x.dtype)
    match kind:
      case "ALiBi":
        by = -x.dtype.type(0.05) * distance
        slopes = np.asarray(arrays["slopes"], x.dtype)[:, None, None]
        return x + slopes * by, one, {"slopes": by}
      case "relative table":
        table, place = np.asarray(arrays["table"], x.dtype), _place(q, k)
        value = np.stack([own[place[:, 0]] for own in table], axis=1)
        return x + value, one, {"table": one}
    document = np.arange(512) // 3
    by = -x.dtype.type(0.1) * one * abs(document[q] - document[k]).astype(x.dtype)
    return x + np.asarray(arrays["rate"], x.dtype) * by, one, {"rate": by}

  return function


def _place(q, k):
  return np.clip(q - k + 128, 0, 255)


def summed(words: dict[str, str], sizes: tuple[int, ...], found: dict) -> dict:
  """Gradients by what a score function captures, in the shapes of that."""
  B, T, S, N = sizes
  match words["score"]:
    case "ALiBi":
      return captured.summed(found, "slopes", (N,))
    case "relative table":
      q, k = _positions(words, B, T, S)
      place = _place(q[:, None, :, None], k[:, None, None, :])
      return captured.summed(found, "table", (N, 256), place)
    case "document decay":
      return captured.summed(found, "rate", ())
  return found
