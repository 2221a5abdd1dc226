"""Problems of attention to pages, and their definition by loops in NumPy."""

import numpy as np

# B, N, K, H, V, pages of the pool, page, G, M
SIZES = {
  "one_list": (3, 4, 2, 8, 8, 9, 16, 1, 4),
  "one_token": (1, 1, 1, 16, 16, 1, 16, 1, 1),
  "lists_of_groups": (2, 6, 3, 8, 4, 7, 16, 3, 3),
  "lists_of_heads": (2, 4, 2, 8, 8, 7, 8, 4, 5),
  "odd_pages": (2, 3, 1, 5, 7, 11, 5, 1, 7),
  "many_pages": (2, 8, 8, 16, 16, 24, 16, 1, 20),
}


def arrays(name, dtype=np.float32, seed=0):
  """Returns (q, k, v, table, lengths); rows differ in length, one may be empty."""
  B, N, K, H, V, P, page, G, M = SIZES[name]
  draw = np.random.default_rng(seed)
  shapes = (B, N, H), (P, page, K, H), (P, page, K, V)
  q, k, v = (draw.standard_normal(shape).astype(dtype) for shape in shapes)
  pages = [draw.permutation(P)[:M] for _ in range(B * G)]
  table = np.array(pages, np.int32).reshape(B, G, M)
  lengths = draw.integers(1, M * page + 1, (B, G)).astype(np.int32)
  lengths[0, 0] = M * page
  if B > 1:
    lengths[-1, -1] = 0
  return q, k, v, table, lengths


def expected(q, k, v, table, lengths, scale=None):
  """Returns (out, lse, scores) of loops over rows, lists, heads and pages, float64."""
  (B, N, H), (_, page, K, V), (_, G, M) = q.shape, v.shape, table.shape
  scale = H**-0.5 if scale is None else scale
  q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
  out, lse = np.zeros((B, N, V)), np.full((B, N), -np.inf)
  scores = np.zeros((B, G, M))
  for b, g in np.ndindex(B, G):
    length = lengths[b, g]
    places = [(m, i) for m in range(M) for i in range(page)][:length]
    heads = range(g * N // G, (g + 1) * N // G)
    most = np.zeros(length)
    for n in heads:
      if not length:
        continue
      own = n * K // N
      x = np.array([scale * q[b, n] @ k[table[b, g, m], i, own] for m, i in places])
      rows = np.array([v[table[b, g, m], i, own] for m, i in places])
      lse[b, n] = np.log(np.exp(x - x.max()).sum()) + x.max()
      weight = np.exp(x - lse[b, n])
      out[b, n] = weight @ rows
      most = np.maximum(most, weight)
    for (m, _), share in zip(places, most):
      scores[b, g, m] += share
  return out, lse, scores
