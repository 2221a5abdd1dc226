"""The retrieval scores of the authors of the detector, on random rows of attention."""

from collections.abc import Iterator, Mapping

import numpy as np

from attnjax.variants.analysis import head_influence


def compare(
  arrays: Mapping[str, np.ndarray], meta: dict
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
  """(key of the file, attnjax's result, the file's)."""
  hyper = meta["hyper"]
  got = head_influence.accumulate(
    arrays["in.attention"],
    arrays["in.generated"],
    arrays["in.prompt"],
    (hyper["needle_start"], hyper["needle_end"]),
    hyper["topk"],
  )
  yield "out.retrieval_score", got, arrays["out.retrieval_score"]
