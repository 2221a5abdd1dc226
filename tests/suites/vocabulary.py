"""FlexAttention's vocabulary: masks and score functions, in jax.numpy or in PyTorch.

Each entry of MODS takes (xp, arrays) and gives (mask_mod, score_mod), either may be
None; `arrays` are those of `captured()`. What a score function captures has gradients.
"""

import numpy as np

B, H, T, D = 2, 2, 18, 4
ROWS, COLUMNS = 3, 6  # the grid of the two-dimensional ones
GROUPED = ("softcap_alibi_causal_grouped", "document_grouped")  # one key head
LEARNED = ("slopes", "table", "grid_table", "absolute", "gain", "embedding")


def problem(name: str) -> dict[str, np.ndarray]:
  """q, k, v, the cotangents of out and of lse, float64."""
  rng = np.random.default_rng(sum(map(ord, name)))
  heads = 1 if name in GROUPED else H
  shapes = {"q": (B, H, T, D), "k": (B, heads, T, D), "v": (B, heads, T, D)}
  shapes |= {"g": (B, H, T, D), "g_lse": (B, H, T)}
  return {key: rng.normal(size=shape) for key, shape in shapes.items()}


def captured() -> dict[str, np.ndarray]:
  """The arrays that the functions read."""
  rng = np.random.default_rng(5)
  parent = [max(0, (i - 1) // 2) for i in range(T)]
  ancestor = np.eye(T, dtype=bool)
  for i in range(1, T):
    ancestor[i] |= ancestor[parent[i]]
  return {
    "prefix": np.array([3, 11]),
    "documents": np.sort(rng.integers(0, 4, (B, T)), axis=1),
    "lengths": np.array([T, 7]),
    "widths": np.array([2, 9]),
    "ancestor": ancestor,
    "blocks": rng.random((H, T // 3, T // 3)) < 0.5,
    "slopes": np.array([0.5, 0.125]),
    "table": rng.normal(size=(H, 2 * T - 1)),
    "grid_table": rng.normal(size=(2 * ROWS - 1, 2 * COLUMNS - 1)),
    "absolute": rng.normal(size=(B, H, T, T)),
    "gain": np.array([1.5, -0.5]),
    "embedding": rng.normal(size=(T,)),
  }


def _natten(xp, a):
  def mask(b, h, q, k):
    near = []
    for x, y, size, window in (
      (q // COLUMNS, k // COLUMNS, ROWS, 3),
      (q % COLUMNS, k % COLUMNS, COLUMNS, 3),
    ):
      centre = xp.clip(x, window // 2, size - 1 - window // 2)
      near.append(abs(centre - y) <= window // 2)
    return near[0] & near[1]

  return mask, None


def _tiles(xp, a):
  def mask(b, h, q, k):
    rows = abs(q // COLUMNS - k // COLUMNS) <= 1
    return rows & (abs(q % COLUMNS // 2 - k % COLUMNS // 2) <= 1)

  return mask, None


def _diffusion(xp, a):
  half, size = T // 2, 3

  def mask(b, h, q, k):
    query, key = q % half // size, k % half // size
    noised = (q < half) & (k < half) & (query == key)
    past = (q < half) & (k >= half) & (query > key)
    return noised | past | ((q >= half) & (k >= half) & (query >= key))

  return mask, None


def causal(b, h, q, k):
  return q >= k


def documents(a):
  return lambda b, h, q, k: a["documents"][b, q] == a["documents"][b, k]


def alibi(a):
  return lambda score, b, h, q, k: score + a["slopes"][h] * (k - q)


def _capped(xp, a):
  return causal, lambda score, b, h, q, k: alibi(a)(
    3.0 * xp.tanh(score / 3.0), b, h, q, k
  )


MASKS = {
  "causal": lambda xp, a: causal,
  "sliding_window": lambda xp, a: lambda b, h, q, k: (q >= k) & (q - k <= 6),
  "prefix_lm": lambda xp, a: lambda b, h, q, k: (k < a["prefix"][b]) | (q >= k),
  "document": lambda xp, a: documents(a),
  "document_grouped": lambda xp, a: documents(a),
  "causal_document": lambda xp, a: (
    lambda b, h, q, k: causal(b, h, q, k) & documents(a)(b, h, q, k)
  ),
  "dilated_sliding_window": lambda xp, a: (
    lambda b, h, q, k: (abs(q - k) <= 6) & ((q - k) % 2 == 0)
  ),
  "tree": lambda xp, a: lambda b, h, q, k: a["ancestor"][q, k],
  "global_and_window": lambda xp, a: (
    lambda b, h, q, k: (q < 2) | (k < 2) | (abs(q - k) <= 3)
  ),
  "strided": lambda xp, a: (
    lambda b, h, q, k: (q >= k) & ((q - k < 4) | ((q - k) % 4 == 0))
  ),
  "chunked": lambda xp, a: lambda b, h, q, k: (q // 5 == k // 5) & (q >= k),
  "padding": lambda xp, a: (
    lambda b, h, q, k: (q < a["lengths"][b]) & (k < a["lengths"][b])
  ),
  "window_of_each_head": lambda xp, a: lambda b, h, q, k: abs(q - k) <= a["widths"][h],
  "random_blocks": lambda xp, a: (
    lambda b, h, q, k: a["blocks"][h, q // 3, k // 3] | (q == k)
  ),
}
SCORES = {
  "softcap": lambda xp, a: lambda score, b, h, q, k: 2.0 * xp.tanh(score / 2.0),
  "alibi": lambda xp, a: alibi(a),
  "relative_bias": lambda xp, a: (
    lambda score, b, h, q, k: score + a["table"][h, q - k + T - 1]
  ),
  "absolute_bias": lambda xp, a: (
    lambda score, b, h, q, k: score + a["absolute"][b, h, q, k]
  ),
  "gain_of_each_head": lambda xp, a: lambda score, b, h, q, k: score * a["gain"][h],
  "log_distance": lambda xp, a: (
    lambda score, b, h, q, k: score - xp.log(1.0 + abs(q - k) + 0.0 * score)
  ),
  "key_embedding": lambda xp, a: (
    lambda score, b, h, q, k: score * a["embedding"][k] + a["embedding"][q]
  ),
  "grid_relative_bias": lambda xp, a: (
    lambda score, b, h, q, k: (
      score
      + a["grid_table"][
        q // COLUMNS - k // COLUMNS + ROWS - 1, q % COLUMNS - k % COLUMNS + COLUMNS - 1
      ]
    )
  ),
}
MODS = {name: (lambda xp, a, m=m: (m(xp, a), None)) for name, m in MASKS.items()}
MODS |= {name: (lambda xp, a, m=m: (None, m(xp, a))) for name, m in SCORES.items()}
MODS |= {
  "natten": _natten,
  "sliding_tiles": _tiles,
  "block_diffusion": _diffusion,
  "softcap_alibi_causal_grouped": _capped,
}
