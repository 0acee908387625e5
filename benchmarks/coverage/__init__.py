"""Coverage of the confidence intervals, by simulation."""
