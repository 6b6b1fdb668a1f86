"""Every agent and every competitor on measured landscapes, against the estimator's own optimum and the ground truth."""
