"""The papers' claims, measured by one protocol.

A system's claims are in `experiments.claims.systems.<slug>`, committed before they are
first measured: CLAIMS, a tuple of what `experiments.claims.claim` has.

  Quality       rows trained and scored alike; a rule about the difference of two rows
  Cost          seconds, numbers or bytes against size; a rule about exponent or ratio
  NotTestable   a claim that cannot be measured here, and why

  python -m experiments.claims lightning2

measures them, row by row, and keeps what is measured in runs/claims, so that an
interrupted measurement goes on; results/claims/<slug>.json then has every row, the
rule, the verdict and the hash of the claim file. After a full run nothing in a claim
file changes but mistakes in its code, each named there. A claim that fails stays.

Modules with a function `claims()` of `experiments.claims.bounds` are from before the
protocol; their numbers say so.
"""
