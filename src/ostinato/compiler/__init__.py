"""From a cell to a plan: trace, differentiate, plan; see the module of each step."""
