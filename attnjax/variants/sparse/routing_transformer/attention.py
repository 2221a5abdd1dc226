"""The operation: its two kinds of clustering, and the definition of both."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from attnjax import attention, backends
from attnjax.contract import Case, check_known, check_options
from attnjax.core import masks
from attnjax.core.recurrence import linear
from attnjax.variants.sparse.routing_transformer import clustered, grouped, kmeans
from attnjax.variants.sparse.routing_transformer.definition import reference
from pallas_kernels.calling import BACKENDS

IMPLEMENTATIONS = attention.IMPLEMENTATIONS
SELECTIONS = ("past", "all")
# Score of a token with itself under share_qk: it counts only if nothing else is seen.
OWN = -5e4


def attend(
  q: Float[Array, "B T N H"],
  k: Float[Array, "B T N H"],
  v: Float[Array, "B T N V"],
  means: Float[Array, "N c R"],
  *,
  cluster_size: int,
  kind: str = "auto",
  causal: bool = False,
  share_qk: bool = False,
  route_q: Float[Array, "B T N R"] | None = None,
  route_k: Float[Array, "B T N R"] | None = None,
  memory_k: Float[Array, "N c M H"] | None = None,
  memory_v: Float[Array, "N c M V"] | None = None,
  segment_ids: Int[Array, "B T"] | None = None,
  valid: Bool[Array, "B T"] | None = None,
  scale: float | None = None,
  eps: float = 1e-5,
  impl: str = "auto",
) -> Float[Array, "B T N V"]:
  """Computes attention inside clusters of tokens, (B, T, N, V).

  Args:
    q: queries.
    k: keys.
    v: values.
    means: the centroids of each head; they have no gradient.
    cluster_size: w, tokens of a cluster.
    kind: "past": a query joins its nearest centroid and sees the w nearest keys of
      its past; "all": each centroid takes the w nearest queries and keys of the
      whole sequence, as published. With "all" later tokens can drive earlier ones out
      of a cluster: the choice depends on the future, the values do not.
      "auto": "past" if causal, else "all".
    causal: a query sees no later key; must be True for "past".
    share_qk: keys are queries: they are normalised to length 1 and routed once, and a
      token sees itself only where it sees no other.
    route_q: vectors by which queries are routed, q if None.
    route_k: vectors by which keys are routed, k if None.
    memory_k: keys of each cluster that all its queries see.
    memory_v: values of the memory keys.
    segment_ids: a document is a run of equal ids; negative ids are padding, which is
      not routed. "all" takes one document.
    valid: False at tokens that see only the memory and are not seen, but do take part
      in the routing; "all" only.
    scale: H^-0.5 if None.
    eps: added to the number of clusters that a token's output is divided by.
    impl: one of IMPLEMENTATIONS, or "auto". With "past", "xla" gathers the keys of
      each query, and the kernels those of groups of queries of a cluster.

  Raises:
    ValueError: if shapes do not fit or a name is unknown.
  """
  check_options(
    impl=(impl, ("auto", *IMPLEMENTATIONS)), kind=(kind, ("auto", *SELECTIONS))
  )
  if kind == "auto":
    kind = "past" if causal else "all"
  _check(q, k, means, cluster_size, kind, causal, valid)
  if impl == "reference":
    given = kind, causal, share_qk, route_q, route_k, memory_k, memory_v
    given = cluster_size, *given, segment_ids, valid, scale, eps
    return reference(q, k, v, means, *given)
  if segment_ids is not None:
    q, k, v = (_blank(x, segment_ids) for x in (q, k, v))
    route_q = None if route_q is None else _blank(route_q, segment_ids)
    route_k = None if route_k is None else _blank(route_k, segment_ids)
  route_q = q if route_q is None else route_q
  route_k = route_q if share_qk else k if route_k is None else route_k
  if share_qk:
    k = kmeans.unit(k).astype(k.dtype)
  if memory_k is None or memory_v is None:
    (N, c, _), (H, V) = means.shape, (k.shape[-1], v.shape[-1])
    memory_k = jnp.zeros((N, c, 0, H), k.dtype)
    memory_v = jnp.zeros((N, c, 0, V), v.dtype)
  problem = clustered.Problem(
    near_q=kmeans.affinity(route_q, means),
    near_k=kmeans.affinity(route_k, means),
    memory=(memory_k, memory_v),
    ids=_documents(segment_ids, q.shape[:2]),
    valid=jnp.ones(q.shape[:2], bool) if valid is None else valid,
    cluster_size=min(cluster_size, q.shape[1]),
    causal=causal,
    own=OWN if share_qk else None,
    scale=q.shape[-1] ** -0.5 if scale is None else scale,
    impl=impl,
  )
  q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
  run = clustered.balanced
  if kind == "past":
    fused = impl in BACKENDS or impl == "auto" and backends.kernels()
    run = grouped.past if fused else clustered.past
  total, count = run(q, k, v, problem)
  out = total / (count[..., None] + eps)
  return out.swapaxes(1, 2).astype(v.dtype)


def check_layer(form: str, kind: str, impl: str) -> None:
  """Raises ValueError unless a layer of the form can have the kind and the impl."""
  check_known("kind", kind, ("auto", *SELECTIONS))
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  if form == "sequence" and kind == "past":
    raise ValueError("kind 'past' is causal; form 'sequence' takes 'all'")


def _check(q, k, means, cluster_size, kind, causal, valid):
  if cluster_size < 1:
    raise ValueError(f"cluster_size = {cluster_size}; a cluster has at least 1 token")
  if q.shape[:3] != k.shape[:3] or means.shape[0] != q.shape[2]:
    raise ValueError(
      f"q {q.shape}, k {k.shape} and means {means.shape} differ in B, T or N"
    )
  if kind == "past" and not causal:
    raise ValueError("kind 'past' is causal; kind 'all' need not be")
  if kind == "past" and valid is not None:
    raise ValueError("kind 'past' takes no `valid`; segment_ids mark the padding")


def _blank(x, ids):
  """Returns x with the rows of padding (negative ids) set to 0."""
  return jnp.where((ids >= 0)[..., None, None], x, 0)


def _documents(segment_ids, shape):
  """Returns the consecutive numbers of the runs of equal ids, -1 at padding."""
  if segment_ids is None:
    return jnp.zeros(shape, jnp.int32)
  filled, real = linear.spans(segment_ids)
  return jnp.where(real, masks.documents(filled), -1)


def _shapes(B, T, N, c, H, V, M=0):
  heads = {"q": (B, T, N, H), "k": (B, T, N, H), "v": (B, T, N, V)}
  memory = {"memory_k": (N, c, M, H), "memory_v": (N, c, M, V)}
  return heads | {"means": (N, c, H)} | (memory if M else {})


def _packed(key: jax.Array) -> jax.Array:
  del key
  ids = [[4] * 9 + [1] * 3 + [-1] * 5 + [1] * 7 + [4] * 15, [-1] * 4 + [2] * 35]
  return jnp.array(ids)


def _padded(key: jax.Array) -> jax.Array:
  del key
  return jnp.where(jnp.arange(33) >= jnp.array([[0], [25]]), 0, -1)


_CAUSAL = {"causal": True}
CASES = (
  Case(
    "all", _shapes(2, 63, 2, 4, 8, 6, 1), _CAUSAL | {"cluster_size": 8, "kind": "all"}
  ),
  Case(
    "padded",
    _shapes(2, 33, 1, 3, 4, 4),
    {
      "cluster_size": 10,
      "segment_ids": _padded,
      "kind": "all",
      "causal": False,
      "share_qk": True,
    },
  ),
  Case("past", _shapes(2, 65, 2, 4, 8, 6, 1), _CAUSAL | {"cluster_size": 9}),
  Case("one_token", _shapes(1, 1, 1, 2, 4, 4), _CAUSAL | {"cluster_size": 3}),
  Case(
    "packed_shared",
    _shapes(2, 39, 2, 3, 4, 4),
    _CAUSAL | {"cluster_size": 5, "segment_ids": _packed, "share_qk": True},
  ),
)
