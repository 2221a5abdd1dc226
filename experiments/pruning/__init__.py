"""The report of pruning: heads, modules, parameters and FLOPs, before and after."""
