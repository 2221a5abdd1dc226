"""Rematerialisation: what `jax.checkpoint` keeps of a block for the backward pass."""

from collections.abc import Callable

import jax

# The policies of jax.checkpoint for a block; "none" saves all, without jax.checkpoint.
REMAT = {
  "none": None,
  "full": jax.checkpoint_policies.nothing_saveable,
  "dots": jax.checkpoint_policies.dots_saveable,
  "dots_no_batch": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


def checkpointed(function: Callable, remat: str) -> Callable:
  """Returns the function, or with `jax.checkpoint` by a policy of REMAT."""
  policy = REMAT[remat]
  return function if policy is None else jax.checkpoint(function, policy=policy)
