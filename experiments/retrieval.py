"""Numbers of retrieval: recall at k, ranks and mean average precision.

All begin with scores (Q, I) of queries and items, the greatest first. Items of equal
scores stand in a random order: a number is its expectation over these orders, so that
scores that tell nothing find by chance, neither first nor last. NaN counts as the
lowest score.

  rank = 1 + greater + (equal - 1) / 2        equal counts the item itself
  recall at k = min(1, max(0, (k - greater) / equal))

`exclude` (Q, I) is True at items that are no answer to a query, such as the image that
it refers to; they are not in its list, and its right item is none of them.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int


def recall_at(
  scores: Float[Array, "Q I"],
  right: Int[Array, "Q"],
  k: int,
  exclude: Bool[Array, "Q I"] | None = None,
) -> Float[Array, "Q"]:
  """Computes the chance that each query's right item is among the first k."""
  greater, equal = _ahead(scores, right, _allowed(exclude))
  return jnp.clip((k - greater) / equal, 0, 1)


def recall_within(
  scores: Float[Array, "Q I"],
  right: Int[Array, "Q"],
  subset: Bool[Array, "Q I"],
  k: int,
) -> Float[Array, "Q"]:
  """Computes `recall_at` of each query among a few items, as CIRR's recall_subset.

  Zheyuan Liu et al. Image Retrieval on Real-life Images with Pre-trained
  Vision-and-Language Models. ICCV 2021. arXiv:2108.04024.

  Args:
    scores: of all queries and items.
    right: the right item of each query, which is in its subset.
    subset: True at the items that a query is asked among.
    k: of the recall.
  """
  return recall_at(scores, right, k, ~subset)


def ranks(
  scores: Float[Array, "Q I"],
  right: Int[Array, "Q"],
  exclude: Bool[Array, "Q I"] | None = None,
) -> Float[Array, "Q"]:
  """Computes the expected rank of each query's right item; the first is 1."""
  greater, equal = _ahead(scores, right, _allowed(exclude))
  return 1 + greater + (equal - 1) / 2


def average_precision(
  scores: Float[np.ndarray, "Q I"],
  relevant: Bool[np.ndarray, "Q I"],
  k: int = 0,
  exclude: Bool[np.ndarray, "Q I"] | None = None,
) -> Float[np.ndarray, "Q"]:
  """Computes the expected average precision of each query; 0 without a relevant item.

  With k it is that of the first k items, over the lesser of k and the number of
  relevant items: the AP@k of CIRCO (Alberto Baldrati et al. Zero-Shot Composed Image
  Retrieval with Textual Inversion. ICCV 2023. arXiv:2303.15247).

  A group of n equal scores with r relevant items, behind b items of which R are
  relevant, adds for each place j = 1 ... n the chance r / n of a relevant item times
  the precision there, (R + 1 + (j - 1) (r - 1) / (n - 1)) / (b + j). See Frank
  McSherry, Marc Najork. Computing Information Retrieval Performance Measures
  Efficiently in the Presence of Tied Scores. ECIR 2008.
  """
  scores = np.where(np.isnan(scores), -np.inf, scores)
  kept = np.ones(scores.shape, bool) if exclude is None else ~np.asarray(exclude)
  rows = zip(scores, np.asarray(relevant), kept)
  return np.array([_precision(s[own], r[own], k) for s, r, own in rows])


def of_owners(
  scores: Float[Array, "Q I"], owner: Int[Array, "Q"]
) -> Float[Array, "I I"]:
  """Computes the scores of items and the owners of captions: the best caption counts.

  Row i has the scores of video i with the captions of each video, -inf where a video
  has none; item i is the right one.

  Args:
    scores: of captions and videos.
    owner: the video of each caption; -1 for one that is only padding.
  """
  items = scores.shape[1]
  owner = jnp.where(owner < 0, items, owner)  # which is out of range, and dropped
  return jax.ops.segment_max(scores, owner, num_segments=items).T


def in_batch(
  scores: Float[Array, "B B"], label: Int[Array, "B"], k: int = 0
) -> tuple[Float[Array, ""], Float[Array, ""]]:
  """Computes (the sum of recall at k, or of ranks if k is 0, the number of pairs).

  Args:
    scores: of the pairs of a batch; pair n is right.
    label: -1 at pairs that do not count.
    k: of the recall.
  """
  real, right = label >= 0, jnp.arange(scores.shape[0])
  greater, equal = _ahead(scores, right, real)
  found = jnp.clip((k - greater) / equal, 0, 1) if k else 1 + greater + (equal - 1) / 2
  return jnp.sum(jnp.where(real, found, 0)), jnp.sum(real, dtype=jnp.float32)


def summary(
  scores: Float[Array, "Q I"],
  right: Int[Array, "Q"],
  at: tuple[int, ...] = (1, 5, 10),
  exclude: Bool[Array, "Q I"] | None = None,
) -> dict[str, float]:
  """Computes recall at several k, the median and the mean rank of all queries."""
  recalls = {k: recall_at(scores, right, k, exclude).mean() for k in at}
  found = {f"recall_at_{k}": float(recall) for k, recall in recalls.items()}
  place = ranks(scores, right, exclude)
  middle = float(jnp.median(place))
  return found | {"median_rank": middle, "mean_rank": float(place.mean())}


def _allowed(exclude):
  return True if exclude is None else ~exclude


def _ahead(scores, right, real=True):
  """Returns how many items score above the right one, and how many as it does."""
  scores = jnp.where(jnp.isnan(scores), -jnp.inf, scores.astype(jnp.float32))
  own = jnp.take_along_axis(scores, right[:, None], axis=1)
  above, same = (scores > own) & real, (scores == own) & real
  return above.sum(axis=1), jnp.maximum(same.sum(axis=1), 1)


def _precision(scores, relevant, k):
  first = k or scores.size
  total, before, found = 0.0, 0, 0
  for value in np.unique(scores)[::-1]:
    group = scores == value
    n, r = int(group.sum()), int(relevant[group].sum())
    place = np.arange(1, n + 1)
    precision = (found + 1 + (place - 1) * (r - 1) / max(n - 1, 1)) / (before + place)
    total += r / n * precision[: max(first - before, 0)].sum()
    before, found = before + n, found + r
  return total / max(min(found, first), 1)
