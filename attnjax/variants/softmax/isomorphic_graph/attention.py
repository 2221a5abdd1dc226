"""The function: attention weights as edges, along which tokens gather; and its cases.

Sums along the weights of a softmax are attention: without a transform they are computed
by the softmax engine. Everything else is computed in blocks of queries.
"""

from typing import Any, Unpack

import jax.numpy as jnp
from jaxtyping import Array, Float

from attnjax import attention
from attnjax.contract import Case, check_known
from attnjax.core import softmax
from attnjax.variants.softmax.isomorphic_graph import blocks, paths
from attnjax.variants.softmax.isomorphic_graph.definition import reference
from attnjax.variants.softmax.isomorphic_graph.edges import EDGES, WEIGHTINGS
from attnjax.variants.softmax.isomorphic_graph.paths import Given

IMPLEMENTATIONS = attention.IMPLEMENTATIONS
KINDS = ("gin", "pna", "pna_lm")


def attend(
  q: Float[Array, "B T N H"],
  k: Float[Array, "B S K H"],
  v: Float[Array, "B S K V"],
  second_q: Float[Array, "B T N H"] | None = None,
  second_k: Float[Array, "B S N H"] | None = None,
  own: Float[Array, "B T N V"] | None = None,
  epsilon: Float[Array, "N"] | None = None,
  mixing: Float[Array, ""] | float = 0.0,
  threshold: Float[Array, ""] | float = 0.2,
  *,
  kind: str = "gin",
  as_released: bool = False,
  impl: str = "auto",
  **given: Unpack[Given],
) -> Float[Array, "B T N W"]:
  """Computes what every token gathers along its edges; W = V ("gin"), else 4 V.

  Args:
    q: queries.
    k: keys, K = N.
    v: values.
    second_q: of the weights that are subtracted, `mixing` times ("gin" alone).
    second_k: see `second_q`.
    own: values of the queries' own tokens; v if None (needs T = S).
    epsilon: of each head; epsilon own is added to the sum of "gin".
    mixing: see `second_q`.
    threshold: t of the transform, and of the neighbours of "pna_lm".
    kind: "gin": the sum; "pna": sum, mean, maximum of the neighbours by features, and
      variance; "pna_lm": mean, the neighbour's vector of the greatest norm, variance,
      and that of the least norm.
    as_released: the maximum of "pna" is the own value; where no edge of "pna_lm" is
      above the threshold the first token is the neighbour.
    impl: one of IMPLEMENTATIONS, or "auto".
    **given: see `paths.Given`.

  Raises:
    ValueError: if shapes do not fit, or a number or name is not allowed.
    NotImplementedError: if the named implementation cannot do the problem.
  """
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  _check(q, k, v, second_q, own, kind, given)
  options: dict[str, Any] = {"kind": kind, "as_released": as_released}
  arrays = {"q": q, "k": k, "v": v, "second_q": second_q, "second_k": second_k}
  arrays |= {"own": own, "epsilon": epsilon, "mixing": mixing}
  arrays |= {"threshold": threshold}
  if impl == "reference":
    return reference(**arrays, **options, **given)
  arrays["own"] = v if own is None else own
  return paths.gathered(arrays, impl, given, **options).astype(v.dtype)


def adjacency(
  q: Float[Array, "B T N H"],
  k: Float[Array, "B S N H"],
  second_q: Float[Array, "B T N H"] | None = None,
  second_k: Float[Array, "B S N H"] | None = None,
  mixing: Float[Array, ""] | float = 0.0,
  threshold: Float[Array, ""] | float = 0.2,
  **given: Unpack[Given],
) -> Float[Array, "B N T S"]:
  """Computes the weights of all edges, in memory O(T S N); see `attend`."""
  arrays = {"q": q, "k": k, "second_q": second_q, "second_k": second_k}
  arrays |= {"mixing": mixing, "threshold": threshold}
  part, rest = paths.parts(arrays, given)
  return blocks.adjacency(0, part, rest).found


def _check(q, k, v, second_q, own, kind, given: Given) -> None:
  """Raises ValueError for arguments that do not fit."""
  softmax.check(q, k, v)
  check_known("kind", kind, KINDS)
  check_known("edges", given.get("edges", "none"), EDGES)
  check_known("weighting", given.get("weighting", "softmax"), WEIGHTINGS)
  if k.shape[2] != q.shape[2]:
    raise ValueError(f"{k.shape[2]} heads of k, {q.shape[2]} of q: a head is a graph")
  if second_q is not None and kind != "gin":
    raise ValueError(f"second_q with kind {kind!r}; only 'gin' subtracts weights")
  if own is None and q.shape[1] != k.shape[1]:
    raise ValueError(f"{q.shape[1]} queries and {k.shape[1]} keys: own is needed")
  if not given.get("keep_keys", 1) >= 1 or not 0 < given.get("keep_ratio", 1.0) <= 1:
    raise ValueError(
      f"keep_keys = {given.get('keep_keys')}, keep_ratio = {given.get('keep_ratio')}:"
      " at least 1, and in (0, 1]"
    )


def _shapes(B, T, S, N, H, V):
  return {"q": (B, T, N, H), "k": (B, S, N, H), "v": (B, S, N, V)}


def _packed(_):
  return jnp.array([[3] * 6 + [-1] * 2 + [1] * 7, [-1] * 3 + [2] * 12])


_SECOND = {"second_q": (2, 13, 2, 4), "second_k": (2, 13, 2, 4), "mixing": ()}
CASES = (
  Case(
    "difference",
    _shapes(2, 13, 13, 2, 4, 5) | _SECOND | {"epsilon": (2,)},
  ),
  Case(
    "norms_of_packed_rows",
    _shapes(2, 15, 15, 3, 4, 2),
    {"kind": "pna_lm", "edges": "silu_below", "threshold": 0.2}
    | {"segment_ids": _packed},
  ),
  Case(
    "sparse",
    {"q": (2, 15, 2, 4), "k": (2, 15, 2, 4), "u": (2, 15, 3)},
    {"segment_ids": _packed, "least": 0.5},
    function="messages",
  ),
)
_KERNELS = ("norms_of_packed_rows", "sparse")
REFUSED = {"pallas": _KERNELS, "triton": _KERNELS}
