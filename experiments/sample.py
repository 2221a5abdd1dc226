"""Text from a saved language model of bytes, through its caches.

python -m experiments.sample --workdir runs/lm --prompt "In the beginning"
python -m experiments.sample --workdir runs/lm --policy delta:pages=64
python -m experiments.sample --workdir runs/lm --policy quest:budget=64
"""

import argparse
import sys
from typing import Any

import numpy as np

from experiments import checks, decoding, errors, generation
from experiments.open_run import open_run


def main(argv: list[str] | None = None) -> int:
  """Prints each sample, the prompt before it."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--workdir", required=True, help="the folder of the run")
  parser.add_argument("--prompt", default="\n", help="default: an empty line")
  parser.add_argument("--length", type=int, default=300, help="bytes to add")
  parser.add_argument(
    "--temperature", type=float, default=0.8, help="default 0.8; 0: the likeliest byte"
  )
  parser.add_argument("--seed", type=int, default=0, help="of the first sample")
  parser.add_argument("--count", type=int, default=1, help="samples, one seed each")
  parser.add_argument(
    "--checkpoint", default="latest", help="latest, best, or a step; default latest"
  )
  parser.add_argument(
    "--policy",
    default=decoding.FULL,
    help="which keys tokens see: full, or a policy, its options after a colon:"
    " delta:pages=64,recent_pages=8 or quest:budget=64; see experiments.decoding",
  )
  flags = parser.parse_args(argv)
  prompt, policy = _checked(flags)
  saved = open_run(flags.workdir, flags.checkpoint)
  task = saved.assembly.task
  if task.decode is None or task.kind != "tokens":
    raise errors.UserError(f"data set {task.name!r} is no text: nothing to sample")
  for seed in range(flags.seed, flags.seed + flags.count):
    tokens = generation.sample(
      saved.model,
      prompt,
      flags.length,
      temperature=flags.temperature,
      seed=seed,
      dtype=saved.assembly.config.dtype,
      policy=policy,
    )
    if flags.count > 1:
      print(f"--- seed {seed}")
    print(flags.prompt + task.decode(tokens))
  return 0


def _checked(flags) -> tuple[np.ndarray, Any]:
  """Returns the prompt's bytes and the policy; refuses bad flags before all else."""
  if flags.count < 1:
    raise errors.UserError(f"--count = {flags.count}; it must be 1 or more")
  try:
    prompt = np.frombuffer(checks.utf8("--prompt", flags.prompt), np.uint8)
    generation.check(prompt, flags.length, flags.temperature)
    policy = decoding.policy(flags.policy)
    for seed in (flags.seed, flags.seed + flags.count - 1):
      if not -(2**63) <= seed < 2**63:
        raise ValueError(f"--seed = {seed}; it must have 64 bits")
  except ValueError as error:
    raise errors.UserError(str(error)) from None
  return prompt.astype(np.int32), policy


if __name__ == "__main__":
  sys.exit(errors.guard(main))
