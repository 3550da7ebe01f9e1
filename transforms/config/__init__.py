"""Options, policy and configuration of a run."""
